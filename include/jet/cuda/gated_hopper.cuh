/// \file
/// An MLP's first two products and its activation in one kernel on Hopper (op/swiglu.hpp, SwiGluLinears): what lies
/// between is never written.
///
/// A block forms tiles of 128 rows by 128 outputs: two warpgroups of 64 rows each take the products with both
/// weights, side by side in their registers, a third part of the block fetches. Every sum runs over
/// the columns of x in their order: a row's bits do not depend on the rows beside it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/copy_bulk.cuh>
#include <jet/cuda/error.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/tensor_map.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/cuda/wgmma.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Sizes of gated_product_tiles.
struct GatedTiles {
  static constexpr int rows = 128;
  static constexpr int outputs = 128;
  static constexpr int depth = 64;
  static constexpr int consumers = 2;
  static constexpr int threads = consumers * 128 + 128;
  static constexpr int fetching_registers = 40;
  static constexpr int computing_registers = 232;
  static constexpr int stages = 4;
  static constexpr int x_bytes = rows * depth * int{sizeof(bf16)};
  static constexpr int weight_bytes = outputs * depth * int{sizeof(bf16)};
  static constexpr int stage_bytes = x_bytes + 2 * weight_bytes;
  static constexpr int panel_bytes = 64 * 64 * int{sizeof(bf16)};  // of y: 64 rows by 64 outputs
  static constexpr int barriers = 2 * stages;
  static constexpr i64 shared_bytes = 1024 + stages * stage_bytes + consumers * 2 * panel_bytes;
  /// Tiles of rows that all outputs are formed of before the next: they stay in L2.
  static constexpr int tiles_at_once = 16;
};
static_assert(GatedTiles::shared_bytes + 8 * GatedTiles::barriers <= 227 * 1024);

/// y = silu(x gate^T) * (x up^T), all bf16, sums in fp32 and one rounding. Maps: of x and both weights, tiles of 64
/// columns by 128 rows; of y, tiles of 64 by 64. `row_tiles` and `columns`: tiles of
/// rows and of outputs, `steps`: of depth.
template <class = void>
__global__ void __launch_bounds__(GatedTiles::threads, 1)
    gated_product_tiles(CUtensorMap const __grid_constant__ x_map, CUtensorMap const __grid_constant__ gate_map,
                        CUtensorMap const __grid_constant__ up_map, CUtensorMap const __grid_constant__ y_map,
                        int row_tiles, int columns, int steps) {
  using T = GatedTiles;
  if constexpr (has_wgmma) {
    extern __shared__ float4 gated_memory[];
    __shared__ std::uint64_t barriers[T::barriers];  // static: the host asks whether they are there
    std::byte* const ring =
        reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(gated_memory) + 1023) / 1024 * 1024);
    std::byte* const results = ring + T::stages * T::stage_bytes;
    std::uint64_t* const full = barriers;
    std::uint64_t* const empty = barriers + T::stages;
    int const thread = static_cast<int>(threadIdx.x);
    int const warp = thread / warp_size;
    release_next();
    if (thread == 0) {
      for (int i = 0; i < T::stages; ++i) {
        barrier_init(&full[i]);
        barrier_init(&empty[i], T::consumers * 4);  // every computing warp
      }
    }
    __syncthreads();
    wait_for_previous();
    int const blocks = static_cast<int>(gridDim.x);
    int const all = row_tiles * columns;
    struct Tile {
      int row, column;
    };
    auto const tile_of = [&](int n) {
      int const group = n / (T::tiles_at_once * columns);
      int const here = min(row_tiles - group * T::tiles_at_once, T::tiles_at_once);
      int const rest = n - group * T::tiles_at_once * columns;
      return Tile{(group * T::tiles_at_once + rest % here) * T::rows, rest / here * T::outputs};
    };
    int stage = 0, phase = 0;
    auto const advance = [&] {
      if (++stage == T::stages) {
        stage = 0;
        phase ^= 1;
      }
    };
    if (warp >= T::consumers * 4) {
      fewer_registers<T::fetching_registers>();
      if (thread == T::consumers * 128) {
        for (int n = static_cast<int>(blockIdx.x); n < all; n += blocks) {
          Tile const tile = tile_of(n);
          for (int k = 0; k < steps; ++k) {
            barrier_wait(&empty[stage], phase ^ 1);
            barrier_expect(&full[stage], T::stage_bytes);
            std::byte* const to = ring + stage * T::stage_bytes;
            copy_tile(to, x_map, &full[stage], k * T::depth, tile.row);
            copy_tile(to + T::x_bytes, gate_map, &full[stage], k * T::depth, tile.column);
            copy_tile(to + T::x_bytes + T::weight_bytes, up_map, &full[stage], k * T::depth, tile.column);
            advance();
          }
        }
      }
    } else {
      more_registers<T::computing_registers>();
      int const group = warp / 4;
      int const lane = thread % warp_size;
      std::uint32_t const ring_at = shared_address(ring);
      std::byte* const result = results + group * 2 * T::panel_bytes;
      float sum[128];
      for (int n = static_cast<int>(blockIdx.x); n < all; n += blocks) {
        Tile const tile = tile_of(n);
        int last_stage = 0;
        for (int k = 0; k < steps; ++k) {
          barrier_wait(&full[stage], phase);
          std::uint32_t const at = ring_at + static_cast<std::uint32_t>(stage * T::stage_bytes);
          std::uint64_t const a =
              wgmma_rows<Swizzle::bytes128>(at + static_cast<std::uint32_t>(group * (T::x_bytes / 2)), 1024);
          std::uint64_t const b = wgmma_rows<Swizzle::bytes128>(at + T::x_bytes, 1024);
          wgmma_fence();
          JET_UNROLL
          for (int j = 0; j < T::depth / 16; ++j) {
            wgmma<__nv_bfloat16, 2 * T::outputs>(sum, wgmma_advance(a, 32 * j), wgmma_advance(b, 32 * j),
                                                 k > 0 || j > 0);
          }
          wgmma_commit();
          if (k > 0) {  // the products of the step before have read their stage
            wgmma_wait<1>();
            if (lane == 0) {
              barrier_arrive(&empty[last_stage]);
            }
          }
          last_stage = stage;
          advance();
        }
        wgmma_wait<0>();
        wgmma_hold(sum);
        if (lane == 0) {
          barrier_arrive(&empty[last_stage]);
        }
        if (thread % 128 == 0) {
          wait_tile_stores<0>();
        }
        named_sync(1 + group, 128);  // the last tile has left
        int const row = 16 * (warp % 4) + lane / 4;
        JET_UNROLL
        for (int j = 0; j < T::outputs / 8; ++j) {
          JET_UNROLL
          for (int half = 0; half < 2; ++half) {
            int const i = 4 * j + 2 * half;
            std::uint32_t const word =
                pack_bf16(fast_silu(sum[i]) * sum[64 + i], fast_silu(sum[i + 1]) * sum[65 + i]);
            *reinterpret_cast<std::uint32_t*>(result + j / 8 * T::panel_bytes +
                                              swizzled<128>(row + 8 * half, j % 8) + 4 * (lane % 4)) = word;
          }
        }
        async_proxy_fence();
        named_sync(1 + group, 128);
        if (thread % 128 == 0) {
          JET_UNROLL
          for (int p = 0; p < 2; ++p) {
            store_tile(y_map, result + p * T::panel_bytes, tile.column + 64 * p, tile.row + 64 * group);
          }
          commit_tile_stores();
        }
      }
      if (thread % 128 == 0) {
        wait_tile_stores<0>();
      }
    }
  }
}

