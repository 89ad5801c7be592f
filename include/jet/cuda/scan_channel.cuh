/// \file
/// Scans with a decay per channel in chunks of 64 tokens on the tensor cores: GLA and KDA (op/gated_scan.hpp),
/// RWKV-7 (op/rwkv7.hpp); the formulas are in cpu/gated_scan.hpp and cpu/rwkv7.hpp.
///
/// Two kernels, as for a decay per head (cuda/scan_chunk.cuh). The first makes, for all chunks at once, what does
/// not depend on the state. Decays are products of e^g over the tokens between, formed from single e^g <= 1 and
/// never from a quotient or a difference of sums: nothing overflows, and what underflows is zero. Blocks of 16
/// tokens:
///   inside a block, lanes take channels and walk along the tokens: w_j = y_j, w_j *= e^g_i, sum += x_i w_j;
///   between blocks, x_i times the decay since its block began and y_j times the decay until its block ends, both
///   <= 1 per channel, with the decays of the blocks between, are factors of a matrix product.
/// The second runs along the chunks of a sequence, a warp per 16 columns of the state, which it keeps transposed in
/// registers. With D = diag(e^gamma_C), all rows of Q, K, A, B decayed from the chunk's begin or to its end:
///   additive  O = Q S + P V ;  S' = D S + K^T V                          (beta is in P and K)
///   delta     U = T (V - K1 S) ;  O = Q S + P U ;  S' = D S + K^T U      (beta is in T)
///   general   U = T (A S + M V) ;  O = Q S + P V + P2 U ;  S' = D S + K^T V + B^T U
/// With fp16 factors every matrix is scaled by a power of two of its own, which is exact.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/copy_async.cuh>
#include <jet/cuda/copy_bulk.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/mma.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/scan_call.cuh>
#include <jet/cuda/scan_chunk.cuh>
#include <jet/cuda/scan_fragments.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

enum class ChannelRule : std::uint8_t { additive, delta, general };

/// What the first kernel leaves of one chunk and head, rows padded: Q, K[, K1 or A[, B]] [64][DK], P[, T[, P2, M]]
/// [64][64], e^gamma_C [DK], and the exponents of the matrices' scales.
template <class F, int DK, ChannelRule Rule> struct ChannelChunk {
  using Element = typename F::Element;
  static constexpr int n = scan_chunk;
  static constexpr int matrices = Rule == ChannelRule::additive ? 2 : Rule == ChannelRule::delta ? 3 : 4;
  static constexpr int squares = Rule == ChannelRule::additive ? 1 : Rule == ChannelRule::delta ? 2 : 4;
  static constexpr int stride = DK + F::pad(DK);
  static constexpr int square_stride = n + F::pad(n);
  static constexpr int matrix = n * stride;
  static constexpr int square = n * square_stride;
  static constexpr int exponents = 8;
  static constexpr int bytes =
      (matrices * matrix + squares * square) * int{sizeof(Element)} + (DK + exponents) * int{sizeof(float)};
};
enum ChannelScale { of_q, of_k, of_third, of_b, of_p, of_t, of_p2, of_m };

/// 2^e, clamped to normal numbers.
__device__ inline float exp2_of(int e) {
  return __uint_as_float(static_cast<unsigned>(min(max(e, -126), 126) + 127) << 23);
}
/// The exponent e of a scale: largest 2^e in [256, 512), as far as |e| <= 30 allows.
__device__ inline int channel_exponent(float largest) {
  int const exponent = static_cast<int>(__float_as_uint(largest) >> 23 & 0xff) - 127;
  return largest == 0 ? 0 : min(max(8 - exponent, -30), 30);
}

inline constexpr int channel_block = 16;
inline constexpr int channel_pairs = channel_block * (channel_block + 1) / 2;
inline constexpr int channel_sums = 160;  // pairs, a whole number of warps

/// Adds to sums what one channel gives to all pairs i >= j of a block, pair by pair along i: x_i y_j times e of the
/// tokens j + 1 ... i, or with `before` ... i - 1.
__device__ inline void add_pairs(float (&sums)[channel_sums], float const (&x)[channel_block],
                                 float const (&y)[channel_block], float const (&e)[channel_block], bool before) {
  int p = 0;
  JET_UNROLL
  for (int j = 0; j < channel_block; ++j) {
    float w = y[j];
    JET_UNROLL
    for (int i = j; i < channel_block; ++i) {
      float const next = i > j ? w * e[i] : w;
      sums[p] = __fmaf_rn(x[i], before ? w : next, sums[p]);
      w = next;
      ++p;
    }
  }
}
template <int Step> __device__ void spread_half(float (&v)[warp_size]) {
  bool const upper = (static_cast<int>(threadIdx.x) & Step) != 0;
  JET_UNROLL
  for (int i = 0; i < Step; ++i) {
    float const send = upper ? v[i] : v[i + Step];
    float const keep = upper ? v[i + Step] : v[i];
    v[i] = keep + __shfl_xor_sync(0xffffffffu, send, Step);
  }
}
/// The sums over the lanes: afterwards lane l has number 32 m + l in sums[m].
__device__ inline void spread_sums(float (&sums)[channel_sums]) {
  JET_UNROLL
  for (int m = 0; m < channel_sums / warp_size; ++m) {
    float v[warp_size];
    JET_UNROLL
    for (int i = 0; i < warp_size; ++i) {
      v[i] = sums[warp_size * m + i];
    }
    spread_half<16>(v);
    spread_half<8>(v);
    spread_half<4>(v);
    spread_half<2>(v);
    spread_half<1>(v);
    sums[m] = v[0];
  }
}

