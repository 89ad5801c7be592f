/// \file
/// Products of 17 to 64 rows, as decode steps of many sequences have them: all projections of one input in one
/// launch, the weights streamed once (wgmma, sm_90a).
///
/// The weights' rows are dealt out evenly to groups of blocks, whatever matrix they belong to; the blocks of a
/// group are a cluster and share the columns. A row's sums are added in an order that depends on the weights'
/// shapes alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/copy_async.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/products.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/runs_wgmma.cuh>
#include <jet/cuda/scan_call.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/cuda/wgmma.cuh>

JET_CUDA_NAMESPACE_BEGIN

/// Most rows of products_rows; more are faster through cuBLASLt (measured on an H100 with 128).
inline constexpr i64 many_rows = 64;

namespace kernel {

/// Shared memory of products_rows: stages of 64 columns of x (64 rows) and of W (N rows), in rows of 128
/// bytes; at the end the sums in their place.
template <int N> struct RowsShape {
  static constexpr int depth = 64;
  static constexpr int x_rows = static_cast<int>(many_rows);
  static constexpr int x_bytes = x_rows * 128;
  static constexpr int stage_bytes = x_bytes + N * 128;
  /// Enough to keep the memory busy, and where that leaves enough, room for a block of the next kernel.
  static constexpr int stages = std::clamp(106 * 1024 / stage_bytes, 3, 6);
  static constexpr int sum_stride = N + 8;
  static constexpr int bytes = std::max(stages * stage_bytes, x_rows* sum_stride * 4) + 1024;
};

/// A number in the shared memory of another block of the cluster.
__device__ inline float load_in_cluster(float const* at, int rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  auto const local = static_cast<unsigned>(__cvta_generic_to_shared(at));
  unsigned remote;
  float value;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(remote) : "memory");
  return value;
#else
  return *at;
#endif
}

