/// \file
/// Counter-based random numbers: a number is a function of (seed, stream, index), so it does not depend on the
/// order of evaluation, the number of threads or the backend. Integers, uniforms and normals are bit-identical on
/// the CPU and on CUDA, whatever the compiler does about contraction (but not under -ffast-math).
#pragma once

#include <bit>
#include <cstdint>

#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

/// Philox4x32-10 of Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011),
/// section 3.3: a keyed bijection of 128-bit counters. Passes the known-answer vectors of the authors' Random123.
struct Philox {
  struct Counter {
    std::uint32_t word[4]{};
    friend constexpr bool operator==(Counter const&, Counter const&) = default;
  };
  struct Key {
    std::uint32_t word[2]{};
    friend constexpr bool operator==(Key const&, Key const&) = default;
  };

  static constexpr int rounds = 10;

  /// The 128 random bits of one counter value.
  JET_HD static constexpr Counter block(Counter counter, Key key) {
    for (int round = 0; round < rounds; ++round) {
      std::uint64_t const left = std::uint64_t{0xD2511F53u} * counter.word[0];
      std::uint64_t const right = std::uint64_t{0xCD9E8D57u} * counter.word[2];
      counter = {{high(right) ^ counter.word[1] ^ key.word[0], low(right),
                  high(left) ^ counter.word[3] ^ key.word[1], low(left)}};
      key.word[0] += 0x9E3779B9u;  // golden ratio
      key.word[1] += 0xBB67AE85u;  // sqrt(3) - 1
    }
    return counter;
  }

  JET_HD static constexpr std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
  JET_HD static constexpr std::uint32_t high(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }
};

/// A stream of random numbers without a state: 2^64 seeds, 2^64 streams each, 2^64 blocks of four 32-bit words
/// each.
///
/// Kinds of draws share the words: bits(i) and the uniform floats are word i, bits64(i), uniform_double(i) and
/// uniform_below(i) are words 2i and 2i+1, normal(2p) and normal(2p+1) are made of words 4p to 4p+3. Numbers of one
/// kind are independent; where several kinds are needed, `split` gives each a stream of its own. The index counts
/// modulo the 2^66 words of a stream.
struct Random {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;

  struct Pair {
    float first = 0;
    float second = 0;
  };

  /// Words 4 index to 4 index + 3: for bulk filling, four times as fast as bits() word by word.
  JET_HD constexpr Philox::Counter block(std::uint64_t index) const {
    return Philox::block({{Philox::low(index), Philox::high(index), Philox::low(stream), Philox::high(stream)}},
                         {{Philox::low(seed), Philox::high(seed)}});
  }

  /// 32 random bits.
  JET_HD constexpr std::uint32_t bits(std::uint64_t index) const {
    Philox::Counter const b = block(index / 4);
    // selects, because an array indexed at run time goes through local memory on a GPU
    std::uint32_t const even = (index & 2u) != 0 ? b.word[2] : b.word[0];
    std::uint32_t const odd = (index & 2u) != 0 ? b.word[3] : b.word[1];
    return (index & 1u) != 0 ? odd : even;
  }

  /// 64 random bits.
  JET_HD constexpr std::uint64_t bits64(std::uint64_t index) const {
    Philox::Counter const b = block(index / 2);
    return (index & 1u) != 0 ? join(b.word[2], b.word[3]) : join(b.word[0], b.word[1]);
  }

  /// Uniform in [0, 1), a multiple of 2^-24.
  JET_HD constexpr float uniform(std::uint64_t index) const {
    return static_cast<float>(bits(index) >> 8) * 0x1p-24f;
  }

  /// Uniform in (0, 1], a multiple of 2^-24: safe to take the logarithm of.
  JET_HD constexpr float uniform_open(std::uint64_t index) const {
    return static_cast<float>((bits(index) >> 8) + 1) * 0x1p-24f;
  }

  /// Uniform in [0, 1), a multiple of 2^-53.
  JET_HD constexpr double uniform_double(std::uint64_t index) const {
    return static_cast<double>(bits64(index) >> 11) * 0x1p-53;
  }

  /// Uniform in {0, ..., n - 1}: the high half of bits64 * n, whose bias is at most n / 2^64. n > 0.
  JET_HD constexpr std::uint64_t uniform_below(std::uint64_t index, std::uint64_t n) const {
    JET_ASSERT(n > 0);
    std::uint64_t const x = bits64(index);
    std::uint64_t const low_low = std::uint64_t{Philox::low(x)} * Philox::low(n);
    std::uint64_t const high_low = std::uint64_t{Philox::high(x)} * Philox::low(n);
    std::uint64_t const low_high = std::uint64_t{Philox::low(x)} * Philox::high(n);
    std::uint64_t const high_high = std::uint64_t{Philox::high(x)} * Philox::high(n);
    std::uint64_t const middle = high_low + Philox::high(low_low);
    return high_high + Philox::high(middle) + Philox::high(low_high + Philox::low(middle));
  }

