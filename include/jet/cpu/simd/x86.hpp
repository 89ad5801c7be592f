/// \file
/// The x86 kernel tables for float. The kernels are written once, in gemm_nt.inl and kernels.inl, over a small
/// vocabulary of vectors (vector_*.inl), and compiled once per instruction set in a namespace of its own under
/// target attributes: no -m flags are needed, and code for a stronger machine never leaks into shared inline
/// functions.
///
/// Between the pragmas stand functions and templates of these namespaces only, and nothing outside is instantiated
/// there for the first time but what is always inlined: it would be compiled for the stronger machine, and the
/// linker keeps any one copy.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <cstddef>
#include <cstring>
#include <limits>
#include <type_traits>

#include <jet/core/arena.hpp>
#include <jet/cpu/simd/table.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

// Blocks of gemm_nt where k is cut (results do not depend on them): nt_block_n rows of B and nt_block_m rows of A,
// nt_block_bytes of one row of each, lie in the second-level cache together with the accumulators, a tile's rows in
// the first.
inline constexpr i64 nt_block_m = 96;
inline constexpr i64 nt_block_n = 32;
inline constexpr i64 nt_block_bytes = 6144;
inline constexpr i64 nn_block_k = 256;

/// What one thread needs for one block of gemm_nt: vector accumulators of every element, and B as floats.
struct NtScratch {
  float* carry;
  float* widened;
};

/// One allocation per thread that has ever run a product of many rows.
inline NtScratch nt_scratch() {
  constexpr i64 carry = nt_block_m * nt_block_n * 16;
  constexpr i64 widened = nt_block_n * nt_block_bytes / 6;  // of bf16 beside float
  static thread_local HostBuffer buffer((carry + widened) * static_cast<i64>(sizeof(float)));
  auto* const p = static_cast<float*>(static_cast<void*>(buffer.data()));
  return {p, p + carry};
}

}  // namespace cpu
JET_NAMESPACE_END

#if !defined(__clang__)
// g++ 12's own headers read "undefined" vectors on purpose.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#endif
JET_NAMESPACE_BEGIN
namespace cpu::avx2 {
#include <jet/cpu/simd/vector_avx2.inl>

#include <jet/cpu/simd/gemm_nt.inl>
#include <jet/cpu/simd/kernels.inl>
}  // namespace cpu::avx2
JET_NAMESPACE_END
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2")
#endif
JET_NAMESPACE_BEGIN
namespace cpu::avx512 {
#include <jet/cpu/simd/vector_avx512.inl>

#include <jet/cpu/simd/gemm_nt.inl>
#include <jet/cpu/simd/kernels.inl>
}  // namespace cpu::avx512
JET_NAMESPACE_END
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(                                                                        \
    __attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2")
#endif
JET_NAMESPACE_BEGIN
/// As avx512, but for products of two bf16 operands.
namespace cpu::avx512_bf16 {
using avx512::add;
using avx512::first_lanes;
using avx512::fma;
using avx512::fold;
using avx512::keep_first;
using avx512::load;
using avx512::load_tail;
using avx512::max;
using avx512::mul;
using avx512::nt_rows;
using avx512::repeat_four;
using avx512::round;
using avx512::scale_by_power;
using avx512::set;
using avx512::store;
using avx512::store_part;
using avx512::store_tail;
using avx512::sub;
using avx512::sum_of;
using avx512::sum_rows;
using avx512::V;
using avx512::widen;
using avx512::widen_blocks;
using avx512::width;
using avx512::zero;
inline constexpr bool native_bf16 = true;

/// 32 consecutive bf16, as they are.
JET_ALWAYS_INLINE V load_pairs(bf16 const* p) {
  return _mm512_castsi512_ps(_mm512_loadu_si512(static_cast<void const*>(p)));
}
JET_ALWAYS_INLINE V load_pairs_tail(bf16 const* p, i64 n) {
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(static_cast<__mmask32>((1ull << n) - 1ull), p));
}
/// c + the products of the pairs in a and b; treats subnormals as zero.
JET_ALWAYS_INLINE V fma_pairs(V a, V b, V c) {
  return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
}
#include <jet/cpu/simd/gemm_nt.inl>
#include <jet/cpu/simd/gemm_pairs.inl>

constexpr KernelTable<float> table() {
  KernelTable<float> t = avx512::table(Isa::avx512_bf16);
  t.gemm_nt[1][1][0] = gemm_nt<bf16, bf16, float>;
  t.gemm_nt[1][1][1] = gemm_nt<bf16, bf16, bf16>;
  t.gemm_pairs = gemm_pairs;
  t.interleave = interleave;
  t.exp_sum_bf16 = exp_sum_bf16;
  return t;
}
}  // namespace cpu::avx512_bf16
JET_NAMESPACE_END
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif
