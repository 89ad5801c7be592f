/// \file
/// Storage types, their run-time names, and the precision policy of a backend.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

using i64 = std::int64_t;

/// Element type of a tensor at run time. `none` means "not stated".
enum class DType : std::uint8_t { none, f64, f32, bf16, f16, f8e4m3, i64, i32, u8 };

/// Bytes of one element.
JET_HD constexpr i64 size_of(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::bf16:
    case DType::f16: return 2;
    case DType::f8e4m3:
    case DType::u8: return 1;
    case DType::none: break;
  }
  return 0;
}

constexpr std::string_view name_of(DType t) {
  switch (t) {
    case DType::f64: return "f64";
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::f16: return "f16";
    case DType::f8e4m3: return "f8e4m3";
    case DType::i64: return "i64";
    case DType::i32: return "i32";
    case DType::u8: return "u8";
    case DType::none: break;
  }
  return "none";
}

/// bfloat16 storage: the upper half of a float. Conversion rounds to nearest even and keeps NaN a NaN; a double is
/// rounded to float first.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  JET_HD constexpr explicit bf16(float value) : bits(round(value)) {}
  JET_HD constexpr explicit bf16(double value) : bits(round(static_cast<float>(value))) {}
  JET_HD constexpr operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

 private:
  JET_HD static constexpr std::uint16_t round(float value) {
    auto const u = std::bit_cast<std::uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      return static_cast<std::uint16_t>((u >> 16) | 0x40u);  // quiet NaN
    }
    return static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};

/// IEEE binary16 storage. Conversion rounds to nearest even; overflow becomes infinity.
struct f16 {
  std::uint16_t bits = 0;

  f16() = default;
  JET_HD constexpr explicit f16(float value) : bits(round(value)) {}
  JET_HD constexpr explicit f16(double value) : bits(round(static_cast<float>(value))) {}
  JET_HD constexpr operator float() const {
    std::uint32_t const sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    std::uint32_t const exponent = (bits >> 10) & 0x1fu;
    std::uint32_t const mantissa = bits & 0x3ffu;
    if (exponent == 0) {  // zero and subnormals: exact in float
      float const magnitude = static_cast<float>(mantissa) * 0x1p-24f;
      return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
    }
    std::uint32_t const e = exponent == 31 ? 255u : exponent + 112u;
    return std::bit_cast<float>(sign | (e << 23) | (mantissa << 13));
  }

 private:
  JET_HD static constexpr std::uint16_t round(float value) {
    auto const u = std::bit_cast<std::uint32_t>(value);
    auto const sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
    std::uint32_t const magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
      return static_cast<std::uint16_t>(sign | 0x7e00u);
    }
    if (magnitude >= 0x477ff000u) {  // rounds to or beyond 65520
      return static_cast<std::uint16_t>(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) {  // subnormal in f16: let float addition do the rounding
      float const shifted = std::bit_cast<float>(magnitude) + 0.5f;
      return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
    }
    std::uint32_t const odd = (magnitude >> 13) & 1u;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
  }
};

namespace detail {

template <class T> inline constexpr DType dtype_of_v = DType::none;
template <> inline constexpr DType dtype_of_v<double> = DType::f64;
template <> inline constexpr DType dtype_of_v<float> = DType::f32;
template <> inline constexpr DType dtype_of_v<bf16> = DType::bf16;
template <> inline constexpr DType dtype_of_v<f16> = DType::f16;
template <> inline constexpr DType dtype_of_v<std::int64_t> = DType::i64;
template <> inline constexpr DType dtype_of_v<std::int32_t> = DType::i32;
template <> inline constexpr DType dtype_of_v<std::uint8_t> = DType::u8;

template <DType> struct type_of;
template <> struct type_of<DType::f64> { using type = double; };
template <> struct type_of<DType::f32> { using type = float; };
template <> struct type_of<DType::bf16> { using type = bf16; };
template <> struct type_of<DType::f16> { using type = f16; };

}  // namespace detail

/// dtype_of<float> == DType::f32
template <class T> inline constexpr DType dtype_of = detail::dtype_of_v<T>;

/// type_of<DType::bf16> is jet::bf16
template <DType D> using type_of = typename detail::type_of<D>::type;

/// Which type each role of data has. A structural value: it is a template argument of every backend.
///   weights  parameters as stored in memory (rows marked keep_f32 stay at `acc`)
///   act      the residual stream, inputs of matrix products, convolution and token-shift state
///   acc      accumulation, norms, softmax, gates, and what lies between matrix products
///   state    recurrent state
///   kv       keys and values in the cache; not stated: as act
struct Precision {
  DType weights = DType::bf16;
  DType act = DType::f32;
  DType acc = DType::f32;
  DType state = DType::f32;
  DType kv = DType::none;

  constexpr DType kv_dtype() const { return kv == DType::none ? act : kv; }
  friend constexpr bool operator==(Precision const&, Precision const&) = default;
};

/// The policies that the CPU backend is tested with.
namespace precision {
inline constexpr Precision f64{DType::f64, DType::f64, DType::f64, DType::f64};
inline constexpr Precision f32{DType::f32, DType::f32, DType::f32, DType::f32};
inline constexpr Precision bf16_weights{DType::bf16, DType::f32, DType::f32, DType::f32};
inline constexpr Precision bf16{DType::bf16, DType::bf16, DType::f32, DType::f32};
}  // namespace precision

JET_NAMESPACE_END
