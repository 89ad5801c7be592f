/// \file
/// The scan in chunks of 64 tokens on Hopper's tensor cores (formulas: cuda/scan_chunk.cuh). The first kernel
/// makes, for all chunks at once, what does not depend on the state, as tiles that the second brings to shared
/// memory as they are. In the second a warpgroup keeps 64 columns of the state, transposed, in its registers, and
/// in three dependent steps makes of a chunk: [K S | Q S] ; U = T (V - e^gamma K S) ; P U and the next state.
/// Accumulators of one step, rounded to fp16, are the left factor of the next.
///
/// Long sequences are cut into pieces of `scan_piece` chunks that run side by side, in two passes: the first finds
/// what a piece adds to a state of zeros, N, and what it makes of any other, M (the same recurrence without values,
/// begun at the identity; with an additive update M is a number); S' = M S + N from piece to piece gives every
/// piece's first state, and the second pass is the scan. Whether a sequence is cut depends on its length alone.
///
/// Factors are fp16: keys and queries have norms of at most one (as they are, or, with an additive update, by a
/// power of two that is taken out of a row and goes with beta and the output). A warp scales V and S by a power of
/// two from a bound on what can come: for unit keys and 0 <= beta <= 2 a token adds at most beta |v| to the norm of
/// a column of the state, and |U| <= beta (|v| + that norm). The scaling is exact.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/copy_async.cuh>
#include <jet/cuda/copy_bulk.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/mma.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/scan_call.cuh>
#include <jet/cuda/scan_chunk.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/cuda/wgmma.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Chunks of a piece of a sequence, and from how many on a sequence is cut.
inline constexpr int scan_piece = 64;
inline constexpr int scan_cut_from = 256;

/// Most chunks of sequences that are cut, as pieces; 0: there is none.
constexpr i64 scan_max_pieces(i64 tokens) {
  i64 const longs = tokens / (i64{scan_cut_from - 1} * scan_chunk + 1);
  return longs == 0 ? 0 : tokens / (i64{scan_piece} * scan_chunk) + longs;
}

/// What the first kernel leaves of one chunk and head. Tiles of 64 rows of 64 bytes (32 columns), swizzled: K and Q
/// of every 32 columns, T of two times 32, P; then floats e^gamma, e^(gamma_C - gamma), the factor of the output,
/// that of the values (additive) [64], e^gamma_C, the largest beta of either half of the tokens.
template <int DK> struct ScanTiles {
  static_assert(DK % 32 == 0 && DK <= 256);
  static constexpr int n = scan_chunk;
  static constexpr int panel = n * 64;  // bytes of a tile of 32 columns
  static constexpr int keys = DK / 32 * 2 * panel;
  static constexpr int t = keys;
  static constexpr int p = t + 2 * panel;
  static constexpr int factors = p + 2 * panel;
  static constexpr int bytes = factors + (4 * n + 4) * int{sizeof(float)};
};
/// Offset of element (row, column) of a tile, column a multiple of 2.
__host__ __device__ constexpr int tile_offset(int row, int column, int panel) {
  return column / 32 * panel + swizzled<64>(row, column % 32 / 8) + column % 8 * 2;
}

/// Where sequences begin in lists of chunks, of pieces and of the states between the pieces of those that are cut.
struct ScanHopperMemory {
  int* first_chunk = nullptr;  // [3][seqs + 1]
  std::byte* chunks = nullptr;
  float* states = nullptr;     // [pieces][heads][head_k][head_v]: what a piece begins with
  float* transfers = nullptr;  // [pieces][heads][head_k][head_k]
};

constexpr int scan_pieces(int chunks) {
  return chunks < scan_cut_from ? (chunks > 0 ? 1 : 0) : (chunks + scan_piece - 1) / scan_piece;
}

template <class = void>
__global__ void scan_plan_pieces(std::int64_t const* cu_seqlens, std::int32_t const* slot, int seqs, int* first) {
  release_next();
  wait_for_previous();
  auto const chunks = [&](int i) { return scan_chunks_of(cu_seqlens, slot, i); };
  scan_offsets(seqs, first, chunks);
  scan_offsets(seqs, first + seqs + 1, [&](int i) { return scan_pieces(chunks(i)); });
  scan_offsets(seqs, first + 2 * (seqs + 1), [&](int i) {
    int const n = scan_pieces(chunks(i));
    return n > 1 ? n : 0;
  });
}

// ---- the first kernel

inline constexpr int scan_pad = 16;  // rows and columns of a diagonal block
template <int DK> constexpr i64 scan_tiles_shared() {
  return 1024 + (ScanTiles<DK>::bytes + 15) / 16 * 16 + 4 * scan_pad * (scan_pad + 1) * i64{sizeof(float)} +
         scan_chunk * i64{sizeof(double) + 3 * sizeof(float)} + 2 * i64{sizeof(double)};
}

