#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

#include <jet/core/rng.hpp>

using jet::Philox;
using jet::Random;

namespace {

/// Sum of (observed - expected)^2 / expected over equally likely cells.
double chi_square(std::vector<int> const& counts) {
  double total = 0;
  for (int const c : counts) {
    total += c;
  }
  double const expected = total / static_cast<double>(counts.size());
  double sum = 0;
  for (int const c : counts) {
    sum += (c - expected) * (c - expected) / expected;
  }
  return sum;
}

/// Chi-square of many degrees of freedom in standard deviations from its mean.
double deviations(double chi, std::size_t cells) {
  double const freedom = static_cast<double>(cells) - 1;
  return (chi - freedom) / std::sqrt(2 * freedom);
}

std::uint32_t pattern(float x) {
  return std::bit_cast<std::uint32_t>(x);
}

}  // namespace

TEST_CASE("philox: known answers of Random123 (kat_vectors, philox4x32 10)") {
  static_assert(Philox::block({{0, 0, 0, 0}}, {{0, 0}}) ==
                Philox::Counter{{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}});
  constexpr std::uint32_t ones = 0xffffffffu;
  static_assert(Philox::block({{ones, ones, ones, ones}}, {{ones, ones}}) ==
                Philox::Counter{{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}});
  static_assert(
      Philox::block({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, {{0xa4093822u, 0x299f31d0u}}) ==
      Philox::Counter{{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}});
  // and at run time
  Philox::Counter answer = Philox::block({{0, 0, 0, 0}}, {{0, 0}});
  CHECK(answer.word[0] == 0x6627e8d5u);
}

TEST_CASE("random: seed is the key, index and stream are the counter") {
  // the third known answer through Random
  constexpr Random r{.seed = 0x299f31d0'a4093822u, .stream = 0x03707344'13198a2eu};
  constexpr std::uint64_t index = 0x85a308d3'243f6a88u;
  static_assert(r.block(index).word[3] == 0x24126ea1u);
  Random const zero{};
  CHECK(zero.bits(0) == 0x6627e8d5u);
  CHECK(zero.bits(1) == 0xe169c58du);
  CHECK(zero.bits(2) == 0xbc57ac4cu);
  CHECK(zero.bits(3) == 0x9b00dbd8u);
  CHECK(zero.bits64(0) == 0xe169c58d'6627e8d5u);
  CHECK(zero.bits64(1) == 0x9b00dbd8'bc57ac4cu);
  CHECK(zero.bits(4) == zero.block(1).word[0]);
}

TEST_CASE("random: pinned values") {
  Random const r{.seed = 42, .stream = 7};
  CHECK(r.bits(5) == 0x600f6196u);
  CHECK(r.bits64(123456789012345u) == 0xd53f875194716093u);
  CHECK(pattern(r.uniform(11)) == 0x3f5301a3u);
  CHECK(pattern(r.uniform_open(11)) == 0x3f5301a4u);
  CHECK(std::bit_cast<std::uint64_t>(r.uniform_double(3)) == 0x3fc6476c1cc7e6fcu);
  CHECK(r.uniform_below(9, 151936) == 125546);
  CHECK(pattern(r.normal(0)) == 0x3df5f3e7u);
  CHECK(pattern(r.normal(1)) == 0x3ee82b64u);
  CHECK(pattern(r.normal(1000001)) == 0x3e52b8b8u);
  CHECK(r.split(3) == Random{0x6ad96a089ec117a8u, 0x62f108eeac333149u});
  // a digest of many normals: any bit that differs between compilers or backends shows
  std::uint64_t digest = 0xcbf29ce484222325u;
  for (std::uint64_t i = 0; i < 100000; ++i) {
    digest = (digest ^ pattern(r.normal(i))) * 0x100000001b3u;
  }
  CHECK(digest == 0xb5353b64e20107e8u);
}

TEST_CASE("random: the same values in any order") {
  Random const r{.seed = 1, .stream = 2};
  std::vector<float> forwards;
  for (std::uint64_t i = 0; i < 1001; ++i) {
    forwards.push_back(r.normal(i));
  }
  for (std::uint64_t i = 1001; i-- > 0;) {
    CHECK(pattern(r.normal(i)) == pattern(forwards[i]));
  }
  for (std::uint64_t i = 0; i < 500; ++i) {
    CHECK(r.normal_pair(i).first == forwards[2 * i]);
    CHECK(r.normal_pair(i).second == forwards[2 * i + 1]);
  }
}

TEST_CASE("random: ranges at the ends") {
  Random const r{.seed = 3};
  float low = 1;
  float high = 0;
  for (std::uint64_t i = 0; i < 100000; ++i) {
    float const u = r.uniform(i);
    low = std::min(low, u);
    high = std::max(high, u);
    REQUIRE(u >= 0.0f);
    REQUIRE(u < 1.0f);
    REQUIRE(r.uniform_open(i) == u + 0x1p-24f);
    REQUIRE(r.uniform_double(i) < 1.0);
    REQUIRE(std::isfinite(r.normal(i)));
  }
  CHECK(low < 1e-4f);
  CHECK(high > 1 - 1e-4f);
}

TEST_CASE("random: uniform_below is the high half of the 128-bit product") {
  Random const r{.seed = 4};
  for (std::uint64_t const n :
       {std::uint64_t{1}, std::uint64_t{3}, std::uint64_t{1} << 32, (std::uint64_t{1} << 32) + 1, ~std::uint64_t{0},
        std::uint64_t{0x123456789abcdef1}}) {
    for (std::uint64_t i = 0; i < 200; ++i) {
      __extension__ using u128 = unsigned __int128;
      auto const expected = static_cast<std::uint64_t>((static_cast<u128>(r.bits64(i)) * n) >> 64);
      CHECK(r.uniform_below(i, n) == expected);
    }
  }
  std::vector<int> counts(7);
  for (std::uint64_t i = 0; i < 70000; ++i) {
    ++counts[r.uniform_below(i, 7)];
  }
  CHECK(chi_square(counts) < 22.5);  // 6 degrees of freedom: probability 0.001
}

TEST_CASE("random: uniform moments and chi-square") {
  Random const r{.seed = 5};
  constexpr int n = 400000;
  std::vector<int> counts(1000);
  std::vector<int> pairs(1024);
  double sum = 0;
  double squares = 0;
  double products = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    double const u = r.uniform(i);
    double const next = r.uniform(i + 1);
    sum += u;
    squares += u * u;
    products += (u - 0.5) * (next - 0.5);
    ++counts[static_cast<std::size_t>(u * 1000)];
    ++pairs[static_cast<std::size_t>(u * 32) * 32 + static_cast<std::size_t>(next * 32)];
  }
  double const error = 1 / std::sqrt(static_cast<double>(n));
  CHECK(std::abs(sum / n - 0.5) < 4 * error * std::sqrt(1.0 / 12));
  CHECK(std::abs(squares / n - 1.0 / 3) < 4 * error * std::sqrt(4.0 / 45));
  CHECK(std::abs(products / n) < 4 * error / 12);
  CHECK(std::abs(deviations(chi_square(counts), counts.size())) < 4);
  CHECK(std::abs(deviations(chi_square(pairs), pairs.size())) < 4);
}

TEST_CASE("random: normal moments, chi-square and accuracy") {
  Random const r{.seed = 6};
  constexpr int n = 400000;
  double moment[5]{};
  double products = 0;
  std::vector<int> counts(200);
  for (std::uint64_t i = 0; i < n; ++i) {
    double const x = r.normal(i);
    double power = 1;
    for (double& m : moment) {
      m += power / n;
      power *= x;
    }
    products += x * static_cast<double>(r.normal(i ^ 1u));
    double const u = 0.5 * std::erfc(-x / std::sqrt(2.0));
    ++counts[std::min<std::size_t>(199, static_cast<std::size_t>(u * 200))];
  }
  double const error = 1 / std::sqrt(static_cast<double>(n));
  CHECK(std::abs(moment[1]) < 4 * error);
  CHECK(std::abs(moment[2] - 1) < 4 * error * std::sqrt(2.0));
  CHECK(std::abs(moment[3]) < 4 * error * std::sqrt(15.0));
  CHECK(std::abs(moment[4] - 3) < 4 * error * std::sqrt(96.0));
  CHECK(std::abs(products / n) < 6 * error);
  CHECK(std::abs(deviations(chi_square(counts), counts.size())) < 4);

  // Box and Muller with the library's functions: at most one ulp of float away
  for (std::uint64_t i = 0; i < 20000; ++i) {
    Philox::Counter const b = r.block(i);
    auto const join = [](std::uint64_t low, std::uint64_t high) { return (high << 32 | low) >> 11; };
    double const radius =
        std::sqrt(-2 * std::log(std::ldexp(static_cast<double>(join(b.word[0], b.word[1]) + 1), -53)));
    double const turns = std::ldexp(static_cast<double>(join(b.word[2], b.word[3])), -53) - 0.125;
    double const angle = 2 * std::acos(-1.0) * turns;
    double const cosine = radius * std::cos(angle);
    double const sine = radius * std::sin(angle);
    Random::Pair const pair = r.normal_pair(i);
    CHECK(std::abs(static_cast<double>(pair.first) - cosine) <= 6.1e-8 * std::abs(cosine) + 1e-15);
    CHECK(std::abs(static_cast<double>(pair.second) - sine) <= 6.1e-8 * std::abs(sine) + 1e-15);
  }
}

TEST_CASE("random: streams, seeds and splits are unrelated") {
  Random const r{.seed = 7};
  Random const others[] = {
      {.seed = 8},    {.seed = 7, .stream = 1},       r.split(0),           r.split(1), r.split(0).split(0),
      r.split(~0ull), Random{7, 1ull << 63}.split(0), Random{7ull << 32, 0}};
  for (auto const& a : others) {
    int common = 0;
    for (std::uint64_t i = 0; i < 10000; ++i) {
      common += std::popcount(r.bits(i) ^ a.bits(i));
    }
    // 320000 fair bits, standard deviation 283
    CHECK(std::abs(common - 160000) < 4 * 283);
    for (auto const& b : others) {
      CHECK((&a == &b) == (a == b));
    }
  }
  CHECK_FALSE(r.split(1).split(2) == r.split(2).split(1));
  CHECK(r.split(1).split(2) == Random{.seed = 7}.split(1).split(2));
  // no child is named by a number that its parent deals out
  CHECK_FALSE(r.split(0).seed == r.bits64(0));
}
