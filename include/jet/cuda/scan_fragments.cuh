/// \file
/// Fragments of the chunk form's matrix products (cuda/mma.cuh for the layouts), in two precisions behind one
/// interface: fp16 factors, or fp32 factors as a sum of two tf32 each, of which three of the four products count
/// (relative error of a product about 2^-22).
#pragma once

#include <cstdint>

#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/copy_async.cuh>
#include <jet/cuda/mma.cuh>
#include <jet/cuda/reduce.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// A float as high + low, both tf32.
struct SplitTf32 {
  std::uint32_t high, low;
  __device__ explicit SplitTf32(float x) {
    high = to_tf32(x);
    low = to_tf32(x - __uint_as_float(high));
  }
};

/// fp16 factors. Tiles are in shared memory, rows 16-byte aligned.
struct HalfFragments {
  using Element = std::uint16_t;
  /// Elements behind a row of `width` (a multiple of 16): eight rows lie in different banks.
  static constexpr int pad(int) { return 8; }

  struct A {  // 16 rows, 16 of the contraction
    std::uint32_t r[4];
  };
  struct B {  // 16 of the contraction, two times 8 columns
    std::uint32_t r[4];
  };
  /// Rows [row, row + 16) of a tile, columns [k, k + 16).
  __device__ static A load_a(Element const* tile, int stride, int row, int k) {
    int const lane = static_cast<int>(threadIdx.x) % warp_size;
    int const m = lane / 8;
    A a;
    load_matrices(a.r, shared_address(tile + (row + m % 2 * 8 + lane % 8) * stride + k + m / 2 * 8));
    return a;
  }
  /// Two neighbouring accumulators, 16 columns, as a factor.
  __device__ static A from_sums(float const (&left)[4], float const (&right)[4]) {
    return {{pack_f16(left[0], left[1]), pack_f16(left[2], left[3]), pack_f16(right[0], right[1]),
             pack_f16(right[2], right[3])}};
  }
  /// B[i][j] = tile[n + j][k + i]: the tile's rows are columns of the factor.
  __device__ static B load_b(Element const* tile, int stride, int n, int k) {
    int const lane = static_cast<int>(threadIdx.x) % warp_size;
    int const m = lane / 8;
    B b;
    load_matrices(b.r, shared_address(tile + (n + m / 2 * 8 + lane % 8) * stride + k + m % 2 * 8));
    return b;
  }
  /// B[i][j] = tile[k + i][n + j].
  __device__ static B load_b_rows(Element const* tile, int stride, int k, int n) {
    int const lane = static_cast<int>(threadIdx.x) % warp_size;
    int const m = lane / 8;
    B b;
    load_matrices_transposed(b.r, shared_address(tile + (k + m % 2 * 8 + lane % 8) * stride + n + m / 2 * 8));
    return b;
  }
  __device__ static void multiply(float (&left)[4], float (&right)[4], A const& a, B const& b) {
    mma_f16(left, a.r, b.r[0], b.r[1]);
    mma_f16(right, a.r, b.r[2], b.r[3]);
  }
  __device__ static void store_four(Element* to, float a, float b, float c, float d) {
    *reinterpret_cast<uint2*>(to) = {pack_f16(a, b), pack_f16(c, d)};
  }
  __device__ static void store_two(Element* to, float a, float b) {
    *reinterpret_cast<std::uint32_t*>(to) = pack_f16(a, b);
  }
};

/// fp32 factors. Of 8 of the contraction, registers t and t + 4 of a fragment hold numbers 2 t and 2 t + 1: the
/// order of a sum's terms is free, and so accumulators are factors as they stand.
struct SplitFragments {
  using Element = float;
  static constexpr int pad(int width) { return width % 32 == 0 ? 8 : 24; }

  struct A {
    std::uint32_t high[2][4], low[2][4];
  };
  struct B {
    std::uint32_t high[2][2][2], low[2][2][2];  // [column block][half of the contraction][register]
  };
  __device__ static void put(A& a, int half, int i, float x) {
    SplitTf32 const s(x);
    a.high[half][i] = s.high;
    a.low[half][i] = s.low;
  }
  __device__ static void put(B& b, int block, int half, int i, float x) {
    SplitTf32 const s(x);
    b.high[block][half][i] = s.high;
    b.low[block][half][i] = s.low;
  }
  __device__ static A load_a(Element const* tile, int stride, int row, int k) {
    int const lane = static_cast<int>(threadIdx.x) % warp_size;
    A a;
    JET_UNROLL
    for (int half = 0; half < 2; ++half) {
      float const* const at = tile + (row + lane / 4) * stride + k + 8 * half + 2 * (lane % 4);
      float2 const x = *reinterpret_cast<float2 const*>(at);
      float2 const y = *reinterpret_cast<float2 const*>(at + 8 * stride);
      put(a, half, 0, x.x), put(a, half, 1, y.x), put(a, half, 2, x.y), put(a, half, 3, y.y);
    }
    return a;
  }
  __device__ static A from_sums(float const (&left)[4], float const (&right)[4]) {
    A a;
    put(a, 0, 0, left[0]), put(a, 0, 1, left[2]), put(a, 0, 2, left[1]), put(a, 0, 3, left[3]);
    put(a, 1, 0, right[0]), put(a, 1, 1, right[2]), put(a, 1, 2, right[1]), put(a, 1, 3, right[3]);
    return a;
  }
  __device__ static B load_b(Element const* tile, int stride, int n, int k) {
    int const lane = static_cast<int>(threadIdx.x) % warp_size;
    B b;
    JET_UNROLL
    for (int block = 0; block < 2; ++block) {
      JET_UNROLL
      for (int half = 0; half < 2; ++half) {
        float2 const x = *reinterpret_cast<float2 const*>(tile + (n + 8 * block + lane / 4) * stride + k +
                                                          8 * half + 2 * (lane % 4));
        put(b, block, half, 0, x.x), put(b, block, half, 1, x.y);
      }
    }
    return b;
  }
  __device__ static B load_b_rows(Element const* tile, int stride, int k, int n) {
    int const lane = static_cast<int>(threadIdx.x) % warp_size;
    B b;
    JET_UNROLL
    for (int block = 0; block < 2; ++block) {
      JET_UNROLL
      for (int half = 0; half < 2; ++half) {
        float const* const at = tile + (k + 8 * half + 2 * (lane % 4)) * stride + n + 8 * block + lane / 4;
        put(b, block, half, 0, at[0]), put(b, block, half, 1, at[stride]);
      }
    }
    return b;
  }
  __device__ static void multiply(float (&left)[4], float (&right)[4], A const& a, B const& b) {
    JET_UNROLL
    for (int half = 0; half < 2; ++half) {
      mma_tf32(left, a.low[half], b.high[0][half][0], b.high[0][half][1]);
      mma_tf32(right, a.low[half], b.high[1][half][0], b.high[1][half][1]);
      mma_tf32(left, a.high[half], b.low[0][half][0], b.low[0][half][1]);
      mma_tf32(right, a.high[half], b.low[1][half][0], b.low[1][half][1]);
      mma_tf32(left, a.high[half], b.high[0][half][0], b.high[0][half][1]);
      mma_tf32(right, a.high[half], b.high[1][half][0], b.high[1][half][1]);
    }
  }
  __device__ static void store_four(Element* to, float a, float b, float c, float d) {
    *reinterpret_cast<float4*>(to) = make_float4(a, b, c, d);
  }
  __device__ static void store_two(Element* to, float a, float b) {
    *reinterpret_cast<float2*>(to) = make_float2(a, b);
  }
};

}  // namespace kernel
JET_CUDA_NAMESPACE_END