/// X = (I + A)^-1 below, fp16 tiles: A's blocks below the diagonal at `a`, those on the diagonal, fp32, at
/// `diagonal` [4][16][17]. X's blocks above the diagonal are not written. 4 warps.
__device__ inline void invert_blocks(std::byte const* a, std::byte* x, float const* diagonal) {
  constexpr int panel = 64 * 64;
  using F = HalfFragments;
  int const warp = static_cast<int>(threadIdx.x) / warp_size;
  int const lane = static_cast<int>(threadIdx.x) % warp_size;
  auto const put = [&](int row, int column, float value) {
    *reinterpret_cast<__half*>(x + tile_offset(row, column & ~1, panel) + (column & 1) * 2) =
        __float2half_rn(value);
  };
  if (lane < scan_pad) {  // a column of the block per lane
    float const* const l = diagonal + warp * scan_pad * (scan_pad + 1);
    float v[scan_pad];
    JET_UNROLL
    for (int i = 0; i < scan_pad; ++i) {
      float sum = i == lane ? 1.0f : 0.0f;
      JET_UNROLL
      for (int m = 0; m < i; ++m) {
        sum = __fmaf_rn(-l[i * (scan_pad + 1) + m], v[m], sum);
      }
      v[i] = sum;
      put(16 * warp + i, 16 * warp + lane, sum);
    }
  } else if (warp % 2 == 0) {  // zeros beside it, for the last step
    for (int i = 0; i < scan_pad; ++i) {
      put(16 * warp + i, 16 * warp + lane, 0.0f);
    }
  }
  __syncthreads();
  int const m = lane / 8;
  int const g = lane / 4;
  int const t = lane % 4;
  // (X^T)[row, row + 16), columns [k, k + 16) as a left factor
  auto const transposed = [&](int row, int k) {
    F::A f;
    load_matrices_transposed(f.r,
                             shared_address(x + tile_offset(k + m / 2 * 8 + lane % 8, row + m % 2 * 8, panel)));
    return f;
  };
  // B[i][j] = tile[n + j][k + i]
  auto const right = [&](std::byte const* tile, int n, int k) {
    F::B f;
    load_matrices(f.r, shared_address(tile + tile_offset(n + m / 2 * 8 + lane % 8, k + m % 2 * 8, panel)));
    return f;
  };
  auto const negative = [](float const(&left)[4], float const(&other)[4]) {
    F::A f = F::from_sums(left, other);
    JET_UNROLL
    for (int i = 0; i < 4; ++i) {
      f.r[i] ^= 0x80008000u;
    }
    return f;
  };
  // X21^T = -(X11^T A21^T) X22^T, for blocks of 16, then of 32
  auto const store = [&](float const(&sums)[2][4], int row, int column) {
    JET_UNROLL
    for (int b = 0; b < 2; ++b) {
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        put(row + 8 * b + 2 * t + e % 2, column + g + e / 2 * 8, sums[b][e]);
      }
    }
  };
  if (warp < 2) {
    int const at = 32 * warp;
    float z[2][4] = {};
    F::multiply(z[0], z[1], transposed(at, at), right(a, at + 16, at));
    float r[2][4] = {};
    F::multiply(r[0], r[1], negative(z[0], z[1]), right(x, at + 16, at + 16));
    store(r, at + 16, at);
  }
  __syncthreads();
  int const column = warp % 2 * 16;
  int const row = 32 + warp / 2 * 16;
  float z[4][4] = {};
  JET_UNROLL
  for (int k = 0; k < 2; ++k) {
    F::A const left = transposed(column, 16 * k);
    JET_UNROLL
    for (int j = 0; j < 2; ++j) {
      F::multiply(z[2 * j], z[2 * j + 1], left, right(a, 32 + 16 * j, 16 * k));
    }
  }
  float r[2][4] = {};
  JET_UNROLL
  for (int k = 0; k < 2; ++k) {
    F::multiply(r[0], r[1], negative(z[2 * k], z[2 * k + 1]), right(x, row, 32 + 16 * k));
  }
  store(r, row, column);
  __syncthreads();
}

/// Four numbers of f32 or bf16, aligned to their size.
__device__ inline float4 load_four(bf16 const* from) {
  uint2 const w = *reinterpret_cast<uint2 const*>(from);
  return {low_bf16(w.x), high_bf16(w.x), low_bf16(w.y), high_bf16(w.y)};
}
__device__ inline float4 load_four(float const* from) {
  return *reinterpret_cast<float4 const*>(from);
}