/// Bytes of shared memory of channel_prepare: the matrices in fp32, decays of blocks, and two squares, which lie
/// over the first matrix where that is large enough.
template <int DK, ChannelRule Rule> struct ChannelPrepare {
  static constexpr int n = scan_chunk;
  static constexpr int stride = DK + SplitFragments::pad(DK);
  static constexpr int matrices = ChannelChunk<SplitFragments, DK, Rule>::matrices;
  static constexpr int square = n * scan_float_stride;
  static constexpr bool apart = Rule != ChannelRule::additive && 2 * square > n* stride;
  static constexpr int decays = 11;  // of the 4 blocks; before 1 ... 3; after 0 ... 2; between: 1, 2, 1 and 2
  static constexpr i64 shared_bytes =
      (matrices * n * stride + (apart ? 2 * square : 0) + decays * DK + 2 * n) * i64{sizeof(float)};
};

/// One chunk of one head, a warp per block of 16 tokens. Exact: split tf32 products, otherwise one tf32 product.
template <class F, int DK, ChannelRule Rule>
__global__ void __launch_bounds__(128)
    channel_prepare(ScanCall const __grid_constant__ call, int const* first_chunk, std::byte* memory) {
  using C = ChannelChunk<F, DK, Rule>;
  using L = ChannelPrepare<DK, Rule>;
  using E = typename F::Element;
  constexpr bool exact = std::is_same_v<F, SplitFragments>;
  constexpr int n = C::n;
  constexpr int stride = L::stride;
  extern __shared__ float4 scan_memory[];
  float* const rows_q = reinterpret_cast<float*>(scan_memory);
  float* const rows_k = rows_q + n * stride;
  float* const rows_third = rows_k + n * stride;  // delta: K1, general: A
  float* const rows_b = rows_third + n * stride;
  float* const behind = rows_q + L::matrices * n * stride;
  float* const square = L::apart ? behind : rows_q;
  float* const inverse = square + L::square;
  float* const decay = behind + (L::apart ? 2 * L::square : 0);  // [4][DK]
  float* const before = decay + 3 * DK;                          // [1 ... 3][DK], since the chunk's begin
  float* const after = decay + 7 * DK;                           // [0 ... 2][DK], until its end
  float* const between = decay + 10 * DK;                        // of blocks 1 and 2
  float* const beta = decay + L::decays * DK;                    // [n]
  float* const largest = beta + n;                               // [4][4]
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
  std::byte* const to = memory + (i64{chunk} * call.heads + head) * C::bytes;
  E* const to_matrices = reinterpret_cast<E*>(to);
  E* const to_squares = to_matrices + C::matrices * C::matrix;
  float* const to_decay = reinterpret_cast<float*>(to_squares + C::squares * C::square);
  int* const to_exponents = reinterpret_cast<int*>(to_decay + DK);

  int const thread = static_cast<int>(threadIdx.x);
  int const block = thread / warp_size;
  int const lane = thread % warp_size;
  int const g = lane / 4;
  int const t = lane % 4;
  if (thread < n) {
    beta[thread] = Rule != ChannelRule::general && thread < rows && call.beta != nullptr
                       ? call.beta[(begin + thread) * call.beta_stride + head]
                   : thread < rows ? 1.0f
                                   : 0.0f;
  }
  if (thread < 16) {
    largest[thread] = 0;
  }
  __syncthreads();

  float sums[channel_sums];
  /// The pairs of x and y of this warp's block, and what the matrix products of other blocks need of them.
  auto const inside = [&](bool before_own, float const* x, i64 x_stride, float const* y, i64 y_stride,
                          float* keep_x, float* keep_y, int which_x, int which_y) {
    JET_UNROLL
    for (int i = 0; i < channel_sums; ++i) {
      sums[i] = 0;
    }
    float most_x = 0;
    float most_y = 0;
    i64 const first = begin + block * channel_block;
#pragma unroll 1
    for (int d = lane; d < (DK + warp_size - 1) / warp_size * warp_size; d += warp_size) {
      float e[channel_block];
      float xs[channel_block];
      float ys[channel_block];
      JET_UNROLL
      for (int i = 0; i < channel_block; ++i) {
        bool const valid = d < DK && block * channel_block + i < rows;
        i64 const column = i64{head} * DK + d;
        e[i] = valid ? call.g[(first + i) * call.g_stride + column] : 0.0f;
        xs[i] = valid ? x[(first + i) * x_stride + column] : 0.0f;
        ys[i] = valid ? y[(first + i) * y_stride + column] : 0.0f;
      }
      JET_UNROLL
      for (int i = 0; i < channel_block; ++i) {
        e[i] = expf(e[i]);
      }
      add_pairs(sums, xs, ys, e, before_own);
      JET_UNROLL
      for (int i = 0; i < channel_block; ++i) {
        most_x = fmaxf(most_x, fabsf(xs[i]));
        most_y = fmaxf(most_y, fabsf(ys[i]));
      }
      if (d < DK && keep_x != nullptr) {
        float* const at = keep_x + block * channel_block * stride + d;
        float since = 1;
        JET_UNROLL
        for (int i = 0; i < channel_block; ++i) {
          float const next = since * e[i];
          at[i * stride] = xs[i] * (before_own ? since : next);
          since = next;
        }
      }
      if (d < DK && keep_y != nullptr) {
        float* const at = keep_y + block * channel_block * stride + d;
        float until = 1;
        JET_UNROLL
        for (int i = channel_block - 1; i >= 0; --i) {
          at[i * stride] = ys[i] * until;
          until *= e[i];
        }
        decay[block * DK + d] = until;
      }
    }
    if (!exact) {
      most_x = warp_largest(most_x);
      most_y = warp_largest(most_y);
      if (lane == 0) {
        largest[4 * block + which_x] = most_x;
        largest[4 * block + which_y] = most_y;
      }
    }
    spread_sums(sums);
  };
  /// put(i, j, sum) for i >= j of this warp's block, put(j, i, 0) above.
  auto const put_inside = [&](auto const& put) {
    JET_UNROLL
    for (int m = 0; m < (channel_pairs + warp_size - 1) / warp_size; ++m) {
      int p = warp_size * m + lane;
      if (p < channel_pairs) {
        int j = 0;
        while (p >= channel_block - j) {
          p -= channel_block - j;
          ++j;
        }
        int const row = block * channel_block + j + p;
        int const column = block * channel_block + j;
        put(row, column, sums[m]);
        if (p > 0) {
          put(column, row, 0.0f);
        }
      }
    }
  };
  /// put(i, j, sum) of x and y for all i of later blocks than j's.
  auto const between_blocks = [&](float const* x, float const* y, auto const& put) {
#pragma unroll 1
    for (int task = block; task < 12; task += 4) {
      int const pair = task / 2;  // (1, 0) (2, 0) (2, 1) (3, 0) (3, 1) (3, 2)
      int const i = pair == 0 ? 1 : pair < 3 ? 2 : 3;
      int const j = pair - i * (i - 1) / 2;
      float const* const factor = i - j == 2 ? decay + (j + 1) * DK : between;
      float const* const left = x + (i * channel_block + g) * stride + 2 * t;
      float const* const right = y + (j * channel_block + task % 2 * 8 + g) * stride + 2 * t;
      float c[4] = {};
#pragma unroll 2
      for (int k = 0; k < DK; k += 8) {
        float2 a = *reinterpret_cast<float2 const*>(left + k);
        float2 b = *reinterpret_cast<float2 const*>(left + 8 * stride + k);
        float2 const z = *reinterpret_cast<float2 const*>(right + k);
        if (i - j > 1) {
          float2 const f = *reinterpret_cast<float2 const*>(factor + k + 2 * t);
          a.x *= f.x, a.y *= f.y, b.x *= f.x, b.y *= f.y;
        }
        if constexpr (exact) {
          SplitTf32 const s[4] = {SplitTf32(a.x), SplitTf32(b.x), SplitTf32(a.y), SplitTf32(b.y)};
          SplitTf32 const zx(z.x);
          SplitTf32 const zy(z.y);
          std::uint32_t const high_part[4] = {s[0].high, s[1].high, s[2].high, s[3].high};
          std::uint32_t const low_part[4] = {s[0].low, s[1].low, s[2].low, s[3].low};
          mma_tf32(c, low_part, zx.high, zy.high);
          mma_tf32(c, high_part, zx.low, zy.low);
          mma_tf32(c, high_part, zx.high, zy.high);
        } else {
          std::uint32_t const part[4] = {to_tf32(a.x), to_tf32(b.x), to_tf32(a.y), to_tf32(b.y)};
          mma_tf32(c, part, to_tf32(z.x), to_tf32(z.y));
        }
      }
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        put(i * channel_block + g + e / 2 * 8, j * channel_block + task % 2 * 8 + 2 * t + e % 2, c[e]);
      }
    }
  };
  auto const most = [&](int which) {
    return fmaxf(fmaxf(largest[which], largest[4 + which]), fmaxf(largest[8 + which], largest[12 + which]));
  };
  /// Rows times the decays of whole blocks, as the second kernel has them.
  auto const write = [&](float const* from, bool since, float factor, float const* of_row, int which) {
    E* const out = to_matrices + which * C::matrix;
    for (int i = thread; i < n * (DK / 4); i += 128) {
      int const row = i / (DK / 4);
      int const d = i % (DK / 4) * 4;
      int const at = row / channel_block;
      float4 v = *reinterpret_cast<float4 const*>(from + row * stride + d);
      float f = factor * (of_row != nullptr ? of_row[row] : 1.0f);
      float4 w = make_float4(f, f, f, f);
      if (since ? at > 0 : at < 3) {
        float4 const m = *reinterpret_cast<float4 const*>((since ? before : after) + at * DK + d);
        w.x *= m.x, w.y *= m.y, w.z *= m.z, w.w *= m.w;
      }
      F::store_four(out + row * C::stride + d, v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w);
    }
  };
  auto const store = [](E* to_one, float value) {
    if constexpr (exact) {
      *to_one = value;
    } else {
      *to_one = static_cast<E>(pack_f16(value, 0.0f));
    }
  };

  // Factors of scales, and their exponents: of a matrix by its largest number, of sums of products by a bound,
  // below which fp16 has range enough.
  int exponent[C::exponents] = {};
  auto const of_sums = [&](float bound) {
    return exact || bound == 0 ? 0 : min(max(channel_exponent(static_cast<float>(DK) * bound) + 6, -30), 30);
  };
  auto const of_rows = [&](float bound) { return exact ? 0 : channel_exponent(bound); };
  // One pass per square, all through the same code: instructions are many.
  constexpr int passes = Rule == ChannelRule::additive ? 1 : Rule == ChannelRule::delta ? 2 : 4;
  float most_q = 0;
  float most_k = 0;
  float most_b = 0;
  float const* const of_key = Rule == ChannelRule::additive ? beta : nullptr;
