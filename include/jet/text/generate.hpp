/// \file
/// Generation over an engine: prompts of different lengths, chunked prefill, greedy or sampled decoding, stop
/// tokens, streaming. Works on token ids; text belongs to the tokenizer.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <iterator>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <jet/core/batch.hpp>
#include <jet/core/error.hpp>
#include <jet/core/view.hpp>
#include <jet/text/sampler.hpp>

JET_NAMESPACE_BEGIN

/// How to go on from a prompt. Sampling as in SampleOptions; temperature 0 is greedy.
struct GenerateOptions {
  i64 max_new = 128;  // tokens at most, per sequence
  double temperature = 0;
  std::int32_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;
  std::uint64_t seed = 0;
  std::vector<std::int32_t> stop_tokens{};  // end a sequence; they are not given out
  /// Called during prefill with (sequence, tokens done, tokens of the prompt).
  std::function<void(i64, i64, i64)> on_prefill{};

  /// Whether the next token is that of the largest logit, which a decode step chooses itself.
  bool greedy() const { return temperature == 0 && repetition_penalty == 1; }
  SampleOptions sampling() const {
    return {.repetition_penalty = repetition_penalty,
            .temperature = temperature,
            .top_k = top_k,
            .top_p = top_p,
            .min_p = min_p,
            .seed = seed};
  }
};

/// Why a sequence ended.
enum class Finish : std::uint8_t { running, stop_token, max_new, max_len, stopped };

constexpr std::string_view name_of(Finish f) {
  switch (f) {
    case Finish::running: return "running";
    case Finish::stop_token: return "stop token";
    case Finish::max_new: return "max_new reached";
    case Finish::max_len: return "max_len reached";
    case Finish::stopped: return "stopped by the caller";
  }
  return "?";
}

/// Tokens and seconds of both phases.
struct GenerateStats {
  i64 prefill_tokens = 0;
  i64 decode_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
  double prefill_rate() const {
    return prefill_seconds > 0 ? static_cast<double>(prefill_tokens) / prefill_seconds : 0;
  }
  double decode_rate() const {
    return decode_seconds > 0 ? static_cast<double>(decode_tokens) / decode_seconds : 0;
  }
};