/// One chunk of one head, a warpgroup.
template <int DK, bool Delta>
__global__ void __launch_bounds__(128)
    scan_tiles(ScanCall const __grid_constant__ call, int const* first_chunk, std::byte* memory) {
  if constexpr (has_wgmma) {
    using C = ScanTiles<DK>;
    constexpr int n = C::n;
    extern __shared__ float4 scan_memory[];
    std::uint32_t const base = shared_address(scan_memory);
    std::byte* const tiles = reinterpret_cast<std::byte*>(scan_memory) + ((base + 1023) / 1024 * 1024 - base);
    float* const factors = reinterpret_cast<float*>(tiles + C::factors);
    double* const gamma = reinterpret_cast<double*>(tiles + (C::bytes + 15) / 16 * 16);  // [n], of the first half
    float* const beta = reinterpret_cast<float*>(gamma + n + 2);                         // [n]
    int* const exponents = reinterpret_cast<int*>(beta + n);                             // [2][n], of k and q
    float* const diagonal = reinterpret_cast<float*>(exponents + 2 * n);
    std::byte* const a = tiles + C::p;  // until P is written
    std::byte* const x = tiles + C::t;
    release_next();
    wait_for_previous();

    ScanBlock const work(call, first_chunk);
    if (!work.live) {
      return;
    }
    int const chunk = work.chunk;
    int const head = work.head;
    i64 const begin = work.begin;
    int const rows = work.rows;
    int const thread = static_cast<int>(threadIdx.x);
    int const warp = thread / warp_size;
    int const lane = thread % warp_size;

    // Only differences of cumulative log decays matter, and after a few strong gates float has lost the small ones.
    double sum = 0;
    if (thread < n) {
      sum =
          call.decay == op::Decay::head && thread < rows ? double{scan_log_decay(call, begin + thread, head)} : 0.0;
      beta[thread] = thread < rows ? scan_beta(call, begin + thread, head) : 0.0f;
    }

    // Keys and queries in turn; rows beyond the end are zero.
    constexpr int groups = head_groups(DK);
    constexpr int together = DK <= 128 ? 16 : 8;
    for (int i = 0; i < 16; i += together / 2) {
      float v[together][groups][4];
      auto const load = [&](auto const* type) {  // the choice once, so that all loads are under way together
        JET_UNROLL
        for (int j = 0; j < together; ++j) {
          int const r = warp * 16 + i + j / 2;
          auto const* const from = reinterpret_cast<decltype(type)>(j % 2 == 0 ? call.k : call.q) +
                                   (begin + r) * (j % 2 == 0 ? call.k_stride : call.q_stride) + i64{head} * DK;
          JET_UNROLL
          for (int p = 0; p < groups; ++p) {
            int const d = head_element(p, 0);
            float4 const w = r < rows && d < DK ? load_four(from + d) : float4{0, 0, 0, 0};
            v[j][p][0] = w.x, v[j][p][1] = w.y, v[j][p][2] = w.z, v[j][p][3] = w.w;
          }
        }
      };
      if (call.qk_type == DType::bf16) {
        load(static_cast<bf16 const*>(nullptr));
      } else {
        load(static_cast<float const*>(nullptr));
      }
      JET_UNROLL
      for (int j = 0; j < together; ++j) {
        int const r = warp * 16 + i + j / 2;
        float squares = 0;
        JET_UNROLL
        for (int p = 0; p < groups; ++p) {
          JET_UNROLL
          for (int e = 0; e < 4; ++e) {
            if (call.raw && call.silu) {
              v[j][p][e] = fast_silu(v[j][p][e]);
            }
            squares = __fmaf_rn(v[j][p][e], v[j][p][e], squares);
          }
        }
        float scale = 1;
        if (call.raw) {
          scale = l2_scale(warp_sum(squares), qk_eps);
        } else if constexpr (!Delta) {
          // a power of two that brings the norm below one
          float largest = 0;
          JET_UNROLL
          for (int p = 0; p < groups; ++p) {
            JET_UNROLL
            for (int e = 0; e < 4; ++e) {
              largest = fmaxf(largest, fabsf(v[j][p][e]));
            }
          }
          largest = warp_largest(largest);
          // norm <= sqrt(DK) largest <= 16 largest < 2^(5 + exponent)
          int const bits = static_cast<int>(__float_as_uint(largest) >> 23);
          int const taken = largest == 0 ? 0 : min(max(bits - 127 + 5, -100), 100);
          scale = power_of_two(127 - taken);
          if (lane == 0) {
            exponents[j % 2 * n + r] = taken;
          }
        }
        JET_UNROLL
        for (int p = 0; p < groups; ++p) {
          int const d = head_element(p, 0);
          if (d < DK) {
            HalfFragments::store_four(
                reinterpret_cast<std::uint16_t*>(tiles + tile_offset(j % 2 * n + r, d, 2 * C::panel)),
                v[j][p][0] * scale, v[j][p][1] * scale, v[j][p][2] * scale, v[j][p][3] * scale);
          }
        }
      }
    }

    if (thread < n) {
      JET_UNROLL
      for (int step = 1; step < warp_size; step *= 2) {
        double const before = __shfl_up_sync(0xffffffffu, sum, static_cast<unsigned>(step));
        sum += lane >= step ? before : 0.0;
      }
      gamma[thread] = sum;
    }
    async_proxy_fence();
    __syncthreads();
    float kk[32];
    float qk[32];
    std::uint32_t const at = shared_address(tiles);
    wgmma_fence();
    JET_UNROLL
    for (int k = 0; k < DK / 16; ++k) {
      int const offset = k / 2 * 2 * C::panel + k % 2 * 32;
      std::uint64_t const keys = wgmma_advance(wgmma_rows<Swizzle::bytes64>(at, 512), offset);
      if constexpr (Delta) {
        wgmma<__half, 64>(kk, keys, keys, k > 0);
      }
      wgmma<__half, 64>(qk, wgmma_advance(keys, C::panel), keys, k > 0);
    }
    wgmma_commit();
    if (thread >= warp_size && thread < n) {
      gamma[thread] = sum + gamma[warp_size - 1];
    }
    wgmma_wait<0>();
    if constexpr (Delta) {
      wgmma_hold(kk);
    }
    wgmma_hold(qk);
    __syncthreads();
    if (thread < n) {
      double const last = gamma[n - 1];
      factors[thread] = expf(static_cast<float>(gamma[thread]));
      factors[n + thread] = expf(static_cast<float>(last - gamma[thread]));
      bool const taken = !Delta && !call.raw;
      factors[2 * n + thread] = taken ? call.scale * power_of_two(127 + exponents[n + thread]) : call.scale;
      factors[3 * n + thread] = taken ? beta[thread] * power_of_two(127 + exponents[thread]) : beta[thread];
      float const largest = warp_largest(beta[thread]);
      if (lane == 0) {
        factors[4 * n + 1 + warp] = largest;
      }
      if (thread == 0) {
        factors[4 * n] = expf(static_cast<float>(last));
      }
    }
    std::uint32_t inside[16];
    JET_UNROLL
    for (int j = 0; j < 8; ++j) {
      JET_UNROLL
      for (int half = 0; half < 2; ++half) {
        int const row = warp * 16 + lane / 4 + 8 * half;
        int const first = 8 * j + 2 * (lane % 4);
        float p[2] = {};
        float l[2] = {};
        if (j / 2 <= warp) {
          double const of_row = gamma[row];
          JET_UNROLL
          for (int e = 0; e < 2; ++e) {
            // masked before the exponential, which would be above 1 there
            float const decay = first + e <= row ? expf(static_cast<float>(of_row - gamma[first + e])) : 0.0f;
            p[e] = decay * qk[4 * j + 2 * half + e];
            if constexpr (Delta) {
              l[e] = first + e < row ? beta[row] * decay * kk[4 * j + 2 * half + e] : 0.0f;
            }
          }
        }
        inside[2 * j + half] = pack_f16(p[0], p[1]);
        if constexpr (Delta) {
          if (j / 2 == warp) {
            float* const to = diagonal + (warp * scan_pad + row % 16) * (scan_pad + 1) + first % 16;
            to[0] = l[0];
            to[1] = l[1];
          } else if (j / 2 < warp) {
            *reinterpret_cast<std::uint32_t*>(a + tile_offset(row, first, C::panel)) = pack_f16(l[0], l[1]);
          }
        }
      }
    }
    if constexpr (Delta) {
      __syncthreads();
      invert_blocks(a, x, diagonal);
      // T = X diag(beta)
      for (int i = thread; i < n * 8; i += 128) {
        int const row = i / 8;
        int const piece = i % 8;
        uint4* const to = reinterpret_cast<uint4*>(x + tile_offset(row, piece * 8, C::panel));
        uint4 w = {0, 0, 0, 0};
        if (piece / 2 <= row / 16) {
          w = *to;
          JET_UNROLL
          for (int e = 0; e < 4; ++e) {
            std::uint32_t& word = reinterpret_cast<std::uint32_t*>(&w)[e];
            float2 const f = __half22float2(reinterpret_cast<__half2&>(word));
            word = pack_f16(f.x * beta[8 * piece + 2 * e], f.y * beta[8 * piece + 2 * e + 1]);
          }
        }
        *to = w;
      }
    }
    JET_UNROLL
    for (int j = 0; j < 8; ++j) {
      JET_UNROLL
      for (int half = 0; half < 2; ++half) {
        int const row = warp * 16 + lane / 4 + 8 * half;
        *reinterpret_cast<std::uint32_t*>(a + tile_offset(row, 8 * j + 2 * (lane % 4), C::panel)) =
            inside[2 * j + half];
      }
    }
    async_proxy_fence();
    __syncthreads();
    if (thread == 0) {
      store_bulk(memory + (i64{chunk} * call.heads + head) * C::bytes, tiles, C::bytes);
      finish_bulk_stores();
    }
  }
}