#pragma unroll 1
  for (int pass = 0; pass < passes; ++pass) {
    bool const last = pass > 0 && pass + 1 == passes;  // the square whose inverse is T
    bool const removes = pass >= 2;                    // rows of a, which meet the state before its decay
    float const* x = call.q;
    float const* y = call.k;
    i64 x_stride = call.q_stride;
    i64 y_stride = call.k_stride;
    float* rows_x = rows_q;
    float* rows_y = rows_k;
    int which_x = of_q;
    int which_y = of_k;
    if (Rule == ChannelRule::delta && pass == 1) {
      x = call.k, x_stride = call.k_stride, rows_x = rows_third, which_x = of_third;
    }
    if (Rule == ChannelRule::general && removes) {
      x = call.a, x_stride = call.a_stride, rows_x = rows_third, which_x = of_third;
    }
    if (Rule == ChannelRule::general && pass % 2 == 1) {
      y = call.b, y_stride = call.b_stride, rows_y = rows_b, which_y = of_b;
    }
    bool const new_x = pass == 0 || (Rule == ChannelRule::delta ? pass == 1 : pass == 2);
    bool const new_y = pass == 0 || (Rule == ChannelRule::general && pass == 1);
    inside(removes, x, x_stride, y, y_stride, new_x ? rows_x : nullptr, new_y ? rows_y : nullptr, which_x, which_y);
    __syncthreads();
    if (pass == 0) {
      for (int d = thread; d < DK; d += 128) {
        float const d0 = decay[d];
        float const d1 = decay[DK + d];
        float const d2 = decay[2 * DK + d];
        float const d3 = decay[3 * DK + d];
        before[DK + d] = d0;
        before[2 * DK + d] = d0 * d1;
        before[3 * DK + d] = d0 * d1 * d2;
        after[2 * DK + d] = d3;
        after[DK + d] = d2 * d3;
        after[d] = d1 * d2 * d3;
        between[d] = d1 * d2;
        to_decay[d] = d0 * d1 * d2 * d3;
      }
    }
    if (!exact) {
      float const most_x = most(which_x);
      if (pass == 0) {
        most_q = call.scale * most_x;
        most_k = most(of_k);
        if (of_key != nullptr && call.beta != nullptr) {
          most_k *= warp_largest(fmaxf(fabsf(beta[lane]), fabsf(beta[lane + warp_size])));
        }
        exponent[of_q] = of_rows(most_q);
        exponent[of_k] = of_rows(most_k);
        exponent[of_p] = of_sums(most_q * most_k);
      } else if (Rule == ChannelRule::delta) {
        exponent[of_third] = of_rows(most_x);
      } else if (pass == 1) {
        most_b = most(of_b);
        exponent[of_b] = of_rows(most_b);
        exponent[of_p2] = of_sums(most_q * most_b);
      } else if (pass == 2) {
        exponent[of_third] = of_rows(most_x);
        exponent[of_m] = of_sums(most_x * most_k);
      }
    }
    __syncthreads();
    int const of_square = pass == 0 ? of_p : pass == 1 ? of_p2 : of_m;
    float const factor = last ? (Rule == ChannelRule::delta ? 1.0f : -1.0f)
                              : (pass < 2 ? call.scale : 1.0f) * exp2_of(exponent[of_square]);
    E* const to_square = to_squares + (pass == 0 ? 0 : pass + 1) * C::square;
    auto const put = [&](int i, int j, float sum) {
      if (last) {
        square[i * scan_float_stride + j] = (Rule == ChannelRule::delta ? beta[i] : factor) * sum;
      } else {
        float const by = of_key != nullptr ? factor * of_key[j] : factor;
        store(to_square + i * C::square_stride + j, removes && i == j ? 0.0f : by * sum);
      }
    };
    put_inside(put);
    between_blocks(rows_x, rows_y, put);
    // which matrices are complete: Q and K; K1; B; A
    int const first_matrix = pass == 0 ? 0 : Rule == ChannelRule::general && pass == 1 ? 3 : 2;
    int const matrices = pass == 0 ? 2 : pass == 3 ? 0 : 1;
#pragma unroll 1
    for (int i = first_matrix; i < first_matrix + matrices; ++i) {
      bool const since = i == 0 || i == 2;
      write(rows_q + i * n * stride, since, (i == 0 ? call.scale : 1.0f) * exp2_of(exponent[i]),
            i == 1 ? of_key : nullptr, i);
    }
  }
  if constexpr (Rule != ChannelRule::additive) {
    __syncthreads();
    invert_unit_lower(square, inverse, scan_float_stride);
    auto const t_at = [&](int i) {
      int const row = i / (n / 4);
      int const column = i % (n / 4) * 4;
      float4 v = *reinterpret_cast<float4 const*>(inverse + row * scan_float_stride + column);
      if (Rule == ChannelRule::delta) {
        v.x *= beta[column], v.y *= beta[column + 1], v.z *= beta[column + 2], v.w *= beta[column + 3];
      }
      return v;
    };
    if (!exact) {
      float most_t = 0;
      for (int i = thread; i < n * n / 4; i += 128) {
        float4 const v = t_at(i);
        most_t = fmaxf(most_t, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
      }
      most_t = warp_largest(most_t);
      if (lane == 0) {
        largest[4 * block] = most_t;
      }
      __syncthreads();
      exponent[of_t] = channel_exponent(most(0));
    }
    float const scale_t = exp2_of(exponent[of_t]);
    E* const to_t = to_squares + C::square;
    for (int i = thread; i < n * n / 4; i += 128) {
      float4 const v = t_at(i);
      F::store_four(to_t + i / (n / 4) * C::square_stride + i % (n / 4) * 4, scale_t * v.x, scale_t * v.y,
                    scale_t * v.z, scale_t * v.w);
    }
  }
  if (thread == 0) {
    JET_UNROLL
    for (int i = 0; i < C::exponents; ++i) {
      to_exponents[i] = exponent[i];
    }
  }
}

