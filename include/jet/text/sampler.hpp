/// \file
/// From logits to the next token: greedy or drawn, with the filters and the semantics of Hugging Face transformers.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/rng.hpp>

JET_NAMESPACE_BEGIN

/// How the next token is chosen. The defaults are greedy. Applied in this order; names as in
/// generation_config.json.
struct SampleOptions {
  /// Logits of tokens of the history are divided by this if positive, else multiplied by it, once per distinct
  /// token (Keskar et al., "CTRL", arXiv 1909.05858, section 4.1). 1: off. > 0.
  double repetition_penalty = 1;
  /// Logits are divided by this. 0: the token of the largest logit, and the rest below does not matter. >= 0.
  double temperature = 0;
  /// Only this many tokens of the largest logits (of equal ones the lowest token). 0: all. >= 0.
  std::int32_t top_k = 0;
  /// Only the smallest set of most probable tokens that reaches this probability, and at least one token (Holtzman
  /// et al., "The curious case of neural text degeneration", arXiv 1904.09751). 1: all. In [0, 1].
  double top_p = 1;
  /// Only tokens of at least this probability relative to the most probable one (Nguyen et al., arXiv 2407.01082).
  /// 0: all. In [0, 1].
  double min_p = 0;
  std::uint64_t seed = 0;

  /// Throws jet::Error naming the option that is out of range. NaN is out of every range.
  void validate() const {
    constexpr double largest = std::numeric_limits<double>::max();
    JET_CHECK(repetition_penalty > 0 && repetition_penalty <= largest,
              "sampling option repetition_penalty must be greater than 0 and finite, found ", repetition_penalty);
    JET_CHECK(temperature >= 0 && temperature <= largest,
              "sampling option temperature must be at least 0 (0: greedy) and finite, found ", temperature);
    JET_CHECK(top_k >= 0, "sampling option top_k must be at least 0 (0: off), found ", top_k);
    JET_CHECK(top_p >= 0 && top_p <= 1, "sampling option top_p must be in [0, 1] (1: off), found ", top_p);
    JET_CHECK(min_p >= 0 && min_p <= 1, "sampling option min_p must be in [0, 1] (0: off), found ", min_p);
  }
  friend bool operator==(SampleOptions const&, SampleOptions const&) = default;
};

namespace detail {

/// 2^t for t <= 0 to 1e-11 relative; 0 below 2^-1000. Branch-free, so that loops over it are vectorised.
inline double exp2_of(double t) {
  constexpr double round = 0x1.8p52;  // adding it rounds to an integer, which is then in the low mantissa bits
  double const clamped = t > -1000.0 ? t : -1000.0;
  double const shifted = clamped + round;
  double const x = (clamped - (shifted - round)) * 0x1.62e42fefa39efp-1;  // |x| <= log(2) / 2
  double p = 1.0 / 3628800;
  p = p * x + 1.0 / 362880;
  p = p * x + 1.0 / 40320;
  p = p * x + 1.0 / 5040;
  p = p * x + 1.0 / 720;
  p = p * x + 1.0 / 120;
  p = p * x + 1.0 / 24;
  p = p * x + 1.0 / 6;
  p = p * x + 0.5;
  p = p * x + 1.0;
  p = p * x + 1.0;
  double const power =
      std::bit_cast<double>(std::bit_cast<std::uint64_t>(p) + (std::bit_cast<std::uint64_t>(shifted) << 52));
  return t > -1000.0 ? power : 0.0;
}

}  // namespace detail

/// Chooses tokens. Draw i of sequence s depends on the options, s, i and the logits alone: not on the batch or on
/// other sequences. Of equal logits the lowest token comes first.
///
/// Nothing is allocated once `vocab` logits have been reserved for. One object serves one thread; it may serve many
/// sequences through pick().
class Sampler {
 public:
  /// Validates the options and reserves for `vocab` logits.
  explicit Sampler(SampleOptions const& options = {}, i64 vocab = 0, std::uint64_t sequence = 0)
      : options_(options), sequence_(sequence) {
    options_.validate();
    reserve(vocab);
  }