/// Whether gated_product_tiles can run, if the tensors begin at multiples of 16 bytes: the device, what it was
/// compiled for, and bf16 rows of 16-byte pieces.
template <class = void>
bool gated_tiles_fit(int compute_capability, View const& x, Slot const& gate, Slot const& up, View const& y) {
  auto const pieces = [](auto const& v) { return v.dtype == DType::bf16 && v.stride[0] % 8 == 0; };
  constexpr i64 most = i64{1} << 28;
  if (compute_capability / 10 != 9 || !has_dependent_launch || !pieces(x) || !pieces(gate) || !pieces(up) ||
      !pieces(y) || x.tokens() > most || y.width() > most || x.width() > most ||
      x.tokens() / GatedTiles::rows * (y.width() / GatedTiles::outputs) > most) {
    return false;
  }
  cudaFuncAttributes attributes{};
  if (cudaFuncGetAttributes(&attributes, reinterpret_cast<void const*>(&gated_product_tiles<>)) != cudaSuccess) {
    (void)cudaGetLastError();
    return true;  // a plan without a device
  }
  return attributes.sharedSizeBytes > 0;  // it was compiled with wgmma
}

/// Queues y = silu(x gate^T) * (x up^T): x (rows, k), gate and up (n, k), y (rows, n).
template <class = void>
void launch_gated_tiles(cudaStream_t stream, int multiprocessors, View const& x, Slot const& gate, Slot const& up,
                        View const& y) {
  using T = GatedTiles;
  auto const map = [](auto const& v, int box) {
    return tensor_map<2>(DType::bf16, v.data,
                         {{{v.extent[1], 0, T::depth}, {v.extent[0], v.stride[0] * i64{sizeof(bf16)}, box}}});
  };
  int const row_tiles = static_cast<int>((x.extent[0] + T::rows - 1) / T::rows);
  int const columns = static_cast<int>((y.extent[1] + T::outputs - 1) / T::outputs);
  int const steps = static_cast<int>((x.extent[1] + T::depth - 1) / T::depth);
  launch("gated_product_tiles",
         {.blocks = std::min<i64>(multiprocessors, i64{row_tiles} * columns),
          .threads = T::threads,
          .shared_bytes = T::shared_bytes,
          .dependent = true},
         stream, &gated_product_tiles<>, map(x, T::rows), map(gate, T::outputs), map(up, T::outputs), map(y, 64),
         row_tiles, columns, steps);
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
