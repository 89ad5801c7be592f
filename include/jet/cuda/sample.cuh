/// \file
/// The end of a decode step (op/sample.hpp).
#pragma once

#include <algorithm>
#include <cstdint>

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/fwd.hpp>
#include <jet/op/sample.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// The largest logit of a part of a row and the lowest index where it stands.
struct Largest {
  float value;
  std::int32_t index;
};

__device__ inline Largest larger_of(Largest const& a, Largest const& b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

/// The larger over the block, in thread 0.
__device__ inline Largest block_larger(Largest best, Largest* partial) {
  int const lane = static_cast<int>(threadIdx.x) % warp_size;
  int const warp = static_cast<int>(threadIdx.x) / warp_size;
  auto const over_warp = [](Largest mine) {
    for (int offset = warp_size / 2; offset > 0; offset /= 2) {
      Largest const other{__shfl_xor_sync(0xffffffffu, mine.value, offset),
                          __shfl_xor_sync(0xffffffffu, mine.index, offset)};
      mine = larger_of(mine, other);
    }
    return mine;
  };
  best = over_warp(best);
  if (lane == 0) {
    partial[warp] = best;
  }
  __syncthreads();
  int const warps = static_cast<int>(blockDim.x) / warp_size;
  return over_warp(partial[lane < warps ? lane : 0]);
}

/// found[row * gridDim.x + part] = the largest of part blockIdx.x of row blockIdx.y of logits (rows, vocab) f32.
template <class = void>
__global__ void largest_of_part(float const* logits, i64 stride, i64 rows, i64 vocab, Largest* found) {
  release_next();
  wait_for_previous();
  __shared__ Largest partial[max_warps];
  i64 const part = (vocab + gridDim.x - 1) / gridDim.x;
  i64 const first = blockIdx.x * part;
  i64 const last = first + part < vocab ? first + part : vocab;
  for (i64 row = blockIdx.y; row < rows; row += gridDim.y) {
    Largest best{-INFINITY, static_cast<std::int32_t>(first < vocab ? first : 0)};
    for (i64 i = first + threadIdx.x; i < last; i += blockDim.x) {
      best = larger_of(best, {logits[row * stride + i], static_cast<std::int32_t>(i)});
    }
    best = block_larger(best, partial);
    if (threadIdx.x == 0) {
      found[row * gridDim.x + blockIdx.x] = best;
    }
    __syncthreads();
  }
}

/// ids[i] = the index of the largest of row i's parts, for active sequences; one warp per row.
template <class = void>
__global__ void largest_of_row(BatchView const batch, Largest const* found, int parts, std::int32_t* ids) {
  release_next();
  wait_for_previous();
  __shared__ Largest partial[max_warps];
  i64 const row = blockIdx.x;
  Largest best{-INFINITY, 0};
  if (batch.slot[row] >= 0) {
    best = found[row * parts];
    for (int i = static_cast<int>(threadIdx.x); i < parts; i += static_cast<int>(blockDim.x)) {
      best = larger_of(best, found[row * parts + i]);
    }
  }
  best = block_larger(best, partial);
  if (threadIdx.x == 0 && batch.slot[row] >= 0) {
    ids[row] = best.index;
  }
}

template <class = void> __global__ void advance(BatchView const batch, std::int64_t* position) {
  release_next();
  wait_for_previous();
  for (i64 i = blockIdx.x * i64{blockDim.x} + threadIdx.x; i < batch.seqs; i += i64{gridDim.x} * blockDim.x) {
    position[i] += batch.slot[i] >= 0 ? 1 : 0;
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::Greedy, tag::cuda> {
  static constexpr int parts(i64 vocab) { return static_cast<int>(std::clamp<i64>(vocab / 4096, 1, 32)); }
  template <class B>
  static cuda::kernel::Largest* scratch(Context<B>& ctx, op::Greedy const&, View const& logits, std::int32_t*) {
    i64 const n = logits.tokens() * parts(logits.width());
    return static_cast<cuda::kernel::Largest*>(ctx.scratch_bytes(n * i64{sizeof(cuda::kernel::Largest)}));
  }
  template <class B>
  static void run(Context<B>& ctx, op::Greedy const&, cuda::kernel::Largest* found, View const& logits,
                  std::int32_t* ids) {
    int const n = parts(logits.width());
    i64 const rows = logits.tokens();
    cudaStream_t const stream = ctx.backend().stream();
    cuda::launch("greedy", {n, 512, 0, std::min(rows, cuda::max_blocks_y), true}, stream,
                 &cuda::kernel::largest_of_part<>, static_cast<float const*>(logits.as<float>()), logits.stride[0],
                 rows, logits.width(), found);
    cuda::launch("greedy", {rows, cuda::warp_size, 0, 1, true}, stream, &cuda::kernel::largest_of_row<>,
                 ctx.batch(), static_cast<cuda::kernel::Largest const*>(found), n, ids);
  }
};

template <> struct Kernel<op::Advance, tag::cuda> {
  template <class B> static void run(Context<B>& ctx, op::Advance const&, std::int64_t* position) {
    cuda::launch("advance", cuda::kernel::detail::grid_over(ctx.seqs(), 128), ctx.backend().stream(),
                 &cuda::kernel::advance<>, ctx.batch(), position);
  }
};

JET_NAMESPACE_END
