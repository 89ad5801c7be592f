/// \file
/// Scoring over an engine: log-likelihoods of choices, greedy answers, perplexity of documents. Sequences are
/// packed into ragged calls; only the rows that predict a scored token get logits; what questions have in common is
/// computed once and forked.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <jet/core/backend_options.hpp>
#include <jet/core/batch.hpp>
#include <jet/core/error.hpp>
#include <jet/core/view.hpp>
#include <jet/model/engine.hpp>
#include <jet/text/sampler.hpp>
#include <jet/text/scoring_items.hpp>
#include <jet/text/stop.hpp>

JET_NAMESPACE_BEGIN

/// What a question was given: the sum of log-probabilities (natural) of each choice, or the text generated.
struct ItemScore {
  std::vector<double> loglikelihood;
  std::string text;
};

/// Log-likelihood of a document: every token of it counted once.
struct DocumentScore {
  double sum = 0;
  i64 tokens = 0;
  i64 bytes = 0;
  i64 windows = 0;
  double per_token() const { return std::exp(-sum / static_cast<double>(tokens)); }
  double per_byte() const { return std::exp(-sum / static_cast<double>(bytes)); }
  double bits_per_byte() const { return -sum / static_cast<double>(bytes) / std::log(2.0); }
};

/// A window feeds at most `window` tokens to a fresh state; the next one begins `stride` tokens later and counts
/// what no earlier window has predicted.
struct PerplexityOptions {
  i64 window = 1024;
  i64 stride = 512;
};

///   share        contexts are computed once per question, and heads of at least `least_head` tokens once per run
///                of questions that begin with them; false: every choice is a sequence of its own
///   stop_tokens  end a generated text
///   token_bytes  text of a token; needed by questions that generate
///   progress     called with the tokens done so far, of cost()
struct ScoringOptions {
  bool share = true;
  i64 least_head = 32;
  std::vector<std::int32_t> stop_tokens{};
  std::function<std::string(std::int32_t)> token_bytes{};
  std::function<void(i64)> progress{};
};

/// Options of an engine for scoring: sequences of `longest` tokens, as many slots as `state_bytes` allow (3 to 64).
template <class Model, class B>
EngineOptions scoring_engine_options(i64 longest, BackendOptions const& backend, i64 state_bytes) {
  EngineOptions options{.slots = 1, .max_len = std::max<i64>(1, longest), .max_logits = 256, .backend = backend};
  MemoryPlan const plan = Engine<Model, B>::plan_memory(options);
  i64 const slot_bytes = std::max<i64>(1, plan.kv + plan.recurrent + plan.conv);
  options.slots = std::clamp<i64>(state_bytes / slot_bytes, 3, 64);
  return options;
}

namespace detail {

/// Items [first, last) begin with the same `head` tokens (0: nothing to share).
struct HeadRun {
  std::size_t first = 0;
  std::size_t last = 0;
  i64 head = 0;
};

/// Cuts items, in their order, into runs with common heads of at least `least` tokens. A run ends where going on
/// would cost more than a quarter of its head.
inline std::vector<HeadRun> head_runs(std::span<ScoreItem const> items, i64 least) {
  auto const common = [](std::vector<std::int32_t> const& a, std::vector<std::int32_t> const& b, i64 most) {
    i64 n = 0;
    // one token of every context is left to be fed
    most = std::min({most, static_cast<i64>(a.size()) - 1, static_cast<i64>(b.size()) - 1});
    while (n < most && a[static_cast<std::size_t>(n)] == b[static_cast<std::size_t>(n)]) {
      ++n;
    }
    return n;
  };
  std::vector<HeadRun> runs;
  for (std::size_t i = 0; i < items.size();) {
    HeadRun run{i, i + 1, 0};
    i64 most = std::numeric_limits<i64>::max();
    for (; run.last < items.size(); ++run.last) {
      i64 const n = common(items[i].context, items[run.last].context, most);
      if (n < least || n < run.head - run.head / 4) {
        break;
      }
      run.head = most = n;
    }
    if (run.head == 0 && !runs.empty() && runs.back().head == 0) {
      runs.back().last = run.last;
    } else {
      runs.push_back(run);
    }
    i = run.last;
  }
  return runs;
}

/// Log of the sum of exponentials of n logits and the lowest index of the largest, in double.
template <class T> std::pair<double, std::int32_t> log_sum(T const* logits, i64 n) {
  i64 best = 0;
  for (i64 i = 1; i < n; ++i) {
    best = logits[i] > logits[best] ? i : best;
  }
  constexpr double log2_e = 0x1.71547652b82fep0;
  constexpr i64 lanes = 8;
  auto const largest = static_cast<double>(logits[best]);
  double part[lanes]{};
  i64 const whole = n / lanes * lanes;
  for (i64 i = 0; i < whole; i += lanes) {
    for (i64 lane = 0; lane < lanes; ++lane) {
      part[lane] += exp2_of((static_cast<double>(logits[i + lane]) - largest) * log2_e);
    }
  }
  double sum = 0;
  for (i64 i = whole; i < n; ++i) {
    sum += exp2_of((static_cast<double>(logits[i]) - largest) * log2_e);
  }
  for (double const p : part) {
    sum += p;
  }
  return {largest + std::log(sum), static_cast<std::int32_t>(best)};
}

}  // namespace detail

