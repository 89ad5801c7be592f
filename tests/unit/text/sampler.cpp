#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <jet/core/rng.hpp>
#include <jet/text/sampler.hpp>

using jet::SampleOptions;
using jet::Sampler;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_float = std::numeric_limits<float>::quiet_NaN();

/// The distribution by the definition: a full stable sort, in the order penalty, temperature, top_k, top_p, min_p.
std::vector<double> probabilities(std::vector<float> const& logits, std::vector<std::int32_t> history,
                                  SampleOptions const& options) {
  std::size_t const n = logits.size();
  std::vector<double> scores(logits.begin(), logits.end());
  std::sort(history.begin(), history.end());
  history.erase(std::unique(history.begin(), history.end()), history.end());
  for (std::int32_t const token : history) {
    double& s = scores[static_cast<std::size_t>(token)];
    s = s < 0 ? s * options.repetition_penalty : s / options.repetition_penalty;
  }
  std::vector<std::size_t> order(n);
  for (std::size_t i = 0; i < n; ++i) {
    order[i] = i;
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  std::vector<double> p(n, 0.0);
  std::size_t const k = options.top_k == 0 ? n : std::min(n, static_cast<std::size_t>(options.top_k));
  double total = 0;
  for (std::size_t i = 0; i < k; ++i) {
    p[order[i]] = std::exp((scores[order[i]] - scores[order[0]]) / options.temperature);
    total += p[order[i]];
  }
  double before = 0;
  double kept = 0;
  for (std::size_t i = 0; i < k; ++i) {
    double& w = p[order[i]];
    double const own = w / total;
    if (i > 0 && (before >= options.top_p || w < options.min_p)) {
      w = 0;
    }
    before += own;
    kept += w;
  }
  for (double& w : p) {
    w /= kept;
  }
  return p;
}

std::vector<float> random_logits(std::size_t n, std::uint64_t seed, float spread) {
  std::vector<float> logits(n);
  for (std::size_t i = 0; i < n; ++i) {
    logits[i] = spread * jet::Random{.seed = seed}.normal(i);
  }
  return logits;
}

/// Draws and compares the frequencies with the exact probabilities: chi-square over the cells with an expectation
/// of at least 5 (the rest is one cell), in standard deviations; tokens of probability 0 must never be drawn.
void check_frequencies(std::vector<float> const& logits, std::vector<std::int32_t> const& history,
                       SampleOptions const& options, int draws = 20000) {
  std::vector<double> const p = probabilities(logits, history, options);
  Sampler sampler(options, static_cast<jet::i64>(logits.size()));
  std::vector<int> counts(logits.size());
  for (int i = 0; i < draws; ++i) {
    auto const token = static_cast<std::size_t>(sampler(logits, history));
    REQUIRE(token < logits.size());
    REQUIRE(p[token] > 0);
    ++counts[token];
  }
  double chi = 0;
  double rare_expected = 0;
  double rare_count = 0;
  int cells = 0;
  auto const add = [&](double count, double expected) {
    chi += (count - expected) * (count - expected) / expected;
    ++cells;
  };
  for (std::size_t i = 0; i < p.size(); ++i) {
    double const expected = p[i] * draws;
    if (expected >= 5) {
      add(counts[i], expected);
    } else {
      rare_expected += expected;
      rare_count += counts[i];
    }
  }
  if (rare_expected >= 5) {
    add(rare_count, rare_expected);
  }
  CAPTURE(chi);
  CAPTURE(cells);
  double const freedom = std::max(1, cells - 1);
  CHECK(chi < freedom + 4 * std::sqrt(2 * freedom) + 4);
}

std::string message_of(SampleOptions const& options) {
  try {
    options.validate();
  } catch (jet::Error const& error) {
    return error.what();
  }
  return {};
}

bool mentions(std::string const& text, std::string const& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("sampler: options out of range are named") {
  double const not_a_number = std::numeric_limits<double>::quiet_NaN();
  double const infinite = std::numeric_limits<double>::infinity();
  CHECK(message_of({}) == "");
  CHECK(message_of({.repetition_penalty = 1.3, .temperature = 2, .top_k = 5, .top_p = 0, .min_p = 1}) == "");
  for (double const bad : {-1.0, not_a_number, infinite}) {
    CHECK(mentions(message_of({.temperature = bad}), "temperature must be at least 0"));
    CHECK(mentions(message_of({.top_p = bad}), "top_p must be in [0, 1]"));
    CHECK(mentions(message_of({.min_p = bad}), "min_p must be in [0, 1]"));
    CHECK(mentions(message_of({.repetition_penalty = bad}), "repetition_penalty must be greater than 0"));
  }
  CHECK(mentions(message_of({.repetition_penalty = 0}), "repetition_penalty"));
  CHECK(mentions(message_of({.top_p = 1.001}), "top_p"));
  CHECK(mentions(message_of({.min_p = 1.001}), "min_p"));
  CHECK(message_of({.top_k = -3}) == "jet: sampling option top_k must be at least 0 (0: off), found -3");
  CHECK_THROWS_AS(Sampler({.top_p = not_a_number}), jet::Error);
  CHECK_THROWS_AS(Sampler({}, -1), jet::Error);
  CHECK_THROWS_AS(Sampler({}, jet::i64{1} << 31), jet::Error);
}

TEST_CASE("sampler: greedy") {
  Sampler greedy;
  CHECK(greedy(std::vector<float>{0, 3, -1, 3}) == 1);  // the lowest of equals
  CHECK(greedy(std::vector<float>{-5}) == 0);
  CHECK(greedy(std::vector<float>{-infinity, -7, -infinity}) == 1);
  CHECK(greedy(std::vector<float>{-0.0f, 0.0f}) == 0);
  for (std::size_t n = 1; n < 70; ++n) {  // every length of the last, incomplete group of lanes
    for (std::size_t at = 0; at < n; ++at) {
      std::vector<float> logits(n, -2.0f);
      logits[at] = 1;
      REQUIRE(greedy(logits) == static_cast<std::int32_t>(at));
    }
  }
}

TEST_CASE("sampler: bad logits are refused and named") {
  for (double const temperature : {0.0, 1.0}) {
    for (std::int32_t const top_k : {0, 2}) {
      Sampler sampler({.temperature = temperature, .top_k = top_k}, 100, 12);
      sampler(std::vector<float>{1, 2, 3});
      for (std::size_t at = 0; at < 100; ++at) {
        for (float const bad : {not_a_float, -not_a_float, infinity}) {
          std::vector<float> logits(100, 1.0f);
          logits[at] = bad;
          try {
            sampler(logits);
            FAIL("accepted");
          } catch (jet::Error const& error) {
            std::string const text = error.what();
            REQUIRE(mentions(text, "sequence 12, draw 1 "));
            REQUIRE(mentions(text, "token " + std::to_string(at) + " has"));
          }
        }
      }
      CHECK_THROWS_WITH_AS(sampler(std::vector<float>(9, -infinity)),
                           "jet: sampling: the logits of sequence 12, draw 1 leave no token: all are -inf",
                           jet::Error);
      CHECK_THROWS_WITH_AS(sampler(std::vector<float>{}),
                           "jet: sampling: the logits of sequence 12, draw 1 leave no token: there are none",
                           jet::Error);
      CHECK(sampler.draws() == 1);  // a refused row does not use up a draw
    }
  }
}

TEST_CASE("sampler: repetition penalty by hand") {
  std::vector<float> const logits{2, 1.5f, -1, -1.25f};
  Sampler greedy({.repetition_penalty = 2});
  CHECK(greedy(logits) == 0);
  CHECK(greedy(logits, std::vector<std::int32_t>{0}) == 1);                             // 1, 1.5, -1, -1.25
  CHECK(greedy(logits, std::vector<std::int32_t>{0, 1}) == 0);                          // 1, 0.75
  CHECK(greedy(logits, std::vector<std::int32_t>{0, 0, 0, 1}) == 0);                    // once per distinct token
  CHECK(greedy(std::vector<float>{2, 0.9f}, std::vector<std::int32_t>{0, 0, 0}) == 0);  // 1, not 0.25
  std::vector<float> const negative{-1, -1.25f, -9};
  CHECK(greedy(negative, std::vector<std::int32_t>{0}) == 1);  // -2, -1.25: multiplied, not divided
  Sampler reward({.repetition_penalty = 0.5});
  CHECK(reward(negative, std::vector<std::int32_t>{1}) == 1);                      // -1, -0.625
  CHECK(reward(std::vector<float>{3e38f, 1}, std::vector<std::int32_t>{0}) == 0);  // stays finite
  CHECK(greedy(std::vector<float>{-3e38f, -infinity}, std::vector<std::int32_t>{0, 1}) == 0);
  // exact probabilities: logits 1, 1.5, -2, -1.25 at temperature 0.5
  std::vector<double> const p = probabilities(logits, {0, 2, 2}, {.repetition_penalty = 2, .temperature = 0.5});
  CHECK(p[0] == doctest::Approx(std::exp(2.0) / (std::exp(2.0) + std::exp(3.0) + std::exp(-4.0) + std::exp(-2.5))));
  check_frequencies(logits, {0, 2, 2}, {.repetition_penalty = 2, .temperature = 0.5});

  CHECK_THROWS_WITH_AS(greedy(logits, std::vector<std::int32_t>{1, 4}),
                       "jet: sampling: token 4 of the history of sequence 0 is not in the vocabulary of 4",
                       jet::Error);
  CHECK_THROWS_AS(greedy(logits, std::vector<std::int32_t>{-1}), jet::Error);
  CHECK(Sampler()(logits, std::vector<std::int32_t>{99}) == 0);  // not looked at where the penalty is off
}

TEST_CASE("sampler: frequencies against exact probabilities") {
  std::vector<float> const small{1.0f, 0.0f, -infinity, 2.0f, 0.5f, -3.0f, 2.0f};
  std::vector<float> const large = random_logits(700, 1, 2.5f);
  std::vector<SampleOptions> const all{
      {.temperature = 1},
      {.temperature = 0.3},
      {.temperature = 5},
      {.temperature = 1, .top_k = 3},
      {.temperature = 1, .top_k = 300},
      {.temperature = 1, .top_p = 0.5},
      {.temperature = 1, .top_p = 0.9},
      {.temperature = 1, .top_p = 0.999},
      {.temperature = 1, .min_p = 0.1},
      {.temperature = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.05},
      {.temperature = 1.5, .top_k = 500, .top_p = 0.9},
      {.temperature = 2, .top_p = 0.8, .min_p = 0.02},
      {.repetition_penalty = 1.5, .temperature = 1, .top_k = 50},
  };
  for (std::size_t i = 0; i < all.size(); ++i) {
    CAPTURE(i);
    SampleOptions options = all[i];
    options.seed = 100 + i;
    check_frequencies(small, {0, 3, 3}, options, 10000);
    check_frequencies(large, {0, 3, 3, 699}, options, 3000);
  }
}

TEST_CASE("sampler: what the filters keep") {
  auto const drawn = [](std::vector<float> const& logits, SampleOptions options) {
    options.temperature = 1;
    Sampler sampler(options);
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < 3000; ++i) {
      tokens.push_back(sampler(logits));
    }
    std::sort(tokens.begin(), tokens.end());
    tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
    return tokens;
  };
  using Tokens = std::vector<std::int32_t>;
  // probabilities 0.1, 0.4, 0.2, 0.3
  std::vector<float> const logits{std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  CHECK(drawn(logits, {}) == Tokens{0, 1, 2, 3});
  CHECK(drawn(logits, {.top_p = 0}) == Tokens{1});  // at least one token
  CHECK(drawn(logits, {.top_p = 0.39}) == Tokens{1});
  CHECK(drawn(logits, {.top_p = 0.41}) == Tokens{1, 3});
  CHECK(drawn(logits, {.top_p = 0.69}) == Tokens{1, 3});
  CHECK(drawn(logits, {.top_p = 0.71}) == Tokens{1, 2, 3});
  CHECK(drawn(logits, {.top_p = 0.91}) == Tokens{0, 1, 2, 3});
  CHECK(drawn(logits, {.top_k = 1}) == Tokens{1});
  CHECK(drawn(logits, {.top_k = 2}) == Tokens{1, 3});
  CHECK(drawn(logits, {.top_k = 4}) == Tokens{0, 1, 2, 3});
  CHECK(drawn(logits, {.top_k = 1000}) == Tokens{0, 1, 2, 3});
  CHECK(drawn(logits, {.min_p = 0.74}) == Tokens{1, 3});  // 0.3 / 0.4 = 0.75
  CHECK(drawn(logits, {.min_p = 0.76}) == Tokens{1});
  CHECK(drawn(logits, {.min_p = 1}) == Tokens{1});
  // top_p refers to what top_k leaves: 0.4 / 0.7 = 0.57
  CHECK(drawn(logits, {.top_k = 2, .top_p = 0.56}) == Tokens{1});
  CHECK(drawn(logits, {.top_k = 2, .top_p = 0.58}) == Tokens{1, 3});
  // min_p comes last and still refers to the largest
  CHECK(drawn(logits, {.top_p = 0.71, .min_p = 0.6}) == Tokens{1, 3});
  // ties: the lowest tokens, by heap and by selection
  std::vector<float> equal(600, 0.5f);
  equal[0] = -1;
  CHECK(drawn(equal, {.top_k = 3}) == Tokens{1, 2, 3});
  Tokens first;
  for (std::int32_t i = 1; i <= 300; ++i) {
    first.push_back(i);
  }
  CHECK(drawn(equal, {.top_k = 300}) == first);
  std::vector<float> many(5000, 0.5f);  // selected, not collected in a heap
  std::fill(many.begin(), many.begin() + 1000, -1.0f);
  Tokens const tokens = drawn(many, {.top_k = 2500});
  CHECK(tokens.front() >= 1000);
  CHECK(tokens.back() < 3500);
  CHECK(tokens.back() > 3400);
  equal[0] = 0.5f;
  CHECK(drawn(equal, {.top_p = 4.5 / 600}) == Tokens{0, 1, 2, 3, 4});
  CHECK(drawn({-0.0f, 0.0f, -1.0f, 0.0f}, {.top_k = 2}) == Tokens{0, 1});
  // -infinity is never drawn, even where top_k would have room for it
  CHECK(drawn({-infinity, 1, -infinity, 1}, {.top_k = 3}) == Tokens{1, 3});
  CHECK(drawn({-infinity, 1, -infinity, 1}, {.top_p = 0.9999999}) == Tokens{1, 3});
}

TEST_CASE("sampler: extreme temperatures and logits") {
  std::vector<float> const logits{0.0f, std::nextafter(0.0f, 1.0f), -3e38f, 0.0f};
  for (double const temperature : {1e-300, 1e-60}) {
    for (SampleOptions options : {SampleOptions{}, SampleOptions{.top_k = 3}, SampleOptions{.top_p = 0.9}}) {
      options.temperature = temperature;
      Sampler sampler(options);
      for (int i = 0; i < 50; ++i) {
        REQUIRE(sampler(logits) == 1);
      }
    }
  }
  check_frequencies({3.0f, -50.0f, 2.0f, -infinity}, {}, {.temperature = 1e300});
  check_frequencies({3e38f, -3e38f, 3e38f}, {}, {.temperature = 1});
}

TEST_CASE("sampler: exponentials") {
  for (double t = 0; t > -999; t -= 0.01737) {
    REQUIRE(jet::detail::exp2_of(t) == doctest::Approx(std::exp2(t)).epsilon(2e-11));
  }
  CHECK(jet::detail::exp2_of(0.0) == 1.0);
  CHECK(jet::detail::exp2_of(-1.0) == 0.5);
  CHECK(jet::detail::exp2_of(-1001.0) == 0.0);
  CHECK(jet::detail::exp2_of(-std::numeric_limits<double>::infinity()) == 0.0);
}

TEST_CASE("sampler: a draw is a function of seed, sequence and number") {
  std::vector<float> const logits = random_logits(500, 2, 1.0f);
  for (SampleOptions const& options :
       {SampleOptions{.temperature = 1, .seed = 9}, SampleOptions{.temperature = 1, .top_k = 100, .seed = 9},
        SampleOptions{.temperature = 1, .top_p = 0.9, .seed = 9}}) {
    Sampler alone(options, 500, 3);
    std::vector<std::int32_t> expected;
    for (int i = 0; i < 100; ++i) {
      expected.push_back(alone(logits));
    }
    Sampler batch(options, 500);
    std::vector<std::int32_t> other;
    for (std::uint64_t i = 0; i < 100; ++i) {
      batch.pick(random_logits(500, 4 + i, 3.0f), {}, 0, i);
      REQUIRE(batch.pick(logits, {}, 3, i) == expected[i]);
      other.push_back(batch.pick(logits, {}, 2, i));
    }
    CHECK(other != expected);
    alone.restart(3, 40);
    CHECK(alone(logits) == expected[40]);
    SampleOptions reseeded = options;
    reseeded.seed = 10;
    Sampler second(reseeded, 500, 3);
    std::vector<std::int32_t> changed;
    for (int i = 0; i < 100; ++i) {
      changed.push_back(second(logits));
    }
    CHECK(changed != expected);
  }
  // the draw itself is the inverse of the cumulative distribution at a uniform of core/rng.hpp
  Sampler sampler({.temperature = 1, .seed = 77}, 4, 5);
  std::vector<float> const even(4, 1.0f);
  for (std::uint64_t i = 0; i < 100; ++i) {
    REQUIRE(sampler(even) == static_cast<std::int32_t>(jet::Random{77, 5}.uniform_double(i) * 4));
  }
}

TEST_CASE("sampler: a whole vocabulary against the definition") {
  std::vector<float> const logits = random_logits(151936, 3, 3.0f);
  for (SampleOptions const& options :
       {SampleOptions{.temperature = 0.7}, SampleOptions{.temperature = 0.7, .top_k = 50, .top_p = 0.9},
        SampleOptions{.temperature = 0.7, .top_k = 20000},  // beyond the heap
        SampleOptions{.temperature = 0.7, .top_p = 0.95}, SampleOptions{.temperature = 0.7, .min_p = 0.05}}) {
    std::vector<double> const p = probabilities(logits, {}, options);
    // Cheap for many probabilities: the mean of log p over draws against the entropy.
    double entropy = 0;
    double spread = 0;
    for (double const x : p) {
      entropy -= x > 0 ? x * std::log(x) : 0;
      spread += x > 0 ? x * std::log(x) * std::log(x) : 0;
    }
    Sampler sampler(options, 151936);
    double sum = 0;
    constexpr int draws = 25;
    for (int i = 0; i < draws; ++i) {
      double const x = p[static_cast<std::size_t>(sampler(logits))];
      REQUIRE(x > 0);
      sum -= std::log(x);
    }
    CHECK(std::abs(sum / draws - entropy) < 4 * std::sqrt((spread - entropy * entropy) / draws));
  }
}
