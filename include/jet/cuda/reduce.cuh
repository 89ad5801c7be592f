/// \file
/// Reductions inside a block, in one fixed order: the result depends on the values and the block's size alone.
#pragma once

#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>

JET_CUDA_NAMESPACE_BEGIN

inline constexpr int warp_size = 32;
inline constexpr int max_warps = 32;

/// The sum over the 32 lanes of a full warp, in every lane.
template <class T> __device__ T warp_sum(T value) {
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

/// The largest magnitude over the lanes of a warp.
__device__ inline float warp_largest(float x) {
  x = fabsf(x);
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  return x;
}

/// The sum over the threads of a block of full warps, in every thread. `partial` is shared memory of max_warps
/// elements. All threads call it.
template <class T> __device__ T block_sum(T value, T* partial) {
  int const lane = static_cast<int>(threadIdx.x) % warp_size;
  int const warp = static_cast<int>(threadIdx.x) / warp_size;
  int const warps = static_cast<int>(blockDim.x) / warp_size;
  value = warp_sum(value);
  __syncthreads();  // the memory may still be read from the call before
  if (lane == 0) {
    partial[warp] = value;
  }
  __syncthreads();
  return warp_sum(lane < warps ? partial[lane] : T(0));
}

JET_CUDA_NAMESPACE_END