// ---- the second kernel

inline constexpr int scan_warpgroups = 2;  // warpgroups with columns of a block
inline constexpr int scan_piece_threads = 128 * (scan_warpgroups + 1);
inline constexpr int scan_columns_of = scan_warpgroups * 64;  // columns of a block
/// Shared memory of the second kernel: for every stage tiles and values; then the stages' factors; barriers.
template <int DK> struct ScanStage {
  static constexpr int values = ScanTiles<DK>::factors;
  static constexpr int bytes = values + scan_chunk * scan_columns_of * int{sizeof(float)};
  static constexpr int factors = ScanTiles<DK>::bytes - ScanTiles<DK>::factors;
  static constexpr int alignment = 512;
  static constexpr int shared_of(int stages) {
    return stages * (bytes + factors + 2 * int{sizeof(std::uint64_t)}) + alignment;
  }
  static constexpr int stages = shared_of(3) <= 227 * 1024 ? 3 : 2;
  static constexpr int shared = shared_of(stages);
  static_assert(bytes % alignment == 0 && factors % 16 == 0 && shared <= 227 * 1024);
};
/// Which word (of 4 bytes) of a row of the tile of values word `word` is.
__device__ inline int value_word(int row, int word) {
  return word ^ ((row / 2 & 3) * 8);
}

/// sums += left tile^T for a tile of 64 x 64.
__device__ inline void multiply_square(float (&sums)[32], std::uint32_t const (&left)[4][4], std::uint32_t tile,
                                       bool add) {
  JET_UNROLL
  for (int k = 0; k < 4; ++k) {
    int const offset = k / 2 * 64 * 64 + k % 2 * 32;
    wgmma<__half, 64>(sums, left[k], wgmma_rows<Swizzle::bytes64>(tile + static_cast<std::uint32_t>(offset), 512),
                      add || k > 0);
  }
}
/// Eight accumulators, 16 columns, as a left factor.
__device__ inline void pack_left(std::uint32_t (&to)[4], float const* from) {
  to[0] = pack_f16(from[0], from[1]);
  to[1] = pack_f16(from[2], from[3]);
  to[2] = pack_f16(from[4], from[5]);
  to[3] = pack_f16(from[6], from[7]);
}