/// Most warps of a block of channel_chunks; floats of a row of its tile of V.
inline constexpr int channel_max_warps = 8;
constexpr int channel_value_stride(int warps) {
  return 16 * warps + 4;
}
/// Bytes of shared memory of channel_chunks.
template <class F, int DK, ChannelRule Rule> constexpr i64 channel_chunks_shared(int stages, int warps) {
  return stages * i64{ChannelChunk<F, DK, Rule>::bytes} +
         scan_chunk * channel_value_stride(warps) * i64{sizeof(float)} + 2 * i64{sizeof(std::uint64_t)};
}

/// All chunks of one head of one sequence, a block's warps 16 columns of the state each. `stages` 2: the next chunk
/// is fetched meanwhile.
template <class F, int DK, ChannelRule Rule>
__global__ void __launch_bounds__(32 * channel_max_warps)
    channel_chunks(ScanCall const __grid_constant__ call, int const* first_chunk, std::byte const* memory,
                   int column_blocks, int stages) {
  using C = ChannelChunk<F, DK, Rule>;
  using E = typename F::Element;
  constexpr int n = C::n;
  constexpr bool scaled = std::is_same_v<F, HalfFragments>;
  extern __shared__ float4 scan_memory[];
  release_next();
  wait_for_previous();
  int const thread = static_cast<int>(threadIdx.x);
  int const threads = static_cast<int>(blockDim.x);
  int const warps = threads / warp_size;
  int const warp = thread / warp_size;
  int const lane = thread % warp_size;
  int const g = lane / 4;
  int const t = lane % 4;
  int const value_stride = channel_value_stride(warps);
  i64 const pair = blockIdx.x / static_cast<unsigned>(column_blocks);
  int const block = static_cast<int>(blockIdx.x % static_cast<unsigned>(column_blocks));
  int const sequence = static_cast<int>(pair / call.heads);
  int const head = static_cast<int>(pair % call.heads);
  int const chunk0 = first_chunk[sequence];
  int const chunks = first_chunk[sequence + 1] - chunk0;
  if (chunks == 0) {
    return;
  }
  ScanSequence const seq(call, sequence);
  int const block_column = block * 16 * warps;
  int const column = block_column + 16 * warp + g;  // and column + 8
  bool const live = block_column + 16 * warp < call.head_v;

  std::byte* const tiles = reinterpret_cast<std::byte*>(scan_memory);                       // [stages][C::bytes]
  float* const values = reinterpret_cast<float*>(tiles + stages * C::bytes);                // [n][value_stride]
  std::uint64_t* const full = reinterpret_cast<std::uint64_t*>(values + n * value_stride);  // of tiles
  if (has_bulk_copies) {
    if (thread < 2) {
      barrier_init(full + thread);
    }
    __syncthreads();
  }
  auto const rows_of = [&](int chunk) { return static_cast<int>(min(i64{n}, seq.tokens - i64{chunk} * n)); };
  auto const fetch_tile = [&](int chunk) {
    int const stage = chunk % stages;
    std::byte* const at = tiles + stage * C::bytes;
    std::byte const* const from = memory + (i64{chunk0 + chunk} * call.heads + head) * C::bytes;
    if (has_bulk_copies) {
      if (thread == 0) {
        barrier_expect(full + stage, C::bytes);
        copy_bulk(at, from, C::bytes, full + stage);
      }
    } else {
      for (int i = 16 * thread; i < C::bytes; i += 16 * threads) {
        copy_async(shared_address(at + i), from + i, true);
      }
      commit_copies();
    }
  };
  // Eight rows at a time. Seen after wait_copies and a barrier; rows beyond the end are zeros.
  int const value_piece = thread % (4 * warps) * 4;
  int const value_row = thread / (4 * warps);
  bool const value_live = block_column + value_piece < call.head_v;
  auto const fetch_values = [&](int chunk) {
    int const rows = rows_of(chunk);
    float const* const from = call.v + (seq.begin + i64{chunk} * n) * call.v_stride + i64{head} * call.head_v +
                              (value_live ? block_column + value_piece : 0);
    std::uint32_t const to = shared_address(values + value_piece);
    JET_UNROLL
    for (int i = 0; i < n; i += 8) {
      int const row = value_row + i;
      bool const valid = row < rows && value_live;
      copy_async(to + static_cast<std::uint32_t>(row * value_stride * int{sizeof(float)}),
                 from + (valid ? row : 0) * call.v_stride, valid);
    }
    commit_copies();
  };

  float s[DK / 8][4] = {};  // S^T: columns g, g + 8 of the state, keys 8 j + 2 t, + 1
  i64 const state = seq.slot * call.slot_stride + head * call.head_stride + column;
  auto const state_at = [&](int j, int e) { return state + (8 * j + 2 * t + e % 2) * call.head_v + e / 2 * 8; };
  fetch_tile(0);
  fetch_values(0);
  if (stages == 2 && chunks > 1) {
    fetch_tile(1);
  }
  if (live && call.state != nullptr) {
    with_type(call.state_type, [&](auto const* type) {
      auto const* const from = static_cast<decltype(type)>(call.state);
      JET_UNROLL
      for (int j = 0; j < DK / 8; ++j) {
        JET_UNROLL
        for (int e = 0; e < 4; ++e) {
          s[j][e] = float(from[state_at(j, e)]);
        }
      }
    });
  }
  // Numbers are kept times 2^exponent; all exponents are 0 with fp32 factors.
  int s_exponent = 0;
  auto const largest_of = []<int N>(float const(&x)[N][4]) {
    float most = 0;
    JET_UNROLL
    for (int j = 0; j < N; ++j) {
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        most = fmaxf(most, fabsf(x[j][e]));
      }
    }
    return warp_largest(most);
  };
  auto const multiply_all = []<int N>(float(&x)[N][4], float factor) {
    JET_UNROLL
    for (int j = 0; j < N; ++j) {
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        x[j][e] *= factor;
      }
    }
  };
  /// Changes the scale so that the largest number is in [256, 512).
  auto const fit = [&](auto& x, int& exponent) {
    if constexpr (scaled) {
      int const more = channel_exponent(largest_of(x));
      multiply_all(x, exp2_of(more));
      exponent += more;
    }
  };
  auto const rescale = [&](auto& x, int by) {
    if constexpr (scaled) {
      if (by != 0) {
        multiply_all(x, exp2_of(by));
      }
    }
  };
  fit(s, s_exponent);
  wait_copies<0>();
  __syncthreads();

  for (int chunk = 0; chunk < chunks; ++chunk) {
    if (has_bulk_copies) {
      barrier_wait(full + chunk % stages, chunk / stages & 1);
    }
    std::byte const* const at = tiles + chunk % stages * C::bytes;
    E const* const queries = reinterpret_cast<E const*>(at);
    E const* const keys = queries + C::matrix;
    [[maybe_unused]] E const* const third = keys + C::matrix;
    [[maybe_unused]] E const* const replacement = third + C::matrix;
    E const* const inside = queries + C::matrices * C::matrix;
    [[maybe_unused]] E const* const inverse = inside + C::square;
    [[maybe_unused]] E const* const inside_2 = inverse + C::square;
    [[maybe_unused]] E const* const mixed = inside_2 + C::square;
    float const* const decay = reinterpret_cast<float const*>(inside + C::squares * C::square);
    int const* const exponents = reinterpret_cast<int const*>(decay + DK);
    float v[8][4];  // V^T: tokens 8 j + 2 t, + 1
    JET_UNROLL
    for (int j = 0; j < 8; ++j) {
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        v[j][e] = values[(8 * j + 2 * t + e % 2) * value_stride + 16 * warp + g + e / 2 * 8];
      }
    }
    __syncthreads();
    if (chunk + 1 < chunks) {
      fetch_values(chunk + 1);
    }
    if (live) {
      int v_exponent = 0;
      fit(v, v_exponent);
      auto const state_times = [&](float(&to)[8][4], E const* rows) {
        multiply_ahead<F, DK / 16, 4>(
            to, [&](int k) { return F::from_sums(s[2 * k], s[2 * k + 1]); },
            [&](int k, int j) { return F::load_b(rows, C::stride, 16 * j, 16 * k); });
      };
      [[maybe_unused]] float u[8][4];
      int u_exponent = 0;
      float o[8][4] = {};
      if constexpr (Rule != ChannelRule::additive) {
        state_times(o, third);
        int x_exponent = v_exponent;
        if constexpr (Rule == ChannelRule::delta) {
          float const factor = scaled ? exp2_of(v_exponent - s_exponent - exponents[of_third]) : 1.0f;
          JET_UNROLL
          for (int j = 0; j < 8; ++j) {
            JET_UNROLL
            for (int e = 0; e < 4; ++e) {
              o[j][e] = __fmaf_rn(-factor, o[j][e], v[j][e]);
            }
          }
        } else {
          rescale(o, v_exponent + exponents[of_m] - s_exponent - exponents[of_third]);
          multiply_lower<F>(o, v, mixed, C::square_stride);
          x_exponent = v_exponent + exponents[of_m];
        }
        fit(o, x_exponent);
        JET_UNROLL
        for (int j = 0; j < 8; ++j) {
          JET_UNROLL
          for (int e = 0; e < 4; ++e) {
            u[j][e] = 0;
          }
        }
        multiply_lower<F>(u, o, inverse, C::square_stride);
        u_exponent = x_exponent + exponents[of_t];
        fit(u, u_exponent);
        JET_UNROLL
        for (int j = 0; j < 8; ++j) {
          JET_UNROLL
          for (int e = 0; e < 4; ++e) {
            o[j][e] = 0;
          }
        }
      }
      state_times(o, queries);
      int o_exponent = s_exponent + exponents[of_q];
      auto const add_inside = [&](float const(&x)[8][4], int x_exponent, E const* square) {
        rescale(o, x_exponent - o_exponent);
        o_exponent = x_exponent;
        multiply_lower<F>(o, x, square, C::square_stride);
      };
      if constexpr (Rule != ChannelRule::delta) {
        add_inside(v, v_exponent + exponents[of_p], inside);
      } else {
        add_inside(u, u_exponent + exponents[of_p], inside);
      }
      if constexpr (Rule == ChannelRule::general) {
        add_inside(u, u_exponent + exponents[of_p2], inside_2);
      }
      rescale(o, -o_exponent);
      int const rows = rows_of(chunk);
      float* const out =
          call.o + (seq.begin + i64{chunk} * n + 2 * t) * call.o_stride + i64{head} * call.head_v + column;
      JET_UNROLL
      for (int j = 0; j < 8; ++j) {
        JET_UNROLL
        for (int e = 0; e < 4; ++e) {
          int const token = 8 * j + e % 2;
          if (token + 2 * t < rows) {
            out[token * call.o_stride + e / 2 * 8] = o[j][e];
          }
        }
      }

      JET_UNROLL
      for (int j = 0; j < DK / 8; ++j) {
        float2 const keep = *reinterpret_cast<float2 const*>(decay + 8 * j + 2 * t);
        s[j][0] *= keep.x, s[j][1] *= keep.y, s[j][2] *= keep.x, s[j][3] *= keep.y;
      }
      auto const add_to_state = [&](float(&x)[8][4], int x_exponent, int rows_exponent, E const* rows_of_keys) {
        if constexpr (scaled) {
          // S as large as fp16 likes it, but with room for 64 products of x < 512 and keys < 512
          int const room = x_exponent + rows_exponent - 10;
          float const most = largest_of(s);
          int const next = most == 0 ? room : min(s_exponent + channel_exponent(most), room);
          if (next < s_exponent || next > s_exponent + 4) {
            multiply_all(s, exp2_of(next - s_exponent));
            s_exponent = next;
          }
          multiply_all(x, exp2_of(s_exponent - x_exponent - rows_exponent));
        }
        multiply_ahead<F, 4, DK / 16>(
            s, [&](int k) { return F::from_sums(x[2 * k], x[2 * k + 1]); },
            [&](int k, int j) { return F::load_b_rows(rows_of_keys, C::stride, 16 * k, 16 * j); });
      };
      if constexpr (Rule != ChannelRule::delta) {
        add_to_state(v, v_exponent, exponents[of_k], keys);
      } else {
        add_to_state(u, u_exponent, exponents[of_k], keys);
      }
      if constexpr (Rule == ChannelRule::general) {
        add_to_state(u, u_exponent, exponents[of_b], replacement);
      }
    }
    wait_copies<0>();
    __syncthreads();
    if (chunk + stages < chunks) {
      fetch_tile(chunk + stages);
      if (!has_bulk_copies && stages == 1) {
        wait_copies<0>();
        __syncthreads();
      }
    }
  }
  if (live && call.state != nullptr) {
    rescale(s, -s_exponent);
    with_type(call.state_type, [&](auto const* type) {
      using T = std::remove_cvref_t<decltype(*type)>;
      T* const to = static_cast<T*>(call.state);
      JET_UNROLL
      for (int j = 0; j < DK / 8; ++j) {
        JET_UNROLL
        for (int e = 0; e < 4; ++e) {
          to[state_at(j, e)] = T(s[j][e]);
        }
      }
    });
  }
}