/// A running generation of one or many prompts. More prompts than the engine has slots wait, and take over a slot
/// when a sequence ends. What a sequence gets does not depend on the others in the batch (sampling included).
template <class E> class Generation {
 public:
  struct Token {
    i64 sequence = 0;
    std::int32_t id = 0;
  };

  Generation(E& engine, std::vector<std::vector<std::int32_t>> prompts, GenerateOptions options)
      : engine_(&engine), options_(std::move(options)), sampler_(options_.sampling(), E::model::config.vocab) {
    JET_CHECK(options_.max_new >= 0, "option max_new is ", options_.max_new, ", expected at least 0");
    i64 const max_len = engine.options().max_len;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      i64 const n = static_cast<i64>(prompts[i].size());
      JET_CHECK(n > 0, "generate: prompt ", i,
                " is empty; give at least one token (a begin-of-text token, if any)");
      JET_CHECK(n <= max_len, "generate: prompt ", i, " has ", n, " tokens, the engine was made for max_len ",
                max_len);
      sequences_.push_back({std::move(prompts[i]), n, Finish::running, 0});
      waiting_.push_back(static_cast<i64>(i));
    }
    slots_.assign(static_cast<std::size_t>(engine.options().slots), -1);
  }

  /// The next token of any sequence; none when all have ended.
  std::optional<Token> next() {
    while (ready_.empty()) {
      if (!advance()) {
        return std::nullopt;
      }
    }
    Token const t = ready_.front();
    ready_.pop_front();
    return t;
  }

  /// Ends a sequence early (a stop string was found); tokens already chosen for it are dropped.
  void stop(i64 sequence) {
    if (at(sequence).finish == Finish::running) {
      at(sequence).finish = Finish::stopped;
    }
    std::erase_if(ready_, [&](Token const& t) { return t.sequence == sequence; });
  }

  i64 size() const { return static_cast<i64>(sequences_.size()); }
  Finish finish(i64 sequence) const { return sequences_[static_cast<std::size_t>(sequence)].finish; }
  GenerateStats const& stats() const { return stats_; }
  /// What a sequence has generated so far.
  std::span<std::int32_t const> generated(i64 sequence) const {
    auto const& s = sequences_[static_cast<std::size_t>(sequence)];
    return std::span(s.tokens).subspan(static_cast<std::size_t>(s.prompt));
  }

  /// Iterates over token ids: for one prompt.
  class iterator {
   public:
    using value_type = std::int32_t;
    using difference_type = std::ptrdiff_t;
    iterator() = default;
    explicit iterator(Generation* g) : generation_(g) { ++*this; }
    std::int32_t operator*() const { return token_->id; }
    iterator& operator++() {
      token_ = generation_->next();
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(iterator const& i, std::default_sentinel_t) { return !i.token_.has_value(); }

   private:
    Generation* generation_ = nullptr;
    std::optional<Token> token_;
  };
  iterator begin() { return iterator(this); }
  std::default_sentinel_t end() const { return {}; }

 private:
  struct Sequence {
    std::vector<std::int32_t> tokens;  // prompt, then what was generated
    i64 prompt;
    Finish finish;
    std::uint64_t draws;
  };
  using Clock = std::chrono::steady_clock;
  static double since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }
  Sequence& at(i64 sequence) { return sequences_[static_cast<std::size_t>(sequence)]; }

  /// Chooses a token from a row of logits and hands it out, or ends the sequence.
  void choose(i64 sequence, View const& logits, i64 row) {
    Sequence& s = at(sequence);
    if (static_cast<i64>(s.tokens.size()) - s.prompt >= options_.max_new) {
      s.finish = Finish::max_new;
      return;
    }
    accept(sequence,
           sampler_.pick(as_floats(logits, row), s.tokens, static_cast<std::uint64_t>(sequence), s.draws++));
  }
  /// Hands out a token that was chosen, or ends the sequence.
  void accept(i64 sequence, std::int32_t id) {
    Sequence& s = at(sequence);
    if (s.finish != Finish::running) {
      return;  // stopped by the caller since the step was queued
    }
    for (std::int32_t const stop : options_.stop_tokens) {
      if (id == stop) {
        s.finish = Finish::stop_token;
        return;
      }
    }
    s.tokens.push_back(id);
    ready_.push_back({sequence, id});
    if (static_cast<i64>(s.tokens.size()) - s.prompt >= options_.max_new) {
      s.finish = Finish::max_new;
    } else if (static_cast<i64>(s.tokens.size()) > engine_->options().max_len) {
      s.finish = Finish::max_len;  // this token has no room to be fed back
    }
  }

  std::span<float const> as_floats(View const& logits, i64 row) {
    auto const n = static_cast<std::size_t>(logits.width());
    if (logits.dtype == DType::f32) {
      return {logits.template row<float>(row), n};
    }
    floats_.resize(n);
    double const* from = logits.template row<double>(row);
    for (std::size_t i = 0; i < n; ++i) {
      floats_[i] = static_cast<float>(from[i]);
    }
    return floats_;
  }

  /// Fills free slots with waiting prompts, else runs one decode step. False when nothing is left to do.
  bool advance() {
    bool changed = false;
    for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
      i64& sequence = slots_[slot];
      if (sequence >= 0 && at(sequence).finish != Finish::running) {
        sequence = -1;
        changed = true;
      }
      while (sequence < 0 && !waiting_.empty()) {
        sequence = waiting_.front();
        waiting_.pop_front();
        changed = true;
        prefill(static_cast<i64>(slot), sequence);
        if (at(sequence).finish != Finish::running) {
          sequence = -1;
        }
      }
    }
    if (!ready_.empty() && changed) {
      begun_ = false;
      return true;
    }
    if (changed || !begun_) {
      start_decode();
    }
    if (entries_.empty()) {
      return false;
    }
    auto const start = Clock::now();
    if (options_.greedy()) {  // the logits stay where they are
      engine_->decode_step(Logits::none);
      auto const chosen = engine_->decode_tokens();
      for (std::size_t i = 0; i < entries_.size(); ++i) {
        accept(slots_[static_cast<std::size_t>(entries_[i])], chosen[i]);
      }
    } else {
      View const logits = engine_->decode_step();
      for (std::size_t i = 0; i < entries_.size(); ++i) {
        choose(slots_[static_cast<std::size_t>(entries_[i])], logits, static_cast<i64>(i));
        feed_[i] = at(slots_[static_cast<std::size_t>(entries_[i])]).tokens.back();
      }
      engine_->set_decode_tokens(feed_);
    }
    stats_.decode_seconds += since(start);
    stats_.decode_tokens += static_cast<i64>(entries_.size());
    return true;
  }

  void prefill(i64 slot, i64 sequence) {
    auto const start = Clock::now();
    Sequence& s = at(sequence);
    engine_->reset(slot);
    View const logits = engine_->append(slot, s.tokens, [&](i64 done) {
      if (options_.on_prefill) {
        options_.on_prefill(sequence, done, s.prompt);
      }
    });
    stats_.prefill_tokens += s.prompt;
    stats_.prefill_seconds += since(start);
    choose(sequence, logits, 0);
  }

  /// Starts the engine's decode loop with the sequences that run.
  void start_decode() {
    entries_.clear();
    feed_.clear();
    for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
      if (slots_[slot] >= 0) {
        entries_.push_back(static_cast<std::int32_t>(slot));
        feed_.push_back(at(slots_[slot]).tokens.back());
      }
    }
    begun_ = true;
    if (!entries_.empty()) {
      engine_->begin_decode(entries_, feed_);
    }
  }

  E* engine_;
  GenerateOptions options_;
  Sampler sampler_;
  std::vector<Sequence> sequences_;
  std::deque<i64> waiting_;
  std::vector<i64> slots_;  // sequence of a slot, -1: free
  std::vector<std::int32_t> entries_, feed_;
  std::deque<Token> ready_;
  std::vector<float> floats_;
  GenerateStats stats_;
  bool begun_ = false;
};

/// Streams the continuation of one prompt: for (std::int32_t id : generate(engine, prompt, {.max_new = 64})) ...
template <class E>
Generation<E> generate(E& engine, std::vector<std::int32_t> prompt, GenerateOptions options = {}) {
  std::vector<std::vector<std::int32_t>> prompts;
  prompts.push_back(std::move(prompt));
  return Generation<E>(engine, std::move(prompts), std::move(options));
}
/// Many prompts of any lengths; next() gives tokens with the number of their sequence.
template <class E>
Generation<E> generate(E& engine, std::vector<std::vector<std::int32_t>> prompts, GenerateOptions options = {}) {
  return Generation<E>(engine, std::move(prompts), std::move(options));
}

JET_NAMESPACE_END