/// One piece of one sequence and head, 64 columns of the state per warpgroup; the last warpgroup brings tiles.
/// First: the pass that finds N and M, for pieces of sequences that are cut. Row g of a warp's 16 rows of S^T is
/// column 2 g of the state, row g + 8 column 2 g + 1.
template <int DK, bool Delta, bool First>
__global__ void __launch_bounds__(scan_piece_threads, 1)
    scan_pieces_kernel(ScanCall const __grid_constant__ call, ScanHopperMemory const memory, int blocks) {
  if constexpr (has_wgmma) {
    using C = ScanTiles<DK>;
    using Stage = ScanStage<DK>;
    constexpr int n = C::n;
    constexpr int stages = Stage::stages;
    extern __shared__ float4 scan_memory[];
    release_next();
    wait_for_previous();
    std::uint32_t const base = shared_address(scan_memory);
    std::byte* const stage_memory = reinterpret_cast<std::byte*>(scan_memory) +
                                    ((base + Stage::alignment - 1) / Stage::alignment * Stage::alignment - base);
    std::byte* const factor_memory = stage_memory + stages * Stage::bytes;
    std::uint64_t* const full = reinterpret_cast<std::uint64_t*>(factor_memory + stages * Stage::factors);
    std::uint64_t* const empty = full + stages;

    int const seqs = static_cast<int>(call.seqs);
    int const* const first_piece = memory.first_chunk + seqs + 1;
    int const block = static_cast<int>(blockIdx.x) % blocks;
    int const head = static_cast<int>(blockIdx.x) / blocks % call.heads;
    int const piece = static_cast<int>(blockIdx.x) / blocks / call.heads;
    if (piece >= first_piece[seqs]) {
      return;
    }
    int const sequence = scan_find(first_piece, seqs, piece);
    int const index = piece - first_piece[sequence];
    int const count = first_piece[sequence + 1] - first_piece[sequence];
    bool const cut = count > 1;
    if (First && index + 1 >= count) {
      return;
    }
    int const all = memory.first_chunk[sequence + 1] - memory.first_chunk[sequence];
    int const chunk0 = index * scan_piece;
    int const chunks = cut ? min(scan_piece, all - chunk0) : all;
    ScanSequence const seq(call, sequence);
    i64 const begin = seq.begin + i64{chunk0} * n;
    i64 const tokens = seq.tokens - i64{chunk0} * n;
    int const value_groups = (call.head_v + 63) / 64;
    // a block's warpgroups that have columns of the state, or of M
    int const groups = min(scan_warpgroups, value_groups + (First && Delta && index > 0 ? (DK + 63) / 64 : 0) -
                                                block * scan_warpgroups);
    if (groups <= 0) {
      return;
    }
    int const thread = static_cast<int>(threadIdx.x);
    int const group = thread / 128;
    int const warp = thread % 128 / warp_size;
    int const lane = thread % warp_size;
    if (thread == 0) {
      for (int i = 0; i < stages; ++i) {
        barrier_init(full + i, 1 + 128);
        barrier_init(empty + i, 4 * groups);
      }
    }
    __syncthreads();
    int const block_column = block * scan_columns_of;

    if (group == scan_warpgroups) {
      fewer_registers<40>();
      int const loader = thread % 128;
      std::byte const* const from =
          memory.chunks + (i64{memory.first_chunk[sequence] + chunk0} * call.heads + head) * C::bytes;
      i64 const step = i64{call.heads} * C::bytes;
      bool const wide = call.v_type == DType::f32;
      i64 const size = wide ? 4 : 2;
      int const pieces = wide ? scan_columns_of / 4 : scan_columns_of / 8;  // of 16 bytes of a row
      int const per_step = 128 / pieces;                                    // rows at a time, 4 or 8
      int const mine = loader % pieces;
      int const row0 = loader / pieces;
      bool const live = block_column + mine * (wide ? 4 : 8) < call.head_v;
      i64 const row_bytes = call.v_stride * size;
      std::byte const* values =
          reinterpret_cast<std::byte const*>(call.v) + (begin + row0) * row_bytes +
          (i64{head} * call.head_v + (live ? block_column + mine * (wide ? 4 : 8) : 0)) * size;
      for (int chunk = 0; chunk < chunks; ++chunk) {
        int const stage = chunk % stages;
        if (chunk >= stages) {
          barrier_wait(empty + stage, (chunk / stages - 1) & 1);
        }
        std::byte* const to = stage_memory + stage * Stage::bytes;
        if (loader == 0) {
          barrier_expect(full + stage, C::bytes);
          copy_bulk(to, from + chunk * step, C::factors, full + stage);
          copy_bulk(factor_memory + stage * Stage::factors, from + chunk * step + C::factors, Stage::factors,
                    full + stage);
        }
        int const rows = live ? static_cast<int>(min(i64{n}, tokens - i64{chunk} * n)) : 0;
        std::uint32_t const at = shared_address(to + Stage::values);
#pragma unroll 4
        for (int row = row0; row < n; row += per_step) {
          // an address that is not read where the row is not there
          copy_async(at + static_cast<std::uint32_t>(row * pieces * 16 + value_word(row, 4 * mine) * 4),
                     row < rows ? values : reinterpret_cast<std::byte const*>(call.v), row < rows);
          values += per_step * row_bytes;
        }
        copy_async_arrive(full + stage);
      }
      wait_copies<0>();
    } else {
      more_registers<232>();
      if (group < groups) {
        int const g = lane / 4;
        int const t = lane % 4;
        int const value_group = block * scan_warpgroups + group;
        bool const transfer = value_group >= value_groups;
        // of the state, or of M
        int const column = (transfer ? value_group - value_groups : value_group) * 64 + 16 * warp + 2 * g;
        int const width = transfer ? DK : call.head_v;
        bool const live = column < width;
        i64 const slot0 = cut ? memory.first_chunk[2 * (seqs + 1) + sequence] + index : 0;
        auto const state_of = [&](i64 slot) {
          return memory.states + (slot * call.heads + head) * DK * call.head_v;
        };
        float s[DK / 2];  // 4 j + e: column + e / 2, key 8 j + 2 t + e % 2
        JET_UNROLL
        for (int i = 0; i < DK / 2; ++i) {
          s[i] = 0;
        }
        auto const key_of = [&](int j, int e) { return 8 * j + 2 * t + e; };
        if (live && transfer) {
          JET_UNROLL
          for (int j = 0; j < DK / 8; ++j) {
            JET_UNROLL
            for (int e = 0; e < 4; ++e) {
              s[4 * j + e] = key_of(j, e % 2) == column + e / 2 ? 1.0f : 0.0f;
            }
          }
        } else if (live && !First && cut) {
          float const* const from = state_of(slot0) + column;
          JET_UNROLL
          for (int j = 0; j < DK / 8; ++j) {
            JET_UNROLL
            for (int e = 0; e < 2; ++e) {
              float2 const x = *reinterpret_cast<float2 const*>(from + key_of(j, e) * call.head_v);
              s[4 * j + e] = x.x;
              s[4 * j + e + 2] = x.y;
            }
          }
        } else if (live && index == 0 && call.state != nullptr) {
          with_type(call.state_type, [&](auto const* type) {
            auto const* const from = static_cast<decltype(type)>(call.state) + seq.slot * call.slot_stride +
                                     head * call.head_stride + column;
            JET_UNROLL
            for (int j = 0; j < DK / 8; ++j) {
              JET_UNROLL
              for (int e = 0; e < 4; ++e) {
                s[4 * j + e] = float(from[key_of(j, e % 2) * call.head_v + e / 2]);
              }
            }
          });
        }
        auto const store_state = [&](float* to, int stride, float scale) {
          JET_UNROLL
          for (int j = 0; j < DK / 8; ++j) {
            JET_UNROLL
            for (int e = 0; e < 2; ++e) {
              *reinterpret_cast<float2*>(to + key_of(j, e) * stride) =
                  make_float2(s[4 * j + e] * scale, s[4 * j + e + 2] * scale);
            }
          }
        };
        if (First && index == 0 && live) {
          store_state(state_of(slot0) + column, call.head_v, 1.0f);
        }

        auto const largest_state = [&] {
          float largest[4] = {};
          JET_UNROLL
          for (int i = 0; i < DK / 2; ++i) {
            largest[i % 4] = fmaxf(largest[i % 4], fabsf(s[i]));
          }
          return 16.0f * warp_largest(fmaxf(fmaxf(largest[0], largest[1]), fmaxf(largest[2], largest[3])));
        };
        float norm = largest_state();  // at least the norm of any column
        int scale_bits = 127;          // s is kept times 2^(scale_bits - 127)
        float kept = 1;                // the product of all decays

        for (int chunk = 0; chunk < chunks; ++chunk) {
          int const stage = chunk % stages;
          std::byte const* const tiles = stage_memory + stage * Stage::bytes;
          float const* const factors = reinterpret_cast<float const*>(factor_memory + stage * Stage::factors);
          std::byte const* const values = tiles + Stage::values;
          std::uint32_t const keys = shared_address(tiles);
          barrier_wait(full + stage, chunk / stages & 1);

          auto const read_values = [&](float(&u)[32]) {
            int const word = 64 * group + 16 * warp + 2 * g;
            if (call.v_type == DType::f32) {
              JET_UNROLL
              for (int j = 0; j < 8; ++j) {
                JET_UNROLL
                for (int e = 0; e < 2; ++e) {
                  int const row = 8 * j + 2 * t + e;
                  float2 const x = *reinterpret_cast<float2 const*>(values + row * scan_columns_of * 4 +
                                                                    value_word(row, word) * 4);
                  u[4 * j + e] = x.x;
                  u[4 * j + e + 2] = x.y;
                }
              }
            } else {
              JET_UNROLL
              for (int j = 0; j < 8; ++j) {
                JET_UNROLL
                for (int e = 0; e < 2; ++e) {
                  int const row = 8 * j + 2 * t + e;
                  std::uint32_t const x = *reinterpret_cast<std::uint32_t const*>(
                      values + row * scan_columns_of * 2 + value_word(row, word / 2) * 4);
                  u[4 * j + e] = low_bf16(x);
                  u[4 * j + e + 2] = high_bf16(x);
                }
              }
            }
            if constexpr (!Delta) {
              JET_UNROLL
              for (int j = 0; j < 8; ++j) {
                float2 const b = *reinterpret_cast<float2 const*>(factors + 3 * n + 8 * j + 2 * t);
                u[4 * j] *= b.x, u[4 * j + 1] *= b.y, u[4 * j + 2] *= b.x, u[4 * j + 3] *= b.y;
              }
            }
          };
          float u[32];
          read_values(u);
          float largest[4] = {};
          JET_UNROLL
          for (int i = 0; i < 32; ++i) {
            largest[i % 4] = fmaxf(largest[i % 4], fabsf(u[i]));
          }
          // of what may come, the largest state and U
          float const vs = warp_largest(fmaxf(fmaxf(largest[0], largest[1]), fmaxf(largest[2], largest[3])));
          float const beta = Delta ? fmaxf(factors[4 * n + 1], factors[4 * n + 2]) : 1.0f;
          float const added = 66.0f * beta * vs;  // to the norm of a column, by 64 tokens
          auto const bound = [&] { return (norm + added + vs) * fmaxf(beta, 1.0f); };
          if (float const b = bound() * power_of_two(scale_bits); b > 32768.0f || (b < 8192.0f && b > 0)) {
            norm = fminf(norm, largest_state() * power_of_two(254 - scale_bits));
            int const exponent = static_cast<int>(__float_as_uint(bound()) >> 23);
            // 2^14 <= bound < 2^15
            int const wanted = exponent == 0 ? 127 : min(max(268 - exponent, 2), 252);
            JET_UNROLL
            for (int i = 0; i < DK / 2; ++i) {
              s[i] = s[i] * power_of_two(254 - scale_bits) * power_of_two(wanted);
            }
            scale_bits = wanted;
          }
          float const scale = power_of_two(scale_bits);
          float const keep = factors[4 * n];
          norm = __fmaf_rn(keep, norm, added);
          kept *= keep;

          // [K S | Q S]^T
          float sums[Delta && !First ? 64 : 32];
          constexpr bool step_one = Delta || !First;
          if constexpr (step_one) {
            constexpr int wide = Delta && !First ? 128 : 64;
            constexpr int part = DK > 128 ? 4 : DK / 16;
            JET_UNROLL
            for (int k0 = 0; k0 < DK / 16; k0 += part) {
              std::uint32_t left[part][4];
              JET_UNROLL
              for (int k = 0; k < part; ++k) {
                pack_left(left[k], s + 8 * (k0 + k));
              }
              wgmma_fence();
              JET_UNROLL
              for (int k = 0; k < part; ++k) {
                int const offset = (k0 + k) / 2 * 2 * C::panel + (k0 + k) % 2 * 32 + (Delta ? 0 : C::panel);
                wgmma<__half, wide>(sums, left[k],
                                    wgmma_rows<Swizzle::bytes64>(keys + static_cast<std::uint32_t>(offset), 512),
                                    k0 + k > 0);
              }
              wgmma_commit();
              wgmma_wait<0>();
              wgmma_hold(sums);
            }
            if constexpr (DK > 128) {
              read_values(u);  // there was no room for them
            }
          }
          float o[32];
          if constexpr (!First) {
            JET_UNROLL
            for (int j = 0; j < 8; ++j) {
              float2 const decay = *reinterpret_cast<float2 const*>(factors + 8 * j + 2 * t);
              constexpr int first = Delta ? 32 : 0;
              o[4 * j] = sums[first + 4 * j] * decay.x;
              o[4 * j + 1] = sums[first + 4 * j + 1] * decay.y;
              o[4 * j + 2] = sums[first + 4 * j + 2] * decay.x;
              o[4 * j + 3] = sums[first + 4 * j + 3] * decay.y;
            }
          }
          std::uint32_t left[4][4];
          if constexpr (Delta) {
            // U^T = (V - e^gamma K S)^T T^T
            JET_UNROLL
            for (int j = 0; j < 8; ++j) {
              float2 const decay = *reinterpret_cast<float2 const*>(factors + 8 * j + 2 * t);
              u[4 * j] = __fmaf_rn(-decay.x, sums[4 * j], u[4 * j] * scale);
              u[4 * j + 1] = __fmaf_rn(-decay.y, sums[4 * j + 1], u[4 * j + 1] * scale);
              u[4 * j + 2] = __fmaf_rn(-decay.x, sums[4 * j + 2], u[4 * j + 2] * scale);
              u[4 * j + 3] = __fmaf_rn(-decay.y, sums[4 * j + 3], u[4 * j + 3] * scale);
            }
            JET_UNROLL
            for (int k = 0; k < 4; ++k) {
              pack_left(left[k], u + 8 * k);
            }
            wgmma_fence();
            multiply_square(u, left, keys + C::t, false);
            wgmma_commit();
            // meanwhile
            JET_UNROLL
            for (int i = 0; i < DK / 2; ++i) {
              s[i] *= keep;
            }
            wgmma_wait<0>();
            wgmma_hold(u);
          } else {
            JET_UNROLL
            for (int i = 0; i < 32; ++i) {
              u[i] *= scale;
            }
            JET_UNROLL
            for (int i = 0; i < DK / 2; ++i) {
              s[i] *= keep;
            }
          }
          // O^T += U^T P^T ; S'^T = e^gamma_C S^T + (e^(gamma_C - gamma) U)^T K
          if constexpr (!First) {
            JET_UNROLL
            for (int k = 0; k < 4; ++k) {
              pack_left(left[k], u + 8 * k);
            }
          }
          std::uint32_t rest[4][4];
          JET_UNROLL
          for (int j = 0; j < 8; ++j) {
            float2 const f = *reinterpret_cast<float2 const*>(factors + n + 8 * j + 2 * t);
            u[4 * j] *= f.x, u[4 * j + 1] *= f.y, u[4 * j + 2] *= f.x, u[4 * j + 3] *= f.y;
          }
          JET_UNROLL
          for (int k = 0; k < 4; ++k) {
            pack_left(rest[k], u + 8 * k);
          }
          if constexpr (!First) {
            wgmma_hold(o);
          }
          wgmma_hold(s);
          wgmma_fence();
          if constexpr (!First) {
            multiply_square(o, left, keys + C::p, true);
            wgmma_commit();
          }
          JET_UNROLL
          for (int k = 0; k < 4; ++k) {
            wgmma<__half, DK, true>(
                s, rest[k],
                wgmma_columns<Swizzle::bytes64>(keys + static_cast<std::uint32_t>(k * 16 * 64), 512, 2 * C::panel),
                true);
          }
          wgmma_commit();
          if constexpr (!First) {
            wgmma_wait<1>();
            wgmma_hold(o);
            float const back = power_of_two(254 - scale_bits);
            int const rows = static_cast<int>(min(i64{n}, tokens - i64{chunk} * n));
            i64 const out = (begin + i64{chunk} * n + 2 * t) * call.o_stride + i64{head} * call.head_v + column;
            if (live) {
              bool const wide = call.o_type == DType::f32;
              std::byte* to = reinterpret_cast<std::byte*>(call.o) + out * (wide ? 4 : 2);
              i64 const step = call.o_stride * (wide ? 4 : 2);
              JET_UNROLL
              for (int j = 0; j < 8; ++j) {
                float2 const f = *reinterpret_cast<float2 const*>(factors + 2 * n + 8 * j + 2 * t);
                JET_UNROLL
                for (int e = 0; e < 2; ++e) {
                  float const by = (e == 0 ? f.x : f.y) * back;
                  if (8 * j + 2 * t + e < rows) {
                    if (wide) {
                      *reinterpret_cast<float2*>(to) = make_float2(o[4 * j + e] * by, o[4 * j + e + 2] * by);
                    } else {
                      *reinterpret_cast<std::uint32_t*>(to) = pack_bf16(o[4 * j + e] * by, o[4 * j + e + 2] * by);
                    }
                  }
                  to += e == 0 ? step : 7 * step;
                  asm volatile("" : "+l"(to));  // one address at a time: there are no registers for sixteen
                }
              }
            }
          }
          wgmma_wait<0>();
          wgmma_hold(s);
          __syncwarp();
          if (lane == 0) {
            barrier_arrive(empty + stage);
          }
        }

        float const back = power_of_two(254 - scale_bits);
        if constexpr (First) {
          if (transfer && live) {
            store_state(memory.transfers + (slot0 * call.heads + head) * DK * DK + column, DK, back);
          } else if (live) {
            store_state(state_of(slot0 + 1) + column, call.head_v, back);
          }
          if constexpr (!Delta) {
            if (value_group == 0 && warp == 0 && lane == 0) {
              memory.transfers[(slot0 * call.heads + head) * DK * DK] = kept;
            }
          }
        } else if (live && call.state != nullptr && index + 1 == count) {
          with_type(call.state_type, [&](auto const* type) {
            using T = std::remove_cvref_t<decltype(*type)>;
            T* const to =
                static_cast<T*>(call.state) + seq.slot * call.slot_stride + head * call.head_stride + column;
            JET_UNROLL
            for (int j = 0; j < DK / 8; ++j) {
              JET_UNROLL
              for (int e = 0; e < 4; ++e) {
                to[key_of(j, e % 2) * call.head_v + e / 2] = T(s[4 * j + e] * back);
              }
            }
          });
        }
      }
    }
  }
}

