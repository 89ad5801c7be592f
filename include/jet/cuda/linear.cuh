/// \file
/// Matrix products (op/linear.hpp). Up to `few_rows` rows stream the weights once through kernels of our own, all
/// projections of one input in one launch; more rows go to cuBLASLt.
///
/// Our kernels add up a row in an order that depends on the number of columns alone: a row's result is the same
/// bits with any number of rows beside it. cuBLASLt promises that for one number of rows only; the option
/// batch_invariant keeps it out.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/backend.cuh>
#include <jet/cuda/blas_lt.cuh>
#include <jet/cuda/copy_async.cuh>
#include <jet/cuda/gated_hopper.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/linear_rows.cuh>
#include <jet/cuda/mma.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/products.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/swiglu.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/fwd.hpp>
#include <jet/op/linear.hpp>
#include <jet/op/swiglu.hpp>

JET_CUDA_NAMESPACE_BEGIN

/// Most rows for which products run on our own kernels.
inline constexpr i64 few_rows = 16;

namespace kernel {

/// 16 bytes that are read once and not kept in the first-level cache.
__device__ inline uint4 load_once(void const* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

/// Eight bf16 of a row of k from column i on, 0 beyond its end.
template <bool Aligned> __device__ inline uint4 eight_of(bf16 const* row, i64 i, i64 k) {
  uint4 v{0, 0, 0, 0};
  if constexpr (Aligned) {
    if (i < k) {
      v = *reinterpret_cast<uint4 const*>(row + i);
    }
  } else {
    std::uint32_t half[8];
    JET_UNROLL
    for (int e = 0; e < 8; ++e) {
      half[e] = i + e < k ? row[i + e].bits : 0u;
    }
    v = {half[0] | half[1] << 16, half[2] | half[3] << 16, half[4] | half[5] << 16, half[6] | half[7] << 16};
  }
  return v;
}

/// Warps of a block of products_mma, which share the columns: the order of the sums hangs on it.
inline constexpr int products_warps = 16;
/// Steps of 16 bytes of each of two rows of W that a lane of products_mma has under way, with `inputs` eights of
/// rows of x: as many as leave room on a multiprocessor for a block of the next kernel beside one of this.
constexpr int steps_ahead(int inputs) {
  return inputs == 1 ? 5 : 4;
}

/// y = w * x / sqrt(mean(x^2) + eps) of up to 8 rows, before a product reads them: a warp takes 256 numbers of a
/// row at a time, the bits are those of norm_rows<1>.
struct NormPieces {
  static constexpr int most = 4;  // of a warp
  static constexpr int width = 8 * warp_size;
  static constexpr int most_of_row = 32;
  __host__ __device__ static constexpr int of_row(int k) { return (k + width - 1) / width; }

  /// Weights of this warp's first piece, before the rows are there; the others come nearer.
  __device__ static Float8 first_weight(NormFirst const& norm, int rows, int k) {
    int const lane = static_cast<int>(threadIdx.x) % warp_size;
    int const n = static_cast<int>(threadIdx.x) / warp_size;
    int const i = n % of_row(k) * width + 8 * lane;
    if (n < rows * of_row(k) && i < k) {
      return load_eight(norm.weight, DType::f32, i);
    }
    return {};
  }
  /// Leaves the rows in `to` (row stride `stride`), and in norm.y if `keep`. `partial`: [8][most_of_row]. All
  /// threads of the block call it.
  __device__ static void run(NormFirst const& norm, Float8 const& first_weight, int rows, int k, bf16* to,
                             int stride, bool keep, float* partial) {
    int const lane = static_cast<int>(threadIdx.x) % warp_size;
    int const warp = static_cast<int>(threadIdx.x) / warp_size;
    int const pieces = of_row(k);
    uint4 v[most];
    JET_UNROLL
    for (int p = 0; p < most; ++p) {
      int const n = warp + p * products_warps;
      int const i = n % pieces * width + 8 * lane;
      v[p] = n < rows * pieces && i < k ? *reinterpret_cast<uint4 const*>(norm.x + n / pieces * norm.x_stride + i)
                                        : uint4{0, 0, 0, 0};
    }
    JET_UNROLL
    for (int p = 0; p < most; ++p) {
      int const n = warp + p * products_warps;
      if (n < rows * pieces) {
        float sum = 0;
        for (std::uint32_t const word : {v[p].x, v[p].y, v[p].z, v[p].w}) {
          sum += low_bf16(word) * low_bf16(word);
          sum += high_bf16(word) * high_bf16(word);
        }
        sum = warp_sum(sum);
        if (lane == 0) {
          partial[n / pieces * most_of_row + n % pieces] = sum;
        }
      }
    }
    __syncthreads();
    JET_UNROLL
    for (int p = 0; p < most; ++p) {
      int const n = warp + p * products_warps;
      if (n < rows * pieces) {
        int const row = n / pieces;
        int const i = n % pieces * width + 8 * lane;
        float const sum = warp_sum(lane < pieces ? partial[row * most_of_row + lane] : 0.0f);
        float const scale = rsqrtf(sum / static_cast<float>(k) + norm.eps);
        if (i < k) {
          Float8 const w = p == 0 ? first_weight : load_eight(norm.weight, DType::f32, i);
          uint4 y;
          y.x = pack_bf16(w.v[0] * (low_bf16(v[p].x) * scale), w.v[1] * (high_bf16(v[p].x) * scale));
          y.y = pack_bf16(w.v[2] * (low_bf16(v[p].y) * scale), w.v[3] * (high_bf16(v[p].y) * scale));
          y.z = pack_bf16(w.v[4] * (low_bf16(v[p].z) * scale), w.v[5] * (high_bf16(v[p].z) * scale));
          y.w = pack_bf16(w.v[6] * (low_bf16(v[p].w) * scale), w.v[7] * (high_bf16(v[p].w) * scale));
          *reinterpret_cast<uint4*>(to + row * stride + i) = y;
          if (keep) {
            *reinterpret_cast<uint4*>(norm.y + row * norm.y_stride + i) = y;
          }
        }
      }
    }
    __syncthreads();
  }
};

/// Elements from one row of x formed in shared memory to the next: rows of whole lines of 128 bytes begin in other
/// banks.
__host__ __device__ constexpr int normed_stride(int k) {
  return k + 32;
}

/// y = x W^T of bf16 on the tensor cores. A block takes tiles of a.tile rows of W one after another, and 8 * Inputs
/// rows of x per block of the grid's y. Its warps take blocks of 32 columns of W in turn; their sums are added in
/// the warps' order. A lane reads 16 consecutive bytes of a row of W and of a row of x: the four lanes of a row
/// cover 32 columns, in another order than the fragment's, the same for both factors. Every lane copies the pieces
/// of W that it will use itself, several steps in advance, across tiles and, when launched as dependent, while the
/// kernels before still run: no barrier but one per tile, for the sums. Gated: eight rows of `weight` and eight of
/// `up`; else sixteen of `weight`. Cost: reads W once; x once per tile, from cache.
/// Norm: x is formed first (a.norm), by every block, at most 8 rows.
template <int Inputs, bool Gated, bool Aligned, bool Norm>
__global__ void __launch_bounds__(products_warps* warp_size, 2) products_mma(Products const __grid_constant__ a) {
  constexpr int eights = 2;  // of rows of W
  constexpr int columns = 8 * eights;
  constexpr int inputs = 8 * Inputs;
  constexpr int depth = steps_ahead(Inputs);
  extern __shared__ uint4 ring[];  // [depth][eights][threads], then float [2][warps][inputs][columns]
  release_next();
  constexpr int threads = products_warps * warp_size;
  constexpr int warps = products_warps;
  int const lane = static_cast<int>(threadIdx.x) % warp_size;
  int const warp = static_cast<int>(threadIdx.x) / warp_size;
  int const g = lane / 4;
  int const t = 8 * (lane % 4);
  int const k = static_cast<int>(a.k);
  int const blocks = (k + 31) / 32;
  int const last_step = (blocks + warps - 1) / warps * warps;  // the same number of steps for all warps
  float* const sums = reinterpret_cast<float*>(ring + depth * eights * threads);

  // What is copied: the tile, the block of columns, the rows of W.
  i64 ahead_tile = blockIdx.x;
  int ahead_block = warp;
  int ahead_slot = 0;
  bf16 const* w[eights];
  int w_end[eights];  // rows beyond the tile are not read
  auto const find_rows = [&] {
    Product const& p = a.part[part_of(a, ahead_tile)];
    JET_UNROLL
    for (int j = 0; j < eights; ++j) {
      bool const up = Gated && j >= 1;
      int const row = 8 * (up ? j - 1 : j) + g;
      i64 const n = (ahead_tile - p.first_tile) * a.tile + row;
      bool const inside = row < a.tile && n < p.n;
      w[j] =
          static_cast<bf16 const*>(up ? p.up : p.weight) + (inside ? n * (up ? p.up_stride : p.weight_stride) : 0);
      w_end[j] = inside ? k : 0;
    }
  };
  find_rows();
  auto const copy_ahead = [&] {
    if (ahead_tile < a.tiles) {
      JET_UNROLL
      for (int j = 0; j < eights; ++j) {
        uint4* const to = &ring[(ahead_slot * eights + j) * threads + static_cast<int>(threadIdx.x)];
        int const column = ahead_block * 32 + t;
        if constexpr (Aligned) {
          bool const inside = column < w_end[j];
          copy_async(shared_address(to), w[j] + (inside ? column : 0), inside);
        } else {
          *to = eight_of<false>(w[j], column, w_end[j]);
        }
      }
      ahead_slot = ahead_slot + 1 == depth ? 0 : ahead_slot + 1;
      ahead_block += warps;
      if (ahead_block >= last_step) {
        ahead_block = warp;
        ahead_tile += gridDim.x;
        if (ahead_tile < a.tiles) {
          find_rows();
        }
      }
    }
    commit_copies();
  };
  JET_UNROLL
  for (int i = 0; i < depth; ++i) {
    copy_ahead();
  }

  i64 const row0 = static_cast<i64>(blockIdx.y) * inputs;
  bf16 const* x[Inputs];
  int x_end[Inputs];  // rows beyond the last are 0
  bf16* const normed = reinterpret_cast<bf16*>(sums + 2 * warps * inputs * columns);
  JET_UNROLL
  for (int j = 0; j < Inputs; ++j) {
    i64 const row = row0 + 8 * j + g;
    x[j] = Norm ? normed + (row < a.rows ? row : 0) * normed_stride(k)
                : static_cast<bf16 const*>(a.x) + (row < a.rows ? row : 0) * a.x_stride;
    x_end[j] = row < a.rows ? k : 0;
  }
  if constexpr (Norm) {
    __shared__ float partial[8 * NormPieces::most_of_row];
    int const rows = static_cast<int>(a.rows);
    Float8 const weight = NormPieces::first_weight(a.norm, rows, k);
    wait_for_previous();
    NormPieces::run(a.norm, weight, rows, k, normed, normed_stride(k), blockIdx.x == 0, partial);
  } else {
    wait_for_previous();
  }
  uint4 next_input[Inputs];
  auto const load_input = [&](int block) {
    JET_UNROLL
    for (int j = 0; j < Inputs; ++j) {
      next_input[j] = eight_of<Aligned>(x[j], block * 32 + t, x_end[j]);
    }
  };
  load_input(warp);
  int slot = 0;
  int half = 0;
  for (i64 tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
    float sum[eights][4]{};
    for (int block = warp; block < last_step; block += warps) {
      uint4 input[2]{};
      JET_UNROLL
      for (int j = 0; j < Inputs; ++j) {
        input[j] = next_input[j];
      }
      load_input(block + warps < last_step ? block + warps : warp);
      wait_copies<depth - 1>();
      std::uint32_t const first[4] = {input[0].x, input[1].x, input[0].y, input[1].y};
      std::uint32_t const second[4] = {input[0].z, input[1].z, input[0].w, input[1].w};
      JET_UNROLL
      for (int j = 0; j < eights; ++j) {
        uint4 const v = ring[(slot * eights + j) * threads + static_cast<int>(threadIdx.x)];
        mma_bf16(sum[j], first, v.x, v.y);
        mma_bf16(sum[j], second, v.z, v.w);
      }
      copy_ahead();
      slot = slot + 1 == depth ? 0 : slot + 1;
    }
    float* const here = sums + half * warps * inputs * columns;
    half = 1 - half;
    JET_UNROLL
    for (int j = 0; j < eights; ++j) {
      JET_UNROLL
      for (int e = 0; e < 2 * Inputs; ++e) {
        here[(warp * inputs + g + e / 2 * 8) * columns + 8 * j + 2 * (lane % 4) + e % 2] = sum[j][e];
      }
    }
    __syncthreads();
    constexpr int results = Gated ? columns / 2 : columns;
    auto const total = [&](int row, int column) {
      float all = 0;
      for (int from = 0; from < warps; ++from) {
        all += here[(from * inputs + row) * columns + column];
      }
      return all;
    };
    for (int i = static_cast<int>(threadIdx.x); i < inputs * results; i += threads) {
      Product const& p = a.part[part_of(a, tile)];
      int const column = i % results;
      i64 const row = row0 + i / results;
      i64 const n = (tile - p.first_tile) * a.tile + column;
      if (row < a.rows && column < a.tile && n < p.n) {
        float all = total(i / results, column);
        if constexpr (Gated) {
          all = silu(all) * total(i / results, column + results);
        }
        store_sum(a, p, row, n, all);
      }
    }
  }
}

/// y = x W^T with x f32 and W f32 or bf16, in fp32: a warp takes 4 rows of W and `Rows` rows of x, its lanes share
/// the columns. 16 rows of W per block of 4 warps. Cost: reads W once for every `Rows` rows.
template <class W, int Rows, bool Aligned>
__global__ void __launch_bounds__(128) products_f32(Products const __grid_constant__ a) {
  constexpr int at_once = Aligned ? 16 / static_cast<int>(sizeof(W)) : 1;
  constexpr int outputs = 4;
  release_next();
  wait_for_previous();
  int const lane = static_cast<int>(threadIdx.x) % warp_size;
  int const warp = static_cast<int>(threadIdx.x) / warp_size;
  Product const& p = a.part[part_of(a, blockIdx.x)];
  i64 const n0 = (blockIdx.x - p.first_tile) * 16 + warp * outputs;
  i64 const row0 = static_cast<i64>(blockIdx.y) * Rows;
  W const* w[outputs];
  JET_UNROLL
  for (int j = 0; j < outputs; ++j) {
    w[j] = static_cast<W const*>(p.weight) + (n0 + j < p.n ? n0 + j : p.n - 1) * p.weight_stride;
  }
  float sum[Rows][outputs]{};
  for (i64 i = lane * at_once; i < a.k; i += warp_size * at_once) {
    float weights[outputs][at_once];
    JET_UNROLL
    for (int j = 0; j < outputs; ++j) {
      if constexpr (!Aligned) {
        weights[j][0] = static_cast<float>(w[j][i]);
      } else {
        uint4 const v = load_once(w[j] + i);
        std::uint32_t const word[4] = {v.x, v.y, v.z, v.w};
        JET_UNROLL
        for (int e = 0; e < at_once; ++e) {
          if constexpr (std::is_same_v<W, float>) {
            weights[j][e] = __uint_as_float(word[e]);
          } else {
            weights[j][e] = e % 2 == 0 ? low_bf16(word[e / 2]) : high_bf16(word[e / 2]);
          }
        }
      }
    }
    JET_UNROLL
    for (int m = 0; m < Rows; ++m) {
      i64 const row = row0 + m < a.rows ? row0 + m : a.rows - 1;
      float const* const x = static_cast<float const*>(a.x) + row * a.x_stride + i;
      float input[at_once];
      if constexpr (!Aligned) {
        input[0] = *x;
      } else {
        JET_UNROLL
        for (int e = 0; e < at_once; e += 4) {
          float4 const v = *reinterpret_cast<float4 const*>(x + e);
          input[e] = v.x, input[e + 1] = v.y, input[e + 2] = v.z, input[e + 3] = v.w;
        }
      }
      JET_UNROLL
      for (int j = 0; j < outputs; ++j) {
        JET_UNROLL
        for (int e = 0; e < at_once; ++e) {
          sum[m][j] = fmaf(input[e], weights[j][e], sum[m][j]);
        }
      }
    }
  }
  JET_UNROLL
  for (int m = 0; m < Rows; ++m) {
    JET_UNROLL
    for (int j = 0; j < outputs; ++j) {
      float const all = warp_sum(sum[m][j]);
      if (lane == m * outputs % warp_size + j && row0 + m < a.rows && n0 + j < p.n) {
        store_sum(a, p, row0 + m, n0 + j, all);
      }
    }
  }
}

namespace detail {

/// Whether rows of `view` can be read 16 bytes at a time up to column k.
inline bool by_16_bytes(View const& view, i64 k) {
  i64 const element = size_of(view.dtype);
  return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0 && view.stride[0] * element % 16 == 0 &&
         k * element % 16 == 0;
}

/// Numbers the tiles of every projection.
inline void number_tiles(Products& a, i64 tile) {
  a.tile = static_cast<int>(tile);
  a.tiles = 0;
  for (int i = 0; i < a.count; ++i) {
    a.part[i].first_tile = a.tiles;
    a.tiles += (a.part[i].n + tile - 1) / tile;
  }
}

/// Rows of W of a tile of products_mma, by the weights' shapes alone: what leaves the fewest rows to the block that
/// has most. Measured on an H100 (GB/s of W): tiles of 12 rather than 16 rows are 10% faster where all blocks have
/// one, 5% slower where they have many, for rows beyond the tile take room in the ring.
inline int tile_of_products(Products const& a, int most, int blocks) {
  int best = most;
  double least = 0;
  for (int tile = most; 2 * tile > most; --tile) {
    i64 tiles = 0;
    for (int i = 0; i < a.count; ++i) {
      tiles += (a.part[i].n + tile - 1) / tile;
    }
    double const cost = static_cast<double>((tiles + blocks - 1) / blocks * tile) * (1.5 - 0.5 * tile / most);
    if (tile == most || cost < least) {
      least = cost;
      best = tile;
    }
  }
  return best;
}

template <int Inputs, bool Gated, bool Aligned, bool Norm = false>
void launch_mma(cudaStream_t stream, int multiprocessors, Products& a) {
  number_tiles(a, tile_of_products(a, Gated ? 8 : 16, multiprocessors));
  i64 const ring = products_warps * warp_size * 2 * steps_ahead(Inputs) * i64{sizeof(uint4)};
  i64 const sums = 2 * products_warps * 8 * Inputs * 16 * i64{sizeof(float)};
  i64 const normed = Norm ? a.rows * normed_stride(static_cast<int>(a.k)) * i64{sizeof(bf16)} : 0;
  launch("linear",
         {std::min<i64>(a.tiles, multiprocessors), products_warps * warp_size, ring + sums + normed,
          (a.rows + 8 * Inputs - 1) / (8 * Inputs), true},
         stream, &products_mma<Inputs, Gated, Aligned, Norm>, a);
}
template <bool Gated> void launch_mma(cudaStream_t stream, int multiprocessors, bool aligned, Products& a) {
  JET_CHECK(a.k <= std::numeric_limits<int>::max() - 1024, "CUDA: linear: ", a.k, " columns");
  if (!aligned) {
    launch_mma<2, Gated, false>(stream, multiprocessors, a);
  } else if (a.norm.x != nullptr) {
    launch_mma<1, Gated, true, true>(stream, multiprocessors, a);
  } else if (a.rows <= 8) {
    launch_mma<1, Gated, true>(stream, multiprocessors, a);
  } else {
    launch_mma<2, Gated, true>(stream, multiprocessors, a);
  }
}
template <class W, int Rows, bool Aligned> void launch_f32(cudaStream_t stream, Products& a) {
  number_tiles(a, 16);
  launch("linear", {a.tiles, 4 * warp_size, 0, (a.rows + Rows - 1) / Rows, true}, stream,
         &products_f32<W, Rows, Aligned>, a);
}

/// Takes over a norm of x that was put off, if the product can do it: then a.norm is set.
template <class B> void take_norm(B& backend, bool aligned, Products& a) {
  if (aligned && can_be_normed_first(a.rows) && a.k <= NormPieces::width * NormPieces::most_of_row &&
      a.rows * NormPieces::of_row(static_cast<int>(a.k)) <= NormPieces::most * products_warps) {
    backend.take_norm(a.x, a.norm);
  }
}

/// Queues the projections on our own kernels. W: the weights' storage type; x is W's or f32.
template <class W>
void own_products(cudaStream_t stream, int multiprocessors, DType x_type, bool aligned, Products& a) {
  if constexpr (std::is_same_v<W, bf16>) {
    if (x_type == DType::bf16) {
      launch_mma<false>(stream, multiprocessors, aligned, a);
      return;
    }
  }
  if (!aligned) {
    launch_f32<W, 4, false>(stream, a);
  } else if (a.rows <= 4) {
    launch_f32<W, 4, true>(stream, a);
  } else {
    launch_f32<W, 8, true>(stream, a);
  }
}

/// Scratch of products of `rows` rows.
template <class B> void* products_scratch(Context<B>& ctx, i64 rows) {
  if (rows <= few_rows || ctx.backend().batch_invariant()) {
    return nullptr;
  }
  auto const at =
      reinterpret_cast<std::uintptr_t>(ctx.scratch_bytes(BlasLt::workspace_bytes + BlasLt::workspace_alignment));
  return reinterpret_cast<void*>((at + BlasLt::workspace_alignment - 1) / BlasLt::workspace_alignment *
                                 BlasLt::workspace_alignment);
}

inline void check_product(op::Projection const& p, View const& x, DType weight_type) {
  JET_CHECK(p.weight.rank == 2 && p.weight.extent[1] == x.extent[1] && p.weight.stride[1] == 1,
            "CUDA: linear: a weight must have the shape (out, ", x.extent[1], ") with dense rows");
  JET_CHECK(p.weight.dtype == weight_type || p.weight.dtype == DType::f32, "CUDA: linear: a weight is ",
            name_of(p.weight.dtype), ", the backend's policy has ", name_of(weight_type));
  JET_CHECK(!p.bias || (p.bias.dtype == DType::f32 && p.bias.extent[0] == p.weight.extent[0]),
            "CUDA: linear: a bias must be ", p.weight.extent[0], " numbers of f32");
  check_rows("linear", p.out, "y", x.extent[0], p.weight.extent[0]);
}

/// Whether a projection of more than few_rows rows is still better off on our own kernels, in one launch with the
/// other small ones of its input: a launch of cuBLASLt takes longer than reading such weights again for every 16
/// rows.
inline bool is_small(op::Projection const& p, i64 rows) {
  return p.weight.extent[0] <= (rows <= 32 ? 512 : rows <= 128 ? 64 : 32);
}

inline Product product_of(op::Projection const& p) {
  return {p.weight.data,
          nullptr,
          static_cast<float const*>(p.bias.data),
          p.out.data,
          p.weight.stride[0],
          0,
          p.out.stride[0],
          p.weight.extent[0],
          0,
          p.out.dtype};
}

/// Queues products of more than few_rows and at most many_rows rows in one launch. False, with nothing queued,
/// where that cannot be.
template <class B>
bool products_together(B& backend, View const& x, op::Projection const* parts, std::size_t count, bool accumulate) {
  if (x.dtype != DType::bf16 || count > std::size_t{Products::most} || x.tokens() > many_rows) {
    return false;
  }
  Products a{};
  a.x = x.data;
  a.x_stride = x.stride[0];
  a.rows = x.tokens();
  a.k = x.width();
  a.accumulate = accumulate;
  bool aligned = by_16_bytes(x, a.k);
  for (std::size_t i = 0; i < count; ++i) {
    if (parts[i].weight.dtype != DType::bf16) {
      return false;
    }
    check_product(parts[i], x, DType::bf16);
    aligned = aligned && by_16_bytes(parts[i].weight, a.k);
    if (parts[i].weight.extent[0] > 0) {
      a.part[a.count++] = product_of(parts[i]);
    }
  }
  return rows_products(backend.stream(), backend.multiprocessors(), aligned, a);
}

/// Queues y_i = x W_i^T + b_i (+ y_i).
template <class B>
void products(Context<B>& ctx, void* workspace, View const& x, op::Projection const* parts, std::size_t count,
              bool accumulate) {
  using W = type_of<B::precision.weights>;
  check_rows("linear", x, "x", x.tokens(), x.width());
  i64 const rows = x.tokens();
  if (rows == 0) {
    return;
  }
  B& backend = ctx.backend();
  if (workspace != nullptr && products_together(backend, x, parts, count, accumulate)) {
    return;
  }
  Products own{};
  own.x = x.data;
  own.x_stride = x.stride[0];
  own.rows = rows;
  own.k = x.width();
  own.accumulate = accumulate;
  bool aligned = by_16_bytes(x, own.k);
  DType weight_type = DType::none;
  auto const queue_own = [&] {
    if (own.count == 0) {
      return;
    }
    if (weight_type == DType::bf16 && x.dtype == DType::bf16 && count == 1 && can_be_normed_first(rows) &&
        own.part[0].y_type == DType::bf16) {
      // y may be added to something next (Kernel<op::AddRmsNorm>)
      take_norm(backend, aligned, own);
      backend.put_off(own.part[0].y, [own, aligned, multiprocessors = backend.multiprocessors()](
                                         cudaStream_t stream, bf16* sum, i64 sum_stride) mutable {
        own.sum = sum;
        own.sum_stride = sum_stride;
        launch_mma<false>(stream, multiprocessors, aligned, own);
      });
    } else if (weight_type == dtype_of<W>) {
      if (weight_type == DType::bf16 && x.dtype == DType::bf16) {
        take_norm(backend, aligned, own);
      }
      own_products<W>(backend.stream(), backend.multiprocessors(), x.dtype, aligned, own);
    } else {
      own_products<float>(backend.stream(), backend.multiprocessors(), x.dtype, aligned, own);
    }
    own.count = 0;
    own.norm = {};
    aligned = by_16_bytes(x, own.k);
  };
  for (std::size_t i = 0; i < count; ++i) {
    op::Projection const& p = parts[i];
    check_product(p, x, dtype_of<W>);
    if (p.weight.extent[0] == 0) {
      continue;
    }
    if (workspace != nullptr && x.dtype == p.weight.dtype && !is_small(p, rows) &&
        (p.out.dtype == DType::f32 || (p.out.dtype == x.dtype && !p.bias)) &&
        backend.blas().product(backend.stream(), p.weight, p.bias.data, x, p.out, accumulate, workspace)) {
      continue;
    }
    if (own.count == Products::most || (own.count > 0 && weight_type != p.weight.dtype)) {
      queue_own();
    }
    JET_CHECK(x.dtype == p.weight.dtype || x.dtype == DType::f32, "CUDA: linear: x is ", name_of(x.dtype),
              ", the weight ", name_of(p.weight.dtype), "; expected the same, or x f32");
    weight_type = p.weight.dtype;
    aligned = aligned && by_16_bytes(p.weight, own.k);
    own.part[own.count++] = product_of(p);
  }
  queue_own();
}

}  // namespace detail
}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::Linear, tag::cuda> {
  template <class B>
  static void* scratch(Context<B>& ctx, op::Linear const&, Slot const&, Slot const&, View const& x, View const&) {
    return cuda::kernel::detail::products_scratch(ctx, x.tokens());
  }
  template <class B>
  static void* scratch(Context<B>& ctx, op::Linear const&, Slot const&, View const& x, View const&) {
    return cuda::kernel::detail::products_scratch(ctx, x.tokens());
  }
  template <class B>
  static void run(Context<B>& ctx, op::Linear const& op, void* workspace, Slot const& weight, Slot const& bias,
                  View const& x, View const& y) {
    op::Projection const part{weight, bias, y};
    cuda::kernel::detail::products(ctx, workspace, x, &part, 1, op.accumulate);
  }
  template <class B>
  static void run(Context<B>& ctx, op::Linear const& op, void* workspace, Slot const& weight, View const& x,
                  View const& y) {
    run(ctx, op, workspace, weight, Slot{}, x, y);
  }
};

template <> struct Kernel<op::Linears, tag::cuda> {
  template <class B, std::size_t N>
  static void* scratch(Context<B>& ctx, op::Linears const&, View const& x, std::array<op::Projection, N> const&) {
    return cuda::kernel::detail::products_scratch(ctx, x.tokens());
  }
  template <class B, std::size_t N>
  static void run(Context<B>& ctx, op::Linears const&, void* workspace, View const& x,
                  std::array<op::Projection, N> const& parts) {
    cuda::kernel::detail::products(ctx, workspace, x, parts.data(), N, false);
  }
};

/// Few rows of bf16 in one launch, many on Hopper too; everything else in two products, rounded to act between them
/// and the activation: written and read again they would cost more than the rest of an MLP's traffic at acc.
template <> struct Kernel<op::SwiGluLinears, tag::cuda> {
  struct Memory {
    View gate, up;  // null: one launch
    void* workspace;
  };
  template <class B>
  static Memory scratch(Context<B>& ctx, op::SwiGluLinears const&, View const& x, Slot const& gate, Slot const& up,
                        View const& y) {
    i64 const rows = x.tokens();
    if (one_launch(ctx, x, gate) || in_tiles(ctx, x, gate, up, y)) {
      return {};
    }
    Memory memory;
    memory.gate = ctx.scratch(rows, gate.extent[0]);
    memory.up = ctx.scratch(rows, gate.extent[0]);
    memory.workspace = cuda::kernel::detail::products_scratch(ctx, rows);
    return memory;
  }
  template <class B>
  static void run(Context<B>& ctx, op::SwiGluLinears const&, Memory const& memory, View const& x, Slot const& gate,
                  Slot const& up, View const& y) {
    namespace detail = cuda::kernel::detail;
    if (x.tokens() == 0 || y.width() == 0) {
      return;
    }
    for (Slot const* const w : {&gate, &up}) {
      detail::check_product({*w, {}, y}, x, DType::bf16);
    }
    cuda::kernel::Products a{};
    a.count = 1;
    a.part[0] = {gate.data,    up.data,     nullptr,   y.data, gate.stride[0],
                 up.stride[0], y.stride[0], y.width(), 0,      y.dtype};
    a.x = x.data;
    a.x_stride = x.stride[0];
    a.rows = x.tokens();
    a.k = x.width();
    bool const aligned =
        detail::by_16_bytes(x, a.k) && detail::by_16_bytes(gate, a.k) && detail::by_16_bytes(up, a.k);
    bool const all_bf16 = x.dtype == DType::bf16 && gate.dtype == DType::bf16 && up.dtype == DType::bf16;
    if (memory.gate &&
        !(all_bf16 && a.rows <= cuda::many_rows &&
          detail::rows_products(ctx.backend().stream(), ctx.backend().multiprocessors(), aligned, a))) {
      std::array const parts{op::Projection{gate, {}, memory.gate}, op::Projection{up, {}, memory.up}};
      detail::products(ctx, memory.workspace, x, parts.data(), parts.size(), false);
      ctx.run(op::SwiGlu{}, memory.gate, memory.up, y);
    }
    if (memory.gate) {
      return;
    }
    if (aligned && reinterpret_cast<std::uintptr_t>(y.data) % 16 == 0 && in_tiles(ctx, x, gate, up, y)) {
      cuda::kernel::launch_gated_tiles(ctx.backend().stream(), ctx.backend().multiprocessors(), x, gate, up, y);
      return;
    }
    detail::take_norm(ctx.backend(), aligned, a);
    detail::launch_mma<true>(ctx.backend().stream(), ctx.backend().multiprocessors(), aligned, a);
  }

 private:
  /// Fewest rows for which tiles of 128 by 128 are worth it.
  static constexpr i64 tiles_from = 512;

  template <class B>
  static bool in_tiles(Context<B>& ctx, View const& x, Slot const& gate, Slot const& up, View const& y) {
    return x.tokens() >= tiles_from && !ctx.backend().batch_invariant() &&
           cuda::kernel::gated_tiles_fit(ctx.backend().compute_capability(), x, gate, up, y);
  }
  template <class B> static bool one_launch(Context<B>& ctx, View const& x, Slot const& gate) {
    return (x.tokens() <= cuda::few_rows || ctx.backend().batch_invariant()) && x.dtype == DType::bf16 &&
           gate.dtype == DType::bf16;
  }
};

JET_NAMESPACE_END
