/// \file
/// Products of small matrices on the tensor cores, warp by warp (mma.sync, sm_80 and later).
///
/// Fragments of a warp, lane = 4 g + t: of A (16 x 16, row-major) register 0 holds (g, 2t), (g, 2t + 1), register 1
/// the same of row g + 8, registers 2 and 3 the same eight columns on; of B (16 x 8) register 0 holds rows 2t,
/// 2t + 1 of column g, register 1 the same eight rows on; of C and D (16 x 8, float) elements 0 and 1 are (g, 2t),
/// (g, 2t + 1), elements 2 and 3 the same of row g + 8.
#pragma once

#include <cstdint>

#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>

JET_CUDA_NAMESPACE_BEGIN

/// c += a b with bf16 factors and float sums.
__device__ inline void mma_bf16(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// The same with fp16 factors.
__device__ inline void mma_f16(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// c += a b with tf32 factors: A is 16 x 8, registers (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4); B is 8 x 8,
/// registers (t, g), (t + 4, g).
__device__ inline void mma_tf32(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// Two fp16 in a word, the first in the low half, rounded to nearest even.
__device__ inline std::uint32_t pack_f16(float low, float high) {
  std::uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
/// The nearest tf32, as a float's bits.
__device__ inline std::uint32_t to_tf32(float value) {
  std::uint32_t word;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(value));
  return word;
}

/// Four 8 x 8 matrices of 16-bit elements: lane i names the row i % 8 (16 bytes, aligned) of matrix i / 8, and gets
/// elements 2t, 2t + 1 of row g of each.
__device__ inline void load_matrices(std::uint32_t (&to)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}
/// The same transposed: elements of rows 2t, 2t + 1 and column g of each.
__device__ inline void load_matrices_transposed(std::uint32_t (&to)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

JET_CUDA_NAMESPACE_END
