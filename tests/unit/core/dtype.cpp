#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <doctest/doctest.h>

#include <jet/core/dtype.hpp>

using jet::bf16;
using jet::DType;
using jet::f16;

namespace {

template <class H> H from_bits(unsigned bits) {
  H h;
  h.bits = static_cast<std::uint16_t>(bits);
  return h;
}

/// The pattern of +infinity; NaNs lie above it.
template <class H> constexpr unsigned infinity_bits = std::is_same_v<H, bf16> ? 0x7f80u : 0x7c00u;

/// The value by the definition of the format, in double.
template <class H> double value_of(unsigned bits) {
  int const mantissa_bits = std::is_same_v<H, bf16> ? 7 : 10;
  int const bias = std::is_same_v<H, bf16> ? 127 : 15;
  int const exponent = static_cast<int>((bits & 0x7fffu) >> mantissa_bits);
  int const fraction = static_cast<int>(bits & ((1u << mantissa_bits) - 1));
  int const full = exponent == 0 ? fraction : fraction + (1 << mantissa_bits);
  double const magnitude = std::ldexp(full, (exponent == 0 ? 1 : exponent) - bias - mantissa_bits);
  return (bits & 0x8000u) != 0 ? -magnitude : magnitude;
}

}  // namespace

TEST_CASE_TEMPLATE("half types: every bit pattern", H, bf16, f16) {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    float const x = static_cast<float>(from_bits<H>(bits));
    unsigned const magnitude = bits & 0x7fffu;
    if (magnitude > infinity_bits<H>) {
      REQUIRE(std::isnan(x));
      H const back(x);
      REQUIRE(std::isnan(static_cast<float>(back)));
      REQUIRE((back.bits & 0x8000u) == (bits & 0x8000u));
    } else {
      if (magnitude == infinity_bits<H>) {
        REQUIRE(std::isinf(x));
      } else {
        REQUIRE(static_cast<double>(x) == value_of<H>(bits));
      }
      REQUIRE(std::signbit(x) == ((bits & 0x8000u) != 0));
      REQUIRE(H(x).bits == bits);
      REQUIRE(H(static_cast<double>(x)).bits == bits);
    }
  }
}

TEST_CASE_TEMPLATE("half types: rounding to nearest, ties to even, between all neighbours", H, bf16, f16) {
  // Beyond the largest finite value the next one would be 2^(largest exponent + 1), which becomes infinity.
  for (unsigned bits = 0; bits < infinity_bits<H>; ++bits) {
    double const low = value_of<H>(bits);
    double const high = value_of<H>(bits + 1);
    auto const middle = static_cast<float>((low + high) / 2);
    REQUIRE(static_cast<double>(middle) == (low + high) / 2);
    unsigned const even = bits % 2 == 0 ? bits : bits + 1;
    float const below = std::nextafter(middle, 0.0f);
    float const above = std::nextafter(middle, std::numeric_limits<float>::infinity());
    REQUIRE(H(middle).bits == even);
    REQUIRE(H(below).bits == bits);
    REQUIRE(H(above).bits == bits + 1);
    REQUIRE(H(-middle).bits == (even | 0x8000u));
    REQUIRE(H(-below).bits == (bits | 0x8000u));
    REQUIRE(H(-above).bits == ((bits + 1) | 0x8000u));
  }
}

TEST_CASE("half types: overflow, infinity, tiny values") {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float largest = std::numeric_limits<float>::max();
  CHECK(f16(65504.0f).bits == 0x7bff);
  CHECK(f16(65519.996f).bits == 0x7bff);
  CHECK(f16(65520.0f).bits == 0x7c00);
  CHECK(f16(largest).bits == 0x7c00);
  CHECK(f16(-largest).bits == 0xfc00);
  CHECK(f16(-infinity).bits == 0xfc00);
  CHECK(bf16(largest).bits == 0x7f80);
  CHECK(bf16(std::bit_cast<float>(0x7f7f7fffu)).bits == 0x7f7f);
  CHECK(bf16(-largest).bits == 0xff80);
  CHECK(bf16(infinity).bits == 0x7f80);
  CHECK(bf16(1e300).bits == 0x7f80);
  CHECK(f16(0x1p-24f).bits == 1);
  CHECK(f16(0x1p-25f).bits == 0);
  CHECK(f16(-0x1p-25f).bits == 0x8000);
  CHECK(f16(std::nextafter(0x1p-25f, 1.0f)).bits == 1);
  CHECK(f16(std::numeric_limits<float>::denorm_min()).bits == 0);
  CHECK(bf16(std::numeric_limits<float>::denorm_min()).bits == 0);
}

TEST_CASE("half types: NaN stays NaN whatever its payload") {
  // payloads only in the bits that are cut off would become infinity if they were just cut
  for (std::uint32_t const payload : {0x1u, 0x1fffu, 0xffffu, 0x10000u, 0x3fffffu, 0x400000u, 0x7fffffu}) {
    for (std::uint32_t const sign : {0u, 0x80000000u}) {
      float const x = std::bit_cast<float>(0x7f800000u | payload | sign);
      CHECK(std::isnan(static_cast<float>(bf16(x))));
      CHECK(std::isnan(static_cast<float>(f16(x))));
      CHECK(std::signbit(static_cast<float>(bf16(x))) == (sign != 0));
      CHECK(std::signbit(static_cast<float>(f16(x))) == (sign != 0));
    }
  }
}

TEST_CASE("half types: constant expressions and layout") {
  static_assert(bf16(1.0f).bits == 0x3f80);
  static_assert(f16(1.0f).bits == 0x3c00);
  static_assert(f16(0x1p-24).bits == 1);
  static_assert(static_cast<float>(f16(-2.5f)) == -2.5f);
  static_assert(static_cast<float>(bf16(-2.5)) == -2.5f);
  static_assert(sizeof(bf16) == 2 && sizeof(f16) == 2);
  static_assert(std::is_trivially_copyable_v<bf16> && std::is_trivially_copyable_v<f16>);
  static_assert(!std::is_convertible_v<float, bf16> && !std::is_convertible_v<float, f16>);
  static_assert(std::is_convertible_v<bf16, float> && std::is_convertible_v<f16, float>);
}

TEST_CASE("dtype: sizes, names, types") {
  static_assert(jet::size_of(DType::f64) == 8 && jet::size_of(DType::i64) == 8);
  static_assert(jet::size_of(DType::f32) == 4 && jet::size_of(DType::i32) == 4);
  static_assert(jet::size_of(DType::bf16) == 2 && jet::size_of(DType::f16) == 2);
  static_assert(jet::size_of(DType::f8e4m3) == 1 && jet::size_of(DType::u8) == 1);
  static_assert(jet::size_of(DType::none) == 0);
  CHECK(jet::name_of(DType::f64) == "f64");
  CHECK(jet::name_of(DType::f32) == "f32");
  CHECK(jet::name_of(DType::bf16) == "bf16");
  CHECK(jet::name_of(DType::f16) == "f16");
  CHECK(jet::name_of(DType::f8e4m3) == "f8e4m3");
  CHECK(jet::name_of(DType::i64) == "i64");
  CHECK(jet::name_of(DType::i32) == "i32");
  CHECK(jet::name_of(DType::u8) == "u8");
  CHECK(jet::name_of(DType::none) == "none");
  static_assert(jet::dtype_of<jet::type_of<DType::f64>> == DType::f64);
  static_assert(jet::dtype_of<jet::type_of<DType::f32>> == DType::f32);
  static_assert(jet::dtype_of<jet::type_of<DType::bf16>> == DType::bf16);
  static_assert(jet::dtype_of<jet::type_of<DType::f16>> == DType::f16);
  static_assert(jet::dtype_of<std::int64_t> == DType::i64 && jet::dtype_of<std::int32_t> == DType::i32);
  static_assert(jet::dtype_of<std::uint8_t> == DType::u8 && jet::dtype_of<char*> == DType::none);
  static_assert(sizeof(jet::type_of<DType::f64>) == 8);
}

TEST_CASE("precision: keys and values follow the activations unless stated") {
  constexpr jet::Precision p{.weights = DType::bf16, .act = DType::bf16};
  static_assert(p.kv_dtype() == DType::bf16);
  static_assert(jet::Precision{.kv = DType::f8e4m3}.kv_dtype() == DType::f8e4m3);
  static_assert(jet::precision::f64.kv_dtype() == DType::f64);
  static_assert(p.state == DType::f32 && p.acc == DType::f32);
  static_assert(!(jet::precision::bf16 == jet::precision::bf16_weights));
}