  /// Room for rows of `vocab` logits.
  void reserve(i64 vocab) {
    JET_CHECK(vocab >= 0 && vocab <= std::numeric_limits<std::int32_t>::max(),
              "sampling: the vocabulary must have 0 to 2147483647 tokens, found ", vocab);
    auto const n = static_cast<std::size_t>(vocab);
    if (n <= vocab_) {
      return;
    }
    if (options_.repetition_penalty != 1) {
      scores_.resize(n);
    }
    if (options_.temperature > 0) {
      weights_.resize(n);
      sums_.resize(n / block + 1);
      if (options_.top_k > 0 || options_.top_p < 1) {
        keys_.resize(n);
      }
    }
    vocab_ = n;
  }

  /// The next token of this object's sequence. `history`: the tokens so far, prompt included, for the penalty.
  /// Throws jet::Error if a logit is NaN or +infinity, if all are -infinity, if there is none, or if the penalty is
  /// on and a token of the history is none of the vocabulary.
  std::int32_t operator()(std::span<float const> logits, std::span<std::int32_t const> history = {}) {
    std::int32_t const token = pick(logits, history, sequence_, draw_);
    ++draw_;
    return token;
  }

  /// The token that draw `draw` of sequence `sequence` gives; for callers that keep count themselves.
  std::int32_t pick(std::span<float const> logits, std::span<std::int32_t const> history, std::uint64_t sequence,
                    std::uint64_t draw) {
    Row const row{sequence, draw};
    reserve(static_cast<i64>(logits.size()));
    std::span<float const> const scores =
        options_.repetition_penalty == 1 ? logits : penalised(logits, history, row);
    float const largest = largest_of(scores, row);
    if (options_.temperature == 0) {
      return static_cast<std::int32_t>(std::find(scores.begin(), scores.end(), largest) - scores.begin());
    }
    double const u = Random{options_.seed, sequence}.uniform_double(draw);
    bool const few = options_.top_k > 0 && static_cast<std::size_t>(options_.top_k) < scores.size();
    if (!few && options_.top_p >= 1) {
      return draw_of_all(weigh(scores, largest, options_.min_p), u, scores.size());
    }
    return draw_of_best(few ? best(scores, largest) : probable(scores, largest), u);
  }

  /// Goes to draw `draw` of sequence `sequence`.
  void restart(std::uint64_t sequence, std::uint64_t draw = 0) {
    sequence_ = sequence;
    draw_ = draw;
  }
  SampleOptions const& options() const { return options_; }
  std::uint64_t sequence() const { return sequence_; }
  /// Number of tokens chosen by operator() so far.
  std::uint64_t draws() const { return draw_; }

 private:
  /// Names a row of logits in messages.
  struct Row {
    std::uint64_t sequence;
    std::uint64_t draw;
  };
  /// Tokens whose weights are summed together.
  static constexpr std::size_t block = 512;
  static constexpr std::size_t lanes = 16;
  /// Up to this many best tokens are collected in a heap in one pass.
  static constexpr std::size_t heap_limit = 2048;

  std::span<float const> penalised(std::span<float const> logits, std::span<std::int32_t const> history,
                                   Row const& row) {
    std::copy(logits.begin(), logits.end(), scores_.begin());
    constexpr double limit = std::numeric_limits<float>::max();
    for (std::int32_t const token : history) {
      JET_CHECK(token >= 0 && static_cast<std::size_t>(token) < logits.size(), "sampling: token ", token,
                " of the history of sequence ", row.sequence, " is not in the vocabulary of ", logits.size());
      auto const i = static_cast<std::size_t>(token);
      double const x = logits[i];  // not scores_[i]: a token counts once however often it occurs
      if (std::isfinite(x)) {
        double const y = x > 0 ? x / options_.repetition_penalty : x * options_.repetition_penalty;
        scores_[i] = static_cast<float>(std::clamp(y, -limit, limit));
      }
    }
    return {scores_.data(), logits.size()};
  }