/// Scores questions and documents on an engine, whose slots it takes over. Memory does not grow with their number.
template <class E> class Scorer {
 public:
  /// Throws unless the engine has at least 3 slots: a common head, a context, a choice.
  explicit Scorer(E& engine, ScoringOptions options = {}) : engine_(&engine), options_(std::move(options)) {
    JET_CHECK(engine.options().slots >= 3, "scoring: the engine has ", engine.options().slots,
              " slots, expected at least 3");
    JET_CHECK(options_.least_head >= 1, "scoring: option least_head is ", options_.least_head,
              ", expected at least 1");
  }

  /// Throws unless all items fit the engine: token ids, lengths, what generation needs. Computes nothing.
  void check(std::span<ScoreItem const> items) const {
    i64 const max_len = engine_->options().max_len;
    for (ScoreItem const& item : items) {
      JET_CHECK(!item.context.empty(), item.source, ": the context has no tokens");
      check_ids(item.context, item.source);
      for (auto const& choice : item.choices) {
        JET_CHECK(!choice.empty(), item.source, ": a choice has no tokens");
        check_ids(choice, item.source);
      }
      JET_CHECK(item.length() <= max_len, item.source, ": needs ", item.length(),
                " tokens, the engine was made for max_len ", max_len);
      JET_CHECK(!item.generates() || options_.token_bytes, item.source,
                ": generates text, which needs the option token_bytes");
    }
  }
  void check(ScoreDocument const& document, PerplexityOptions const& options) const {
    i64 const max_len = engine_->options().max_len;
    i64 const longest = std::min(options.window, static_cast<i64>(document.ids.size()) - 1);
    JET_CHECK(options.window >= 1 && longest <= max_len, "option window is ", options.window, ", expected 1 to ",
              max_len, " (max_len of the engine)");
    JET_CHECK(options.stride >= 1 && options.stride <= options.window, "option stride is ", options.stride,
              ", expected 1 to the window ", options.window);
    JET_CHECK(document.ids.size() > 1 && document.bytes > 0, document.source, ": nothing to predict");
    check_ids(document.ids, document.source);
  }

  /// Tokens that will be fed for these items (for generation, at most).
  i64 cost(std::span<ScoreItem const> items) const {
    i64 total = 0;
    for (auto const& run : runs(items)) {
      total += run.head;
      for (std::size_t i = run.first; i < run.last; ++i) {
        auto const context = static_cast<i64>(items[i].context.size());
        total += items[i].generates() ? context - run.head + items[i].max_new - 1 : 0;
        total += items[i].generates() || !options_.share ? 0 : context - run.head;
        for (std::size_t c = 0; c < items[i].choices.size(); ++c) {
          if (first_equal(items[i], c) == c) {
            total += static_cast<i64>(items[i].choices[c].size()) - 1 + (options_.share ? 0 : context);
          }
        }
      }
    }
    return total;
  }
  i64 cost(ScoreDocument const& document, PerplexityOptions const& options) const {
    i64 total = 0;
    for_each_window(document, options, [&](i64 begin, i64 end, i64) { total += end - begin; });
    return total;
  }

  /// Scores items in their order and calls done(index, score) for each. Throws jet::Error; check() runs first.
  template <class F> void score(std::span<ScoreItem const> items, F&& done) {
    check(items);
    auto const capacity = static_cast<std::size_t>(engine_->options().slots - 1);
    for (auto const& run : runs(items)) {
      if (run.head > 0) {
        engine_->reset(head_slot);
        feed_one(head_slot, std::span(items[run.first].context).first(static_cast<std::size_t>(run.head)));
      }
      for (std::size_t first = run.first; first < run.last;) {
        std::size_t last = first;
        std::size_t used = 0;
        while (last < run.last && (last == first || used + slots_of(items[last]) <= capacity)) {
          used += slots_of(items[last++]);
        }
        std::vector<ItemScore> const scores = wave(items.subspan(first, last - first), run.head);
        for (; first < last; ++first) {
          done(first, scores[first - (last - scores.size())]);
        }
      }
    }
  }

  /// Log-likelihood of a document. Throws jet::Error.
  DocumentScore score(ScoreDocument const& document, PerplexityOptions const& options = {}) {
    check(document, options);
    auto const& engine = engine_->options();
    auto const at_once = static_cast<std::size_t>(std::clamp<i64>(engine.chunk / options.window, 1, engine.slots));
    DocumentScore out{0, static_cast<i64>(document.ids.size()) - 1, document.bytes, 0};
    std::vector<Job> jobs;
    std::vector<double> sums(at_once, 0.0);
    auto const flush = [&] {
      feed(jobs);
      for (std::size_t i = 0; i < jobs.size(); ++i) {
        out.sum += std::exchange(sums[i], 0.0);
      }
      jobs.clear();
    };
    for_each_window(document, options, [&](i64 begin, i64 end, i64 counted) {
      Job job{static_cast<std::int32_t>(jobs.size()), {}, {}};
      job.ids.assign(document.ids.begin() + begin, document.ids.begin() + end);
      for (i64 i = counted; i < end; ++i) {
        job.targets.push_back({i - begin, document.ids[static_cast<std::size_t>(i) + 1], &sums[jobs.size()]});
      }
      engine_->reset(job.slot);
      jobs.push_back(std::move(job));
      ++out.windows;
      if (jobs.size() == at_once) {
        flush();
      }
    });
    flush();
    return out;
  }

 private:
  static constexpr std::int32_t head_slot = 0;

  /// After the token at `position` of a job, the log-probability of `id` is added to *sum; with `best` the most
  /// probable token is stored there instead.
  struct Target {
    i64 position;
    std::int32_t id;
    double* sum;
    std::int32_t* best = nullptr;
  };
  /// Tokens that continue the sequence of a slot, and what is asked on the way, in ascending positions.
  struct Job {
    std::int32_t slot;
    std::vector<std::int32_t> ids;
    std::vector<Target> targets;
    i64 fed = 0;
    std::size_t asked = 0;  // targets answered
  };

  void check_ids(std::span<std::int32_t const> ids, std::string const& source) const {
    for (std::int32_t const id : ids) {
      JET_CHECK(id >= 0 && id < E::model::config.vocab, source, ": token ", id, ", expected 0 to ",
                E::model::config.vocab - 1);
    }
  }

  std::vector<detail::HeadRun> runs(std::span<ScoreItem const> items) const {
    if (!options_.share) {
      return {{0, items.size(), 0}};
    }
    return detail::head_runs(items, options_.least_head);
  }

  /// Slots that an item wants: one per sequence that ends differently.
  std::size_t slots_of(ScoreItem const& item) const { return std::max<std::size_t>(1, sequences(item).size()); }

  /// The first choice with the tokens of choice c. Equal ones are computed once, so that they tie exactly.
  static std::size_t first_equal(ScoreItem const& item, std::size_t c) {
    return static_cast<std::size_t>(std::find(item.choices.begin(), item.choices.end(), item.choices[c]) -
                                    item.choices.begin());
  }

  /// Choices that need a sequence beside their context's.
  std::vector<std::size_t> sequences(ScoreItem const& item) const {
    std::vector<std::size_t> out;
    for (std::size_t c = 0; c < item.choices.size(); ++c) {
      if (first_equal(item, c) == c && (!options_.share || item.choices[c].size() > 1)) {
        out.push_back(c);
      }
    }
    return out;
  }

  /// Inputs [begin, end) of each window; predictions are counted from input `counted` on.
  template <class F>
  static void for_each_window(ScoreDocument const& document, PerplexityOptions const& options, F&& f) {
    i64 const inputs = static_cast<i64>(document.ids.size()) - 1;  // the last token is not fed
    for (i64 begin = 0, counted = 0; counted < inputs; begin += options.stride) {
      i64 const end = std::min(begin + options.window, inputs);
      f(begin, end, counted);
      counted = end;
    }
  }

  /// Items that fit the slots together, or a single one.
  std::vector<ItemScore> wave(std::span<ScoreItem const> items, i64 head) {
    std::vector<ItemScore> scores(items.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      scores[i].loglikelihood.assign(items[i].choices.size(), 0.0);
    }
    if (options_.share) {
      shared_wave(items, head, scores);
    } else {
      separate_wave(items, scores);
    }
    for (std::size_t i = 0; i < items.size(); ++i) {
      auto& sums = scores[i].loglikelihood;
      for (std::size_t c = 0; c < sums.size(); ++c) {
        sums[c] = sums[first_equal(items[i], c)];
      }
    }
    return scores;
  }

  /// Every choice with its context as a sequence of its own.
  void separate_wave(std::span<ScoreItem const> items, std::vector<ItemScore>& scores) {
    std::vector<Job> jobs;
    auto const flush = [&] {
      feed(jobs);
      jobs.clear();
    };
    for (std::size_t i = 0; i < items.size(); ++i) {
      for (std::size_t const c : sequences(items[i])) {
        auto const& choice = items[i].choices[c];
        Job job{static_cast<std::int32_t>(jobs.size()), items[i].context, {}};
        ask(job, choice, 0, static_cast<i64>(items[i].context.size()) - 1, scores[i].loglikelihood[c]);
        job.ids.insert(job.ids.end(), choice.begin(), choice.end() - 1);
        engine_->reset(job.slot);
        jobs.push_back(std::move(job));
        if (static_cast<i64>(jobs.size()) == engine_->options().slots) {
          flush();
        }
      }
    }
    flush();
    std::vector<std::int32_t> slots(items.size(), 0);
    for (std::size_t i = 0; i < items.size(); ++i) {
      slots[i] = static_cast<std::int32_t>(i);
      if (items[i].generates()) {
        engine_->reset(slots[i]);
        jobs.push_back({slots[i], items[i].context, {}});
      }
    }
    generate(items, slots, jobs, scores);
  }

  /// Contexts first; then the choices' other tokens, each in a fork of its context.
  void shared_wave(std::span<ScoreItem const> items, i64 head, std::vector<ItemScore>& scores) {
    std::vector<std::int32_t> slots;
    std::vector<Job> contexts, prompts;
    std::int32_t slot = head_slot + 1;
    for (std::size_t i = 0; i < items.size(); ++i) {
      ScoreItem const& item = items[i];
      slots.push_back(slot);
      if (head > 0) {
        engine_->fork(head_slot, slot);
      } else {
        engine_->reset(slot);
      }
      Job job{slot, std::vector(item.context.begin() + head, item.context.end()), {}};
      slot += static_cast<std::int32_t>(slots_of(item));
      if (item.generates()) {
        prompts.push_back(std::move(job));
        continue;
      }
      i64 const last = static_cast<i64>(job.ids.size()) - 1;
      for (std::size_t c = 0; c < item.choices.size(); ++c) {
        job.targets.push_back({last, item.choices[c].front(), &scores[i].loglikelihood[c]});
      }
      contexts.push_back(std::move(job));
    }
    feed(contexts);

    i64 const end = engine_->options().slots;
    std::vector<Job> jobs;
    for (std::size_t i = 0; i < items.size(); ++i) {
      std::vector<std::size_t> const longer = sequences(items[i]);
      std::int32_t free = slots[i] + 1;
      for (std::size_t n = 0; n < longer.size(); ++n) {
        auto const& choice = items[i].choices[longer[n]];
        bool const last = n + 1 == longer.size();  // it may use up the context
        if (!last && free == end) {                // a single item with more choices than slots
          feed(jobs);
          jobs.clear();
          free = slots[i] + 1;
        }
        Job job{last ? slots[i] : free++, std::vector(choice.begin(), choice.end() - 1), {}};
        if (!last) {
          engine_->fork(slots[i], job.slot);
        }
        ask(job, choice, 1, 0, scores[i].loglikelihood[longer[n]]);
        jobs.push_back(std::move(job));
      }
    }
    feed(jobs);
    generate(items, slots, prompts, scores);
  }

  /// Asks for tokens [first, size) of a choice, the first of them after `position`.
  static void ask(Job& job, std::vector<std::int32_t> const& choice, std::size_t first, i64 position, double& sum) {
    for (std::size_t t = first; t < choice.size(); ++t) {
      job.targets.push_back({position++, choice[t], &sum});
    }
  }

  /// Greedy answers of the items that generate, whose prompts are `jobs` in the same order; each ends at a stop
  /// token, at its first blank line or after max_new tokens.
  void generate(std::span<ScoreItem const> items, std::vector<std::int32_t> const& slots, std::vector<Job>& jobs,
                std::vector<ItemScore>& scores) {
    struct Answer {
      std::size_t item;
      i64 tokens = 0;
      std::int32_t next = 0;
      StopMatcher blank_line{{}, {"\n\n"}};
    };
    std::vector<Answer> answers;
    answers.reserve(items.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (items[i].generates()) {
        Job& job = jobs[answers.size()];
        answers.push_back({.item = i});
        job.targets.push_back({static_cast<i64>(job.ids.size()) - 1, 0, nullptr, &answers.back().next});
      }
    }
    while (!answers.empty()) {
      feed(jobs);
      std::erase_if(answers, [&](Answer& a) {
        ScoreItem const& item = items[a.item];
        std::string& text = scores[a.item].text;
        auto const& stops = options_.stop_tokens;
        if (std::find(stops.begin(), stops.end(), a.next) == stops.end()) {
          text += a.blank_line.push(options_.token_bytes(a.next));
          if (!a.blank_line.stopped() && ++a.tokens < item.max_new) {
            return false;
          }
        }
        text += a.blank_line.flush();
        advance(item.max_new - 1 - std::min(a.tokens, item.max_new - 1));  // what was not needed
        return true;
      });
      jobs.clear();
      for (Answer& a : answers) {
        jobs.push_back({slots[a.item], {a.next}, {{0, 0, nullptr, &a.next}}});
      }
    }
  }

  void feed_one(std::int32_t slot, std::span<std::int32_t const> ids) {
    std::vector<Job> jobs;
    jobs.push_back({slot, std::vector(ids.begin(), ids.end()), {}});
    feed(jobs);
  }

  /// Runs all jobs, packed into calls of at most `chunk` tokens and `max_logits` rows. Jobs have different slots.
  void feed(std::vector<Job>& jobs) {
    auto const& limits = engine_->options();
    std::vector<std::int32_t> ids;
    std::vector<std::pair<i64, Target>> asked;  // row of logits
    for (std::size_t first = 0; first < jobs.size();) {
      Batch batch;
      ids.clear();
      asked.clear();
      for (std::size_t j = first; j < jobs.size() && batch.tokens() < limits.chunk; ++j) {
        Job& job = jobs[j];
        i64 const begin = batch.tokens();
        i64 take = std::min(static_cast<i64>(job.ids.size()) - job.fed, limits.chunk - begin);
        for (; job.asked < job.targets.size(); ++job.asked) {
          Target const& target = job.targets[job.asked];
          i64 const row = begin + target.position - job.fed;
          if (target.position >= job.fed + take) {
            break;
          }
          if (batch.logit_rows.empty() || batch.logit_rows.back() != row) {
            if (static_cast<i64>(batch.logit_rows.size()) == limits.logit_rows()) {
              take = target.position - job.fed;  // the call after this one goes on here
              break;
            }
            batch.logit_rows.push_back(row);
          }
          asked.emplace_back(static_cast<i64>(batch.logit_rows.size()) - 1, target);
        }
        if (take == 0) {
          break;
        }
        batch.add(job.slot, take, engine_->length(job.slot));
        auto const from = job.ids.begin() + job.fed;
        ids.insert(ids.end(), from, from + take);
        job.fed += take;
        if (job.fed < static_cast<i64>(job.ids.size())) {
          break;
        }
        first = j + 1;
      }
      batch.logits = batch.logit_rows.empty() ? Logits::none : Logits::list;
      View const logits = engine_->forward(batch, ids);
      if (batch.logits == Logits::list) {
        logits.dtype == DType::f64 ? answer<double>(logits, asked) : answer<float>(logits, asked);
      }
      advance(batch.tokens());
    }
  }

  /// Counts tokens as done.
  void advance(i64 tokens) {
    fed_ += tokens;
    if (options_.progress) {
      options_.progress(fed_);
    }
  }

  template <class T> void answer(View const& logits, std::vector<std::pair<i64, Target>> const& asked) {
    rows_.resize(static_cast<std::size_t>(logits.tokens()));
    auto const row = [&](i64 r, int) {
      rows_[static_cast<std::size_t>(r)] = detail::log_sum(logits.template row<T>(r), logits.width());
    };
    if constexpr (requires { engine_->backend().parallel(i64{1}, row); }) {
      engine_->backend().parallel(logits.tokens(), row);
    } else {
      for (i64 r = 0; r < logits.tokens(); ++r) {
        row(r, 0);
      }
    }
    for (auto const& [r, target] : asked) {
      auto const& [log_sum, best] = rows_[static_cast<std::size_t>(r)];
      JET_CHECK(std::isfinite(log_sum), "scoring: the model's logits are not finite");
      if (target.best != nullptr) {
        *target.best = best;
      } else {
        *target.sum += static_cast<double>(logits.template row<T>(r)[target.id]) - log_sum;
      }
    }
  }

  E* engine_;
  ScoringOptions options_;
  std::vector<std::pair<double, std::int32_t>> rows_;
  i64 fed_ = 0;
};

JET_NAMESPACE_END