template <class F, int DK, ChannelRule Rule>
inline constexpr bool channel_chunks_fit =
    channel_chunks_shared<F, DK, Rule>(1, 1) <= scan_max_shared&& ChannelPrepare<DK, Rule>::shared_bytes
    <= scan_max_shared;

/// Scratch of a call of so many tokens.
template <class F, int DK, ChannelRule Rule, class B>
ScanChunkMemory channel_scratch(Context<B>& ctx, i64 tokens, i64 heads) {
  i64 const chunks = scan_max_chunks(tokens, ctx.seqs());
  ScanChunkMemory m;
  m.first_chunk = static_cast<int*>(ctx.scratch_bytes((ctx.seqs() + 1) * i64{sizeof(int)}));
  m.chunks = static_cast<std::byte*>(ctx.scratch_bytes(chunks * heads * ChannelChunk<F, DK, Rule>::bytes));
  return m;
}

/// Queues the chunk form for all sequences of more than scan_few tokens. `max_chunks`: at least as many as there
/// are. v and the state, their strides included, are 16-byte aligned, head_v is a multiple of 16.
template <class F, int DK, ChannelRule Rule>
void launch_channel_chunks(cudaStream_t stream, int multiprocessors, ScanCall const& call,
                           ScanChunkMemory const& memory, i64 max_chunks) {
  if (max_chunks == 0) {
    return;
  }
  launch("scan_plan", Grid{.threads = 256, .dependent = true}, stream, &scan_plan<>, call.cu_seqlens, call.slot,
         static_cast<int>(call.seqs), memory.first_chunk);
  launch("channel_prepare",
         Grid{.blocks = max_chunks * call.heads,
              .threads = 128,
              .shared_bytes = ChannelPrepare<DK, Rule>::shared_bytes,
              .dependent = true},
         stream, &channel_prepare<F, DK, Rule>, call, memory.first_chunk, memory.chunks);
  // Warps are independent of each other: how many share a block changes no result. A multiprocessor's time is about
  // that of its warps, and something for each round of blocks.
  i64 const columns = call.head_v / 16;
  i64 const heads = call.seqs * call.heads;
  int warps = 1;
  i64 least = 0;
  for (int const w : {8, 6, 4, 3, 2, 1}) {
    if (w > columns || channel_chunks_shared<F, DK, Rule>(1, w) > scan_max_shared) {
      continue;
    }
    i64 const blocks = heads * ((columns + w - 1) / w);
    i64 const cost = (blocks + multiprocessors - 1) / multiprocessors * (w + 3);
    if (least == 0 || cost < least) {
      least = cost;
      warps = w;
    }
  }
  i64 const blocks = (columns + warps - 1) / warps;
  // Two stages unless they cost a multiprocessor a block.
  i64 const together = (heads * blocks + multiprocessors - 1) / multiprocessors;
  constexpr i64 all = 220 * 1024;
  i64 const two = channel_chunks_shared<F, DK, Rule>(2, warps);
  int const stages = two <= scan_max_shared && std::min<i64>(together, 3) * two <= all ? 2 : 1;
  launch("channel_chunks",
         Grid{.blocks = heads * blocks,
              .threads = warps * warp_size,
              .shared_bytes = channel_chunks_shared<F, DK, Rule>(stages, warps),
              .dependent = true},
         stream, &channel_chunks<F, DK, Rule>, call, memory.first_chunk, memory.chunks, static_cast<int>(blocks),
         stages);
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