  /// Standard normal number `index`, |x| < 8.6.
  JET_HD float normal(std::uint64_t index) const {
    Pair const pair = normal_pair(index / 2);
    return (index & 1u) != 0 ? pair.second : pair.first;
  }

  /// normal(2 index) and normal(2 index + 1), for little more than the cost of one.
  ///
  /// Box and Muller, "A note on the generation of random normal deviates" (1958), in double, rounded to float once.
  /// Every product that meets a sum is an explicit fma and no other step can be contracted, so all compilers agree.
  JET_HD Pair normal_pair(std::uint64_t index) const {
    Philox::Counter const b = block(index);
    double const u = static_cast<double>((join(b.word[0], b.word[1]) >> 11) + 1) * 0x1p-53;  // (0, 1]
    double const radius = JET_SQRT(-2.0 * log_of(u));

    // the angle is quadrant + x right angles with x in [-1/2, 1/2)
    std::uint64_t const turn = join(b.word[2], b.word[3]) >> 11;
    std::uint64_t const fraction = turn & ((std::uint64_t{1} << 51) - 1);
    double const x = static_cast<double>(fraction) * 0x1p-51 - 0.5;
    double const theta = x * 0x1.921fb54442d18p+0;  // pi / 2
    double const square = theta * theta;
    double s = -1.0 / 1307674368000;
    s = JET_FMA(s, square, 1.0 / 6227020800);
    s = JET_FMA(s, square, -1.0 / 39916800);
    s = JET_FMA(s, square, 1.0 / 362880);
    s = JET_FMA(s, square, -1.0 / 5040);
    s = JET_FMA(s, square, 1.0 / 120);
    s = JET_FMA(s, square, -1.0 / 6);
    s = JET_FMA(s, square, 1.0);
    double const sine = theta * s;
    double c = 1.0 / 20922789888000;
    c = JET_FMA(c, square, -1.0 / 87178291200);
    c = JET_FMA(c, square, 1.0 / 479001600);
    c = JET_FMA(c, square, -1.0 / 3628800);
    c = JET_FMA(c, square, 1.0 / 40320);
    c = JET_FMA(c, square, -1.0 / 720);
    c = JET_FMA(c, square, 1.0 / 24);
    c = JET_FMA(c, square, -1.0 / 2);
    double const cosine = JET_FMA(c, square, 1.0);

    auto const quadrant = static_cast<unsigned>(turn >> 51);
    bool const swapped = (quadrant & 1u) != 0;
    double const first = swapped ? -sine : cosine;
    double const second = swapped ? cosine : sine;
    double const signed_radius = (quadrant & 2u) != 0 ? -radius : radius;
    return {static_cast<float>(signed_radius * first), static_cast<float>(signed_radius * second)};
  }

  /// An independent stream for each tag (a layer, a tensor, a kind of draw). Splits may be nested; the same tags in
  /// the same order give the same stream.
  JET_HD constexpr Random split(std::uint64_t tag) const {
    // another key than the draws, so that no child is named by a number that its parent deals out
    Philox::Counter const b =
        Philox::block({{Philox::low(tag), Philox::high(tag), Philox::low(stream), Philox::high(stream)}},
                      {{Philox::low(seed) ^ 0x73706c69u, Philox::high(seed) ^ 0x74746564u}});
    return {join(b.word[0], b.word[1]), join(b.word[2], b.word[3])};
  }

  friend constexpr bool operator==(Random const&, Random const&) = default;

 private:
  JET_HD static constexpr std::uint64_t join(std::uint32_t low, std::uint32_t high) {
    return (std::uint64_t{high} << 32) | low;
  }

  /// log u for a normal double u: u = 2^e m, log m = 2 artanh((m - 1) / (m + 1)), m in [sqrt(1/2), sqrt(2)].
  JET_HD static double log_of(double u) {
    auto const pattern = std::bit_cast<std::uint64_t>(u);
    double e = static_cast<double>(static_cast<int>(pattern >> 52) - 1023);
    double m = std::bit_cast<double>((pattern & 0x000fffffffffffffu) | 0x3ff0000000000000u);
    if (m > 0x1.6a09e667f3bcdp+0) {  // sqrt(2)
      m *= 0.5;
      e += 1.0;
    }
    double const ratio = (m - 1.0) / (m + 1.0);
    double const square = ratio * ratio;
    double p = 1.0 / 19;
    p = JET_FMA(p, square, 1.0 / 17);
    p = JET_FMA(p, square, 1.0 / 15);
    p = JET_FMA(p, square, 1.0 / 13);
    p = JET_FMA(p, square, 1.0 / 11);
    p = JET_FMA(p, square, 1.0 / 9);
    p = JET_FMA(p, square, 1.0 / 7);
    p = JET_FMA(p, square, 1.0 / 5);
    p = JET_FMA(p, square, 1.0 / 3);
    p = JET_FMA(p, square, 1.0);
    return JET_FMA(e, 0x1.62e42fefa39efp-1, 2.0 * ratio * p);  // log 2
  }
};

JET_NAMESPACE_END