  static float largest_of(std::span<float const> scores, Row const& row) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    float most[lanes];
    bool valid[lanes];
    std::fill(most, most + lanes, -infinity);
    std::fill(valid, valid + lanes, true);
    auto const look = [&](std::size_t lane, float x) {
      most[lane] = x > most[lane] ? x : most[lane];
      valid[lane] &= x < infinity;
    };
    std::size_t const whole = scores.size() / lanes * lanes;
    for (std::size_t i = 0; i < whole; i += lanes) {
      for (std::size_t lane = 0; lane < lanes; ++lane) {
        look(lane, scores[i + lane]);
      }
    }
    for (std::size_t i = whole; i < scores.size(); ++i) {
      look(i - whole, scores[i]);
    }
    if (std::find(valid, valid + lanes, false) != valid + lanes) [[unlikely]] {
      for (std::size_t i = 0; i < scores.size(); ++i) {
        JET_CHECK(scores[i] < infinity, "sampling: the logits of sequence ", row.sequence, ", draw ", row.draw,
                  " are not usable: token ", i, " has ", scores[i]);
      }
    }
    float const largest = *std::max_element(most, most + lanes);
    JET_CHECK(largest > -infinity, "sampling: the logits of sequence ", row.sequence, ", draw ", row.draw,
              " leave no token: ", scores.empty() ? "there are none" : "all are -inf");
    return largest;
  }

  /// Factor from differences of logits to exponents of two.
  double scale() const {
    constexpr double limit = std::numeric_limits<double>::max();
    return std::min(0x1.71547652b82fep+0 / options_.temperature, limit);  // 1 / log(2)
  }

  /// weights_[i] = exp((scores[i] - largest) / temperature), 0 where below `least`; sums_ of blocks. Returns the
  /// sum.
  double weigh(std::span<float const> scores, float largest, double least) {
    double const factor = scale();
    double const base = largest;
    double total = 0;
    for (std::size_t first = 0; first < scores.size(); first += block) {
      std::size_t const n = std::min(block, scores.size() - first);
      float const* const x = scores.data() + first;
      double* const w = weights_.data() + first;
      for (std::size_t i = 0; i < n; ++i) {
        double const e = detail::exp2_of((static_cast<double>(x[i]) - base) * factor);
        w[i] = e >= least ? e : 0.0;
      }
      double part[lanes]{};
      std::size_t const whole = n / lanes * lanes;
      for (std::size_t i = 0; i < whole; i += lanes) {
        for (std::size_t lane = 0; lane < lanes; ++lane) {
          part[lane] += w[i + lane];
        }
      }
      for (std::size_t i = whole; i < n; ++i) {
        part[i - whole] += w[i];
      }
      double sum = 0;
      for (double const p : part) {
        sum += p;
      }
      sums_[first / block] = sum;
      total += sum;
    }
    return total;
  }

  /// Draws from weights_[0, n) in the order of the tokens.
  std::int32_t draw_of_all(double total, double u, std::size_t n) const {
    double const target = u * total;
    double below = 0;         // sum before the block looked at
    double below_chosen = 0;  // sum before the block chosen
    std::size_t chosen = 0;
    for (std::size_t b = 0; b * block < n; ++b) {
      if (sums_[b] > 0) {
        chosen = b;
        below_chosen = below;
        below += sums_[b];
        if (target < below) {
          break;
        }
      }
    }
    // where rounding leaves the target beyond the last token, the last one that can be drawn is meant
    std::size_t token = chosen * block;
    double running = below_chosen;
    for (std::size_t i = chosen * block; i < std::min(n, (chosen + 1) * block); ++i) {
      if (weights_[i] > 0) {
        token = i;
        running += weights_[i];
        if (target < running) {
          break;
        }
      }
    }
    return static_cast<std::int32_t>(token);
  }

  /// A candidate as one integer: larger is better. The logit comes first (as an integer of the same order, -0 as
  /// 0), then the lower token.
  static std::uint64_t key_of(float score, std::size_t token) {
    auto const pattern = std::bit_cast<std::uint32_t>(score + 0.0f);
    std::uint32_t const ordered = (pattern >> 31) != 0 ? ~pattern : pattern | 0x80000000u;
    return (std::uint64_t{ordered} << 32) | static_cast<std::uint32_t>(~static_cast<std::uint32_t>(token));
  }
  static std::size_t token_of(std::uint64_t key) { return static_cast<std::uint32_t>(~key); }

  /// Candidates in keys_[0, count), not sorted, and the sum of the weights that top_p refers to.
  struct Candidates {
    std::size_t count;
    double total;
  };

  /// The top_k best.
  Candidates best(std::span<float const> scores, float largest) {
    auto const k = static_cast<std::size_t>(options_.top_k);
    auto const begin = keys_.begin();
    auto const end = begin + static_cast<std::ptrdiff_t>(k);
    if (k <= heap_limit) {
      for (std::size_t i = 0; i < k; ++i) {
        keys_[i] = key_of(scores[i], i);
      }
      std::make_heap(begin, end, std::greater<>{});  // the worst in front
      float worst = scores[token_of(keys_[0])];
      for (std::size_t i = k; i < scores.size(); ++i) {
        if (scores[i] > worst) {
          std::pop_heap(begin, end, std::greater<>{});
          keys_[k - 1] = key_of(scores[i], i);
          std::push_heap(begin, end, std::greater<>{});
          worst = scores[token_of(keys_[0])];
        }
      }
    } else {
      for (std::size_t i = 0; i < scores.size(); ++i) {
        keys_[i] = key_of(scores[i], i);
      }
      std::nth_element(begin, end, begin + static_cast<std::ptrdiff_t>(scores.size()), std::greater<>{});
    }
    double const factor = scale();
    double total = 0;
    for (std::size_t i = 0; i < k; ++i) {
      std::size_t const token = token_of(keys_[i]);
      weights_[token] =
          detail::exp2_of((static_cast<double>(scores[token]) - static_cast<double>(largest)) * factor);
      total += weights_[token];
    }
    return {k, total};
  }

  /// Those that top_p can reach. All tokens below (1 - top_p) / n together have less than 1 - top_p, so the set is
  /// complete without them; half of that leaves room for rounding.
  Candidates probable(std::span<float const> scores, float largest) {
    double const total = weigh(scores, largest, 0);
    double const least = 0.5 * (1 - options_.top_p) * total / static_cast<double>(scores.size());
    std::size_t count = 0;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      keys_[count] = key_of(scores[i], i);
      count += weights_[i] >= least ? 1 : 0;
    }
    return {count, total};
  }

  /// Applies top_p and min_p to the candidates and draws from what is left, best first.
  std::int32_t draw_of_best(Candidates const& candidates, double u) {
    auto const at = [this](std::size_t i) { return keys_.begin() + static_cast<std::ptrdiff_t>(i); };
    std::size_t const n = candidates.count;
    double const enough =
        options_.top_p < 1 ? options_.top_p * candidates.total : std::numeric_limits<double>::infinity();
    double kept = 0;         // weight of the tokens kept
    std::size_t count = 0;   // their number
    std::size_t sorted = 0;  // keys in their final place
    bool full = false;
    for (std::size_t step = 64; !full && count < n; step *= 4) {  // sorts no more than is kept, about
      std::size_t const next = std::min(n, sorted + step);
      if (next < n) {
        std::nth_element(at(sorted), at(next), at(n), std::greater<>{});
      }
      std::sort(at(sorted), at(next), std::greater<>{});
      sorted = next;
      while (!full && count < sorted) {
        double const w = weights_[token_of(keys_[count])];
        full = count > 0 && (kept >= enough || w < options_.min_p);
        if (!full) {
          kept += w;
          ++count;
        }
      }
    }
    double const target = u * kept;
    double running = 0;
    std::size_t token = token_of(keys_[0]);
    for (std::size_t i = 0; i < count && !(target < running); ++i) {
      double const w = weights_[token_of(keys_[i])];
      if (w > 0) {
        token = token_of(keys_[i]);
        running += w;
      }
    }
    return static_cast<std::int32_t>(token);
  }

  SampleOptions options_;
  std::uint64_t sequence_ = 0;
  std::uint64_t draw_ = 0;
  std::size_t vocab_ = 0;
  std::vector<float> scores_;    // logits after the penalty
  std::vector<double> weights_;  // probabilities times a constant, the largest is 1
  std::vector<double> sums_;     // of blocks of weights_
  std::vector<std::uint64_t> keys_;
};

JET_NAMESPACE_END