// ---- between the passes

/// S' = M S + N along the pieces of a sequence, 16 columns of a head per block, in fp32.
template <int DK, bool Delta>
__global__ void __launch_bounds__(128)
    scan_join(ScanCall const __grid_constant__ call, ScanHopperMemory const memory) {
  __shared__ float4 state[2][DK][4];
  release_next();
  wait_for_previous();
  int const seqs = static_cast<int>(call.seqs);
  int const* const first_slot = memory.first_chunk + 2 * (seqs + 1);
  int const blocks = call.head_v / 16;
  int const block = static_cast<int>(blockIdx.x) % blocks;
  int const head = static_cast<int>(blockIdx.x) / blocks % call.heads;
  int const sequence = static_cast<int>(blockIdx.x) / blocks / call.heads;
  int const first = first_slot[sequence];
  int const pieces = first_slot[sequence + 1] - first;
  if (pieces == 0) {
    return;
  }
  int const thread = static_cast<int>(threadIdx.x);
  auto const at = [&](int piece, int key) {
    return reinterpret_cast<float4*>(
        memory.states + ((i64{first + piece} * call.heads + head) * DK + key) * call.head_v + 16 * block);
  };
  for (int key = thread; key < DK; key += 128) {
    JET_UNROLL
    for (int c = 0; c < 4; ++c) {
      state[1][key][c] = at(1, key)[c];
    }
  }
  for (int piece = 1; piece + 1 < pieces; ++piece) {
    __syncthreads();
    float const* const transfer = memory.transfers + (i64{first + piece} * call.heads + head) * DK * DK;
    float4(*const from)[4] = state[piece % 2];
    for (int key = thread; key < DK; key += 128) {
      float4 sums[4];
      JET_UNROLL
      for (int c = 0; c < 4; ++c) {
        sums[c] = at(piece + 1, key)[c];
      }
      auto const add = [&](float m, int k) {
        JET_UNROLL
        for (int c = 0; c < 4; ++c) {
          float4 const x = from[k][c];
          sums[c].x = __fmaf_rn(m, x.x, sums[c].x);
          sums[c].y = __fmaf_rn(m, x.y, sums[c].y);
          sums[c].z = __fmaf_rn(m, x.z, sums[c].z);
          sums[c].w = __fmaf_rn(m, x.w, sums[c].w);
        }
      };
      if constexpr (Delta) {
#pragma unroll 8
        for (int k = 0; k < DK; k += 4) {
          float4 const m = *reinterpret_cast<float4 const*>(transfer + key * DK + k);
          add(m.x, k), add(m.y, k + 1), add(m.z, k + 2), add(m.w, k + 3);
        }
      } else {
        add(transfer[0], key);
      }
      JET_UNROLL
      for (int c = 0; c < 4; ++c) {
        at(piece + 1, key)[c] = sums[c];
        state[(piece + 1) % 2][key][c] = sums[c];
      }
    }
  }
}