/// y = x W^T of bf16, up to 64 rows of x. Cluster c of the grid takes rows [c share, (c + 1) share) of all
/// matrices together, at most N; gated (one part with `up`): gate and up in turn. Parts begin at row
/// `first_tile`. Its blocks take each a part of the columns in steps of 64; their sums are added in the blocks'
/// order. k is a multiple of 64, rows are 16-byte aligned. Cost: reads W once; x once per group, from cache.
template <int N>
__global__ void __launch_bounds__(256, N <= 144 ? 2 : 1)
    products_rows(Products const __grid_constant__ a, int share) {
  using Shape = RowsShape<N>;
  constexpr int threads = 256;
  constexpr int stages = Shape::stages;
  extern __shared__ uint4 rows_memory[];
  release_next();
  int const thread = static_cast<int>(threadIdx.x);
  int const ranks = cluster_size();
  int const rank = cluster_rank();
  bool const gated = a.part[0].up != nullptr;
  i64 const first = i64{blockIdx.x / static_cast<unsigned>(ranks)} * share;
  int const count = static_cast<int>(min(static_cast<i64>(share), a.tiles - first));  // rows of W of this group
  int const all_steps = static_cast<int>(a.k / Shape::depth);
  int const begin = rank * all_steps / ranks;
  int const steps = (rank + 1) * all_steps / ranks - begin;
  int const rows = static_cast<int>(a.rows);
  std::uint32_t const memory = (shared_address(rows_memory) + 1023) / 1024 * 1024;

  // A thread copies the same 16 bytes of every 32nd row. What is not copied comes to sums that nobody stores.
  constexpr int apart = threads / 8;
  constexpr int weight_rows = (N + apart - 1) / apart;
  constexpr int input_rows = Shape::x_rows / apart;
  int const piece = thread % 8;
  int const row0 = thread / 8;
  auto const to = static_cast<std::uint32_t>(swizzled<128>(row0, piece));
  bf16 const* weight[weight_rows];
  JET_UNROLL
  for (int i = 0; i < weight_rows; ++i) {
    i64 const row = first + min(row0 + i * apart, count - 1);
    Product const& p = a.part[part_of(a, row)];
    i64 const n = row - p.first_tile;
    weight[i] = (gated ? static_cast<bf16 const*>(n % 2 == 0 ? p.weight : p.up) +
                             n / 2 * (n % 2 == 0 ? p.weight_stride : p.up_stride)
                       : static_cast<bf16 const*>(p.weight) + n * p.weight_stride) +
                begin * Shape::depth + 8 * piece;
  }
  bf16 const* const input = static_cast<bf16 const*>(a.x) + row0 * a.x_stride + begin * Shape::depth + 8 * piece;
  i64 const input_step = apart * a.x_stride;
  auto const copy_weights = [&](int step) {
    std::uint32_t const at =
        memory + to + static_cast<std::uint32_t>(step % stages * Shape::stage_bytes + Shape::x_bytes);
    JET_UNROLL
    for (int i = 0; i < weight_rows; ++i) {
      if (row0 + i * apart < count) {
        copy_async(at + static_cast<std::uint32_t>(i * apart * 128), weight[i] + step * Shape::depth, true);
      }
    }
  };
  auto const copy_input = [&](int step) {
    std::uint32_t const at = memory + to + static_cast<std::uint32_t>(step % stages * Shape::stage_bytes);
    JET_UNROLL
    for (int i = 0; i < input_rows; ++i) {
      if (row0 + i * apart < rows) {
        copy_async(at + static_cast<std::uint32_t>(i * apart * 128), input + i * input_step + step * Shape::depth,
                   true);
      }
    }
  };
  JET_UNROLL
  for (int i = 0; i + 1 < stages; ++i) {
    if (i < steps) {
      copy_weights(i);
    }
  }
  wait_for_previous();
  JET_UNROLL
  for (int i = 0; i + 1 < stages; ++i) {
    if (i < steps) {
      copy_input(i);
    }
    commit_copies();
  }

  float sum[N / 2] = {};
  int const group = thread / 128;  // a warpgroup takes half of the columns of a stage
  for (int step = 0; step < steps; ++step) {
    wait_copies<stages - 2>();
    async_proxy_fence();
    __syncthreads();
    std::uint32_t const at = memory + static_cast<std::uint32_t>(step % stages * Shape::stage_bytes);
    std::uint64_t const x = wgmma_rows<Swizzle::bytes128>(at, 1024);
    std::uint64_t const w = wgmma_rows<Swizzle::bytes128>(at + static_cast<std::uint32_t>(Shape::x_bytes), 1024);
    wgmma_fence();
    JET_UNROLL
    for (int k = 0; k < Shape::depth / 32; ++k) {
      wgmma<__nv_bfloat16, N>(sum, wgmma_advance(x, 64 * group + 32 * k), wgmma_advance(w, 64 * group + 32 * k));
    }
    wgmma_commit();
    if (step + stages - 1 < steps) {  // into the stage that all have left before the barrier
      copy_weights(step + stages - 1);
      copy_input(step + stages - 1);
    }
    commit_copies();
    wgmma_wait<0>();
  }
  wgmma_hold(sum);
  wait_copies<0>();
  __syncthreads();

  float* const sums = reinterpret_cast<float*>(reinterpret_cast<unsigned char*>(rows_memory) +
                                               (memory - shared_address(rows_memory)));
  int const lane = thread % warp_size;
  int const warp = thread / warp_size;
  auto const each_pair = [&](auto const& take) {
    JET_UNROLL
    for (int j = 0; j < N / 8; ++j) {
      JET_UNROLL
      for (int half = 0; half < 2; ++half) {
        int const row = 16 * (warp % 4) + lane / 4 + 8 * half;
        take(*reinterpret_cast<float2*>(sums + row * Shape::sum_stride + 8 * j + 2 * (lane % 4)),
             make_float2(sum[4 * j + 2 * half], sum[4 * j + 2 * half + 1]));
      }
    }
  };
  if (group == 1) {
    each_pair([](float2& to_sum, float2 const& mine) { to_sum = mine; });
  }
  __syncthreads();
  if (group == 0) {
    each_pair(
        [](float2& to_sum, float2 const& mine) { to_sum = make_float2(mine.x + to_sum.x, mine.y + to_sum.y); });
  }
  if (ranks > 1) {
    cluster_arrive();
    cluster_wait();
  } else {
    __syncthreads();
  }
  auto const total = [&](int row, int column) {
    float const* const from = sums + row * Shape::sum_stride + column;
    if (ranks == 1) {
      return *from;
    }
    constexpr int most_ranks = 8;
    float part[most_ranks];
    JET_UNROLL
    for (int r = 0; r < most_ranks; ++r) {
      part[r] = r < ranks ? load_in_cluster(from, r) : 0.0f;
    }
    float all = part[0];
    JET_UNROLL
    for (int r = 1; r < most_ranks; ++r) {
      all += part[r];
    }
    return all;
  };
  int const outputs = gated ? count / 2 : count;
  int const from_row = rank * rows / ranks;
  int const to_row = (rank + 1) * rows / ranks;
  for (int c = lane; c < outputs; c += warp_size) {
    i64 const column = first + (gated ? 2 * c : c);
    Product const& p = a.part[part_of(a, column)];
    i64 const n = (column - p.first_tile) / (gated ? 2 : 1);
    for (int row = from_row + warp; row < to_row; row += threads / warp_size) {
      float const all = gated ? silu(total(row, 2 * c)) * total(row, 2 * c + 1) : total(row, c);
      store_sum(a, p, row, n, all);
    }
  }
  if (ranks > 1) {  // nobody leaves while others read
    cluster_arrive();
    cluster_wait();
  }
}

