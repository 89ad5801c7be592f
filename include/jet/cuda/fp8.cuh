/// \file
/// Keys and values in fp8: e4m3 numbers with one f16 scale per token, kv head and K or V.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include <cuda_fp8.h>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>

JET_CUDA_NAMESPACE_BEGIN

/// One number of 4 exponent and 3 mantissa bits, largest 448, without infinities.
struct f8e4m3 {
  std::uint8_t bits = 0;

  f8e4m3() = default;
  /// To nearest even; what is too large becomes 448.
  JET_HD explicit f8e4m3(float value) : bits(__nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3)) {}
  JET_HD explicit operator float() const {
    std::uint32_t const word =
        static_cast<std::uint32_t>(bits & 0x80) << 24 | static_cast<std::uint32_t>(bits & 0x7f) << 20;
    return std::bit_cast<float>(word) * 0x1p120f;  // exact, for subnormals too
  }
};
inline constexpr float f8e4m3_max = 448;

/// The scale that makes `largest` the largest number, and the number for x under it.
JET_HD inline f16 f8_scale(float largest) {
  return f16(largest / f8e4m3_max);
}
JET_HD inline f8e4m3 to_f8(float x, f16 scale) {
  float const s = scale;
  return f8e4m3(s == 0.0f ? 0.0f : x / s);
}

/// How a dtype of keys and values is stored.
template <DType D> struct KvStorage { using type = type_of<D>; };
template <> struct KvStorage<DType::f8e4m3> { using type = f8e4m3; };
template <DType D> using kv_storage = typename KvStorage<D>::type;
template <class KV> inline constexpr bool is_f8 = std::is_same_v<KV, f8e4m3>;

/// Two numbers in bytes 1 and 3 of a word (bytes 0 and 2 are ignored) as two bf16, exactly.
__device__ inline std::uint32_t f8_to_bf16(std::uint32_t word) {
  std::uint32_t const packed = (word & 0x80008000u) | ((word >> 4) & 0x07f007f0u);  // times 2^-120
  std::uint32_t result;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(packed), "r"(0x7b807b80u), "r"(0x80008000u));
  return result;
}
/// Of the four numbers of a word: the first and second, third and fourth, first and third, second and fourth.
__device__ inline std::uint32_t f8_pair_01(std::uint32_t word) {
  return f8_to_bf16(__byte_perm(word, 0, 0x1404));
}
__device__ inline std::uint32_t f8_pair_23(std::uint32_t word) {
  return f8_to_bf16(__byte_perm(word, 0, 0x3424));
}
__device__ inline std::uint32_t f8_pair_02(std::uint32_t word) {
  return f8_to_bf16(__byte_perm(word, 0, 0x2404));
}
__device__ inline std::uint32_t f8_pair_13(std::uint32_t word) {
  return f8_to_bf16(__byte_perm(word, 0, 0x3414));
}

JET_CUDA_NAMESPACE_END