/// Queues the first kernel, for all sequences of more than scan_few tokens. `max_chunks`: at least as many as there
/// are.
template <int DK, bool Delta>
void launch_scan_tiles(cudaStream_t stream, ScanCall const& call, ScanHopperMemory const& memory, i64 max_chunks) {
  launch("scan_plan", Grid{.threads = 256, .dependent = true}, stream, &scan_plan_pieces<>, call.cu_seqlens,
         call.slot, static_cast<int>(call.seqs), memory.first_chunk);
  launch("scan_tiles",
         Grid{.blocks = max_chunks * call.heads,
              .threads = 128,
              .shared_bytes = scan_tiles_shared<DK>(),
              .dependent = true},
         stream, &scan_tiles<DK, Delta>, call, static_cast<int const*>(memory.first_chunk), memory.chunks);
}
/// Queues the chunk form for all sequences of more than scan_few tokens. `max_chunks`, `max_pieces`: at least as
/// many as there are. Pointers and strides are 16-byte aligned, head_v is a multiple of 16; q, k and v, o are f32
/// or bf16. Only where runs_wgmma().
template <int DK, bool Delta>
void launch_scan_hopper(cudaStream_t stream, ScanCall const& call, ScanHopperMemory const& memory, i64 max_chunks,
                        i64 max_pieces) {
  JET_ASSERT(call.delta == Delta);
  if (max_chunks == 0) {
    return;
  }
  launch_scan_tiles<DK, Delta>(stream, call, memory, max_chunks);
  int const value_groups = (call.head_v + 63) / 64;
  auto const blocks_of = [](int groups) { return (groups + scan_warpgroups - 1) / scan_warpgroups; };
  auto const grid = [&](int blocks) {
    return Grid{.blocks = (max_pieces + call.seqs) * call.heads * blocks,
                .threads = scan_piece_threads,
                .shared_bytes = ScanStage<DK>::shared,
                .dependent = true};
  };
  if (max_pieces > 0) {
    int const blocks = blocks_of(value_groups + (Delta ? (DK + 63) / 64 : 0));
    launch("scan_transfers", grid(blocks), stream, &scan_pieces_kernel<DK, Delta, true>, call, memory, blocks);
    launch("scan_join",
           Grid{.blocks = call.seqs * call.heads * (call.head_v / 16), .threads = 128, .dependent = true}, stream,
           &scan_join<DK, Delta>, call, memory);
  }
  int const blocks = blocks_of(value_groups);
  launch("scan_chunks", grid(blocks), stream, &scan_pieces_kernel<DK, Delta, false>, call, memory, blocks);
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