namespace detail {

/// How a launch of products_rows is cut: by the weights' shapes and the device alone.
struct RowsCut {
  int split = 0;  // blocks of a group; 0: no cut is possible
  int share = 0;  // rows of W of a group
};
inline constexpr int rows_most = 192;        // rows of W of a group
inline constexpr double rows_weighed = 128;  // rows of x that a cut is weighed with

/// `n`: rows of all matrices together; gated: of gate and up.
inline RowsCut cut_of_rows(i64 n, i64 k, bool gated, int multiprocessors, int only_split = 0) {
  RowsCut best;
  double least = 0;
  for (int split = 1; split <= 8; split *= 2) {
    // A cluster lies within one of the device's parts, which are not multiples of it.
    i64 const groups = (split <= 2 ? multiprocessors : multiprocessors - multiprocessors % 16) / split;
    if (groups < 1 || k / 64 < split || (only_split != 0 && split != only_split)) {
      continue;
    }
    i64 share = (n + groups - 1) / groups;
    share += gated ? share % 2 : 0;
    // A block's bytes of weights, its bytes of x, which come twice as fast, and what adding up takes.
    double const width = static_cast<double>(k) / split;
    double const cost = 2.0 * width * static_cast<double>(share) + width * rows_weighed + (split > 1 ? 24e3 : 0.0);
    if (share <= rows_most && (best.split == 0 || cost < least)) {
      least = cost;
      best = {split, static_cast<int>(share)};
    }
  }
  return best;
}

template <int N> void launch_rows(cudaStream_t stream, Products const& a, RowsCut const& cut) {
  launch("linear_rows",
         Grid{.blocks = (a.tiles + cut.share - 1) / cut.share * cut.split,
              .threads = 256,
              .shared_bytes = RowsShape<N>::bytes,
              .dependent = true,
              .cluster = cut.split},
         stream, &products_rows<N>, a, cut.share);
}

/// Queues the products if they are of a kind that products_rows takes: bf16, `aligned` (rows of x and weights begin
/// at multiples of 16 bytes), on sm_90a. Returns whether they are queued.
template <class = void>
bool rows_products(cudaStream_t stream, int multiprocessors, bool aligned, Products a, int only_split = 0) {
  if (!has_sm_90 || !aligned || a.rows > many_rows || a.k % 64 != 0 || a.k >= (1 << 24) || a.count == 0 ||
      !runs_wgmma()) {
    return false;
  }
  bool const gated = a.part[0].up != nullptr;
  a.tiles = 0;
  for (int i = 0; i < a.count; ++i) {
    a.part[i].first_tile = a.tiles;
    a.tiles += a.part[i].n * (gated ? 2 : 1);
  }
  RowsCut const cut = cut_of_rows(a.tiles, a.k, gated, multiprocessors, only_split);
  if (cut.split == 0) {
    return false;
  }
  if (cut.share <= 48) {
    launch_rows<48>(stream, a, cut);
  } else if (cut.share <= 96) {
    launch_rows<96>(stream, a, cut);
  } else if (cut.share <= 112) {
    launch_rows<112>(stream, a, cut);
  } else if (cut.share <= 144) {
    launch_rows<144>(stream, a, cut);
  } else {
    launch_rows<192>(stream, a, cut);
  }
  return true;
}

}  // namespace detail
}  // namespace kernel
JET_CUDA_NAMESPACE_END
