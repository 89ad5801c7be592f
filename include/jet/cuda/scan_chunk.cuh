/// \file
/// The scan in chunks of 64 tokens on the tensor cores (Gated DeltaNet, arXiv 2412.06464, section 3.3; the
/// formulas are in cpu/scan.hpp). Two kernels: the first makes, for all chunks at once, what does not depend
/// on the state: normalised q and k, T = (I + A)^-1 diag(beta), P = scale tril(Q K^T * D) and the decays; the
/// second runs along the chunks of a sequence, each warp with 16 columns of the state in its registers:
///   U = T (V - diag(e^gamma) K S) ;  O = scale diag(e^gamma) Q S + P U ;  S' = e^gamma_C S + (diag(e^(gamma_C -
///   gamma)) K)^T U
/// It keeps S, U and O transposed: a product's accumulators are then the next product's left factor as they stand,
/// and warps need nothing of each other. An additive update has T = diag(beta) and no K S.
///
/// With fp16 factors a warp scales its V and S by a power of two so that the larger of their maxima is in [256,
/// 512). For keys of norm <= 1 and beta <= 1 the norm of a state's column grows by at most |v| a token, so that |U|
/// <= 65 max |V| + sqrt(head_k) max |S| < 512 * 81 for head_k <= 256, and nothing overflows. The scaling is exact,
/// whatever range the values have.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/saved.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/copy_async.cuh>
#include <jet/cuda/copy_bulk.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/scan_call.cuh>
#include <jet/cuda/scan_fragments.cuh>
#include <jet/cuda/vector.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

inline constexpr int scan_chunk = static_cast<int>(saved_chunk);
/// Up to this many tokens of a sequence go token by token.
inline constexpr int scan_few = 16;

/// Most chunks that sequences of more than scan_few tokens can have in a call.
constexpr i64 scan_max_chunks(i64 tokens, i64 seqs) {
  return std::min(tokens / (scan_few + 1), tokens / scan_chunk + seqs);
}

/// What the first kernel leaves of one chunk and head, as the second wants it in shared memory, rows padded: K, Q
/// [64][DK], T, P [64][64], then floats e^gamma, scale e^gamma, e^(gamma_C - gamma) [64], e^gamma_C.
template <class F, int DK> struct ScanChunk {
  using Element = typename F::Element;
  static constexpr int n = scan_chunk;
  static constexpr int key_stride = DK + F::pad(DK);
  static constexpr int square_stride = n + F::pad(n);
  static constexpr int keys = n * key_stride;
  static constexpr int square = n * square_stride;
  static constexpr int factors = 3 * n + 4;
  static constexpr int bytes = (2 * keys + 2 * square) * int{sizeof(Element)} + factors * int{sizeof(float)};
};

/// Chunks of sequence i that go through the chunk form; inactive ones have none.
__device__ inline int scan_chunks_of(std::int64_t const* cu_seqlens, std::int32_t const* slot, int i) {
  i64 const tokens = cu_seqlens[i + 1] - cu_seqlens[i];
  return slot[i] < 0 || tokens <= scan_few ? 0 : static_cast<int>((tokens + scan_chunk - 1) / scan_chunk);
}
/// first[i] = the sum of count(j) for j < i, i <= seqs. All 256 threads of a block.
template <class Count> __device__ void scan_offsets(int seqs, int* first, Count const& count) {
  constexpr int threads = 256;
  __shared__ int before[threads + 1];
  __syncthreads();  // it may still be read from the call before
  int const thread = static_cast<int>(threadIdx.x);
  int const share = (seqs + threads - 1) / threads;
  int const begin = min(seqs, thread * share);
  int const end = min(seqs, begin + share);
  int sum = 0;
  for (int i = begin; i < end; ++i) {
    sum += count(i);
  }
  before[thread + 1] = sum;
  __syncthreads();
  if (thread == 0) {
    before[0] = 0;
    for (int i = 1; i <= threads; ++i) {
      before[i] += before[i - 1];
    }
  }
  __syncthreads();
  sum = before[thread];
  for (int i = begin; i < end; ++i) {
    first[i] = sum;
    sum += count(i);
  }
  if (thread == 0) {
    first[seqs] = before[threads];
  }
}
/// The i with first[i] <= at < first[i + 1].
__device__ inline int scan_find(int const* first, int seqs, int at) {
  int low = 0;
  int high = seqs;
  while (high - low > 1) {
    int const middle = (low + high) / 2;
    (first[middle] <= at ? low : high) = middle;
  }
  return low;
}

/// What a block of a kernel over chunks and heads works on: block chunk * heads + head, chunks counted over all
/// sequences (first_chunk of scan_plan). Blocks beyond the last chunk have nothing to do.
struct ScanBlock {
  int chunk, head;
  bool live;
  i64 begin = 0;  // the chunk's first token
  int rows = 0;   // its tokens
  __device__ ScanBlock(ScanCall const& call, int const* first_chunk)
      : chunk(static_cast<int>(blockIdx.x) / call.heads),
        head(static_cast<int>(blockIdx.x) % call.heads),
        live(chunk < first_chunk[call.seqs]) {
    if (live) {
      int const sequence = scan_find(first_chunk, static_cast<int>(call.seqs), chunk);
      ScanSequence const seq(call, sequence);
      i64 const done = i64{chunk - first_chunk[sequence]} * scan_chunk;
      begin = seq.begin + done;
      rows = static_cast<int>(min(i64{scan_chunk}, seq.tokens - done));
    }
  }
};

/// first[i] = chunks of the sequences before i. One block.
template <class = void>
__global__ void scan_plan(std::int64_t const* cu_seqlens, std::int32_t const* slot, int seqs, int* first) {
  release_next();
  wait_for_previous();
  scan_offsets(seqs, first, [&](int i) { return scan_chunks_of(cu_seqlens, slot, i); });
}

/// (I + A)^-1 of a strictly lower triangular A of 64 x 64 in shared memory, by halves. 128 threads; `a` is
/// destroyed.
__device__ inline void invert_unit_lower(float* a, float* x, int stride) {
  constexpr int half = scan_chunk / 2;
  int const thread = static_cast<int>(threadIdx.x);
  if (thread < scan_chunk) {  // the two diagonal blocks, a column per thread
    int const base = thread / half * half;
    int const column = thread % half;
    float v[half];
    JET_UNROLL
    for (int i = 0; i < half; ++i) {
      float sum = i == column ? 1.0f : 0.0f;
      JET_UNROLL
      for (int m = 0; m < i; ++m) {
        sum = __fmaf_rn(-a[(base + i) * stride + base + m], v[m], sum);
      }
      v[i] = sum;
      x[(base + i) * stride + base + column] = sum;
    }
  } else {
    for (int i = thread - scan_chunk; i < half * half; i += scan_chunk) {
      x[i / half * stride + half + i % half] = 0;
    }
  }
  __syncthreads();
  // X21 = -X22 (A21 X11), eight columns of a row per thread
  int const row = thread / 4;
  int const column = thread % 4 * 8;
  float sum[8] = {};
  for (int m = 0; m < half; ++m) {
    float const l = a[(half + row) * stride + m];
    JET_UNROLL
    for (int e = 0; e < 8; ++e) {
      sum[e] = __fmaf_rn(l, x[m * stride + column + e], sum[e]);
    }
  }
  JET_UNROLL
  for (int e = 0; e < 8; ++e) {
    a[row * stride + half + column + e] = sum[e];  // above the diagonal, where nothing is read
    sum[e] = 0;
  }
  __syncthreads();
  for (int m = 0; m <= row; ++m) {
    float const l = -x[(half + row) * stride + half + m];
    JET_UNROLL
    for (int e = 0; e < 8; ++e) {
      sum[e] = __fmaf_rn(l, a[m * stride + half + column + e], sum[e]);
    }
  }
  JET_UNROLL
  for (int e = 0; e < 8; ++e) {
    x[(half + row) * stride + column + e] = sum[e];
  }
  __syncthreads();
}

/// Floats of a row of the two fp32 squares of scan_prepare: 16-byte aligned, neighbouring rows in other banks.
inline constexpr int scan_float_stride = scan_chunk + 4;
template <class F, int DK> constexpr i64 scan_prepare_shared() {
  using C = ScanChunk<F, DK>;
  return std::max(2 * C::keys * i64{sizeof(typename F::Element)},
                  2 * C::n * scan_float_stride * i64{sizeof(float)}) +
         C::n * i64{sizeof(double) + sizeof(float)} + 2 * i64{sizeof(double)};
}

/// One chunk of one head, 4 warps.
template <class F, int DK>
__global__ void __launch_bounds__(128)
    scan_prepare(ScanCall const __grid_constant__ call, int const* first_chunk, std::byte* memory) {
  using C = ScanChunk<F, DK>;
  using E = typename F::Element;
  constexpr int n = C::n;
  extern __shared__ float4 scan_memory[];
  double* const gamma = reinterpret_cast<double*>(scan_memory);  // [n], then the sum of the first half
  float* const beta = reinterpret_cast<float*>(gamma + n + 2);   // [n]
  E* const keys = reinterpret_cast<E*>(beta + n);
  E* const queries = keys + C::keys;
  float* const a = beta + n;  // [n][scan_float_stride], over keys and queries when these are done with
  float* const x = a + n * scan_float_stride;
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
  E* const to_keys = reinterpret_cast<E*>(to);
  E* const to_queries = to_keys + C::keys;
  E* const to_t = to_queries + C::keys;
  E* const to_p = to_t + C::square;
  float* const factors = reinterpret_cast<float*>(to_p + C::square);

  int const thread = static_cast<int>(threadIdx.x);
  int const warp = thread / warp_size;
  int const lane = thread % warp_size;

  // Rows beyond the end are zero.
  constexpr int together = 2 * (DK <= 128 ? 4 : 2);  // keys and queries in turn
  for (int i = 0; i < 16; i += together / 2) {
    HeadRow<DK> v[together];
    JET_UNROLL
    for (int j = 0; j < together; ++j) {
      int const r = warp * 16 + i + j / 2;
      if (r < rows) {
        v[j].load(j % 2 == 0 ? call.k + (begin + r) * call.k_stride + i64{head} * DK
                             : call.q + (begin + r) * call.q_stride + i64{head} * DK);
      } else {
        v[j] = HeadRow<DK>{};
      }
    }
    JET_UNROLL
    for (int j = 0; j < together; ++j) {
      int const r = warp * 16 + i + j / 2;
      if (call.raw && r < rows) {
        v[j].template normalise<std::is_same_v<F, HalfFragments>>(call.silu);
      }
      JET_UNROLL
      for (int p = 0; p < HeadRow<DK>::groups; ++p) {
        int const d = head_element(p, 0);
        if (d < DK) {
          auto const& w = v[j].v[p];
          F::store_four((j % 2 == 0 ? keys : queries) + r * C::key_stride + d, w[0], w[1], w[2], w[3]);
          F::store_four((j % 2 == 0 ? to_keys : to_queries) + r * C::key_stride + d, w[0], w[1], w[2], w[3]);
        }
      }
    }
  }

  // Only differences of cumulative log decays matter, and after a few strong gates float has lost the small ones.
  double sum = 0;
  if (thread < n) {
    sum = call.decay == op::Decay::head && thread < rows ? double{scan_log_decay(call, begin + thread, head)} : 0.0;
    beta[thread] = thread < rows ? scan_beta(call, begin + thread, head) : 0.0f;
    JET_UNROLL
    for (int step = 1; step < warp_size; step *= 2) {
      double const before = __shfl_up_sync(0xffffffffu, sum, static_cast<unsigned>(step));
      sum += lane >= step ? before : 0.0;
    }
    gamma[thread] = sum;
  }
  __syncthreads();
  if (thread >= warp_size && thread < n) {
    gamma[thread] = sum + gamma[warp_size - 1];
  }
  __syncthreads();
  if (thread < n) {
    double const last = gamma[n - 1];
    float const e = expf(static_cast<float>(gamma[thread]));
    factors[thread] = e;
    factors[n + thread] = call.scale * e;
    factors[2 * n + thread] = expf(static_cast<float>(last - gamma[thread]));
    if (thread < 4) {
      factors[3 * n + thread] = expf(static_cast<float>(last));
    }
  }

  float kk[8][4] = {};
  float qk[8][4] = {};
  for (int k = 0; k < DK; k += 16) {
    auto const left_k = F::load_a(keys, C::key_stride, warp * 16, k);
    auto const left_q = F::load_a(queries, C::key_stride, warp * 16, k);
    JET_UNROLL
    for (int j = 0; j < 4; ++j) {
      if (j <= warp) {  // above lies what the mask removes
        auto const right = F::load_b(keys, C::key_stride, 16 * j, k);
        F::multiply(kk[2 * j], kk[2 * j + 1], left_k, right);
        F::multiply(qk[2 * j], qk[2 * j + 1], left_q, right);
      }
    }
  }
  __syncthreads();  // a takes the place of the keys
  JET_UNROLL
  for (int j = 0; j < 8; ++j) {
    JET_UNROLL
    for (int half = 0; half < 2; ++half) {
      int const row = warp * 16 + lane / 4 + 8 * half;
      float p[2];
      JET_UNROLL
      for (int e = 0; e < 2; ++e) {
        int const column = 8 * j + 2 * (lane % 4) + e;
        // masked before the exponential, which would be above 1 there
        float const decay = column <= row ? expf(static_cast<float>(gamma[row] - gamma[column])) : 0.0f;
        p[e] = column <= row ? call.scale * decay * qk[j][2 * half + e] : 0.0f;
        a[row * scan_float_stride + column] =
            call.delta && column < row ? beta[row] * decay * kk[j][2 * half + e] : 0.0f;
      }
      F::store_two(to_p + row * C::square_stride + 8 * j + 2 * (lane % 4), p[0], p[1]);
    }
  }
  __syncthreads();
  if (call.delta) {
    invert_unit_lower(a, x, scan_float_stride);
  }
  for (int i = thread; i < n * n / 4; i += 128) {
    int const row = i / (n / 4);
    int const column = i % (n / 4) * 4;
    float v[4];
    JET_UNROLL
    for (int e = 0; e < 4; ++e) {
      float const t = call.delta ? x[row * scan_float_stride + column + e] : row == column + e ? 1.0f : 0.0f;
      v[e] = t * beta[column + e];
    }
    F::store_four(to_t + row * C::square_stride + column, v[0], v[1], v[2], v[3]);
  }
}

/// sums += left(k) right(k, j) for k < Steps, j < Columns (of 16 columns each); right factors are loaded while the
/// products before run.
template <class F, int Steps, int Columns, class Left, class Right>
__device__ void multiply_ahead(float (&sums)[2 * Columns][4], Left const& left, Right const& right) {
  typename F::B ahead[Columns];
  JET_UNROLL
  for (int j = 0; j < Columns; ++j) {
    ahead[j] = right(0, j);
  }
  JET_UNROLL
  for (int k = 0; k < Steps; ++k) {
    auto const a = left(k);
    JET_UNROLL
    for (int j = 0; j < Columns; ++j) {
      typename F::B const b = ahead[j];
      if (k + 1 < Steps) {
        ahead[j] = right(k + 1, j);
      }
      F::multiply(sums[2 * j], sums[2 * j + 1], a, b);
    }
  }
}
/// sums += left tile^T for a lower triangular tile of 64 x 64.
template <class F>
__device__ void multiply_lower(float (&sums)[8][4], float const (&left)[8][4], typename F::Element const* tile,
                               int stride) {
  typename F::B ahead[4];
  JET_UNROLL
  for (int j = 0; j < 4; ++j) {
    ahead[j] = F::load_b(tile, stride, 16 * j, 0);
  }
  JET_UNROLL
  for (int k = 0; k < 4; ++k) {
    auto const a = F::from_sums(left[2 * k], left[2 * k + 1]);
    JET_UNROLL
    for (int j = k; j < 4; ++j) {
      typename F::B const b = ahead[j];
      if (k + 1 <= j) {
        ahead[j] = F::load_b(tile, stride, 16 * j, 16 * (k + 1));
      }
      F::multiply(sums[2 * j], sums[2 * j + 1], a, b);
    }
  }
}

/// Most warps of a block of scan_chunks, and floats of a row of its tile of V.
inline constexpr int scan_max_warps = 4;
inline constexpr int scan_value_stride = 16 * scan_max_warps + 4;
/// Bytes of shared memory of scan_chunks with so many chunks at a time.
template <class F, int DK> constexpr i64 scan_chunks_shared(int stages) {
  return stages * ScanChunk<F, DK>::bytes + scan_chunk * scan_value_stride * i64{sizeof(float)} +
         2 * i64{sizeof(std::uint64_t)};
}
/// What a block may have of shared memory on every device from sm_80 on.
inline constexpr i64 scan_max_shared = 160 * 1024;
template <class F, int DK>
inline constexpr bool scan_chunks_fit =
    scan_chunks_shared<F, DK>(1) <= scan_max_shared&& scan_prepare_shared<F, DK>() <= scan_max_shared;

/// 2^(bits - 127), 1 <= bits <= 254.
__device__ inline float power_of_two(int bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 23);
}
/// f(null pointer of the type): the choice once for many numbers.
template <class F> __device__ void with_type(DType type, F const& f) {
  switch (type) {
    case DType::bf16: f(static_cast<bf16 const*>(nullptr)); break;
    case DType::f16: f(static_cast<f16 const*>(nullptr)); break;
    default: f(static_cast<float const*>(nullptr));
  }
}

/// All chunks of one head of one sequence, a block's warps 16 columns of the state each. `stages` 2: the next
/// chunk is fetched meanwhile.
template <class F, int DK, bool Delta>
__global__ void __launch_bounds__(32 * scan_max_warps)
    scan_chunks(ScanCall const __grid_constant__ call, int const* first_chunk, std::byte const* memory,
                int column_blocks, int stages) {
  using C = ScanChunk<F, DK>;
  using E = typename F::Element;
  constexpr int n = C::n;
  constexpr int value_stride = scan_value_stride;
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
  int scale_bits = 127;  // s is kept times 2^(scale_bits - 127)
  wait_copies<0>();
  __syncthreads();

  for (int chunk = 0; chunk < chunks; ++chunk) {
    if (has_bulk_copies) {
      barrier_wait(full + chunk % stages, chunk / stages & 1);
    }
    std::byte const* const at = tiles + chunk % stages * C::bytes;
    E const* const keys = reinterpret_cast<E const*>(at);
    E const* const queries = keys + C::keys;
    E const* const inverse = queries + C::keys;
    E const* const inside = inverse + C::square;
    float const* const factors = reinterpret_cast<float const*>(inside + C::square);
    float u[8][4];  // V^T, then (V - e^gamma K S)^T: tokens 8 j + 2 t, + 1
    JET_UNROLL
    for (int j = 0; j < 8; ++j) {
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        u[j][e] = values[(8 * j + 2 * t + e % 2) * value_stride + 16 * warp + g + e / 2 * 8];
      }
    }
    __syncthreads();
    if (chunk + 1 < chunks) {
      fetch_values(chunk + 1);
    }
    if (live) {
      if constexpr (scaled) {
        float of_s[4] = {};
        float of_v[4] = {};
        JET_UNROLL
        for (int e = 0; e < 4; ++e) {
          JET_UNROLL
          for (int j = 0; j < DK / 8; ++j) {
            of_s[e] = fmaxf(of_s[e], fabsf(s[j][e]));
          }
          JET_UNROLL
          for (int j = 0; j < 8; ++j) {
            of_v[e] = fmaxf(of_v[e], fabsf(u[j][e]));
          }
        }
        float largest =
            fmaxf(fmaxf(fmaxf(of_s[0], of_s[1]), fmaxf(of_s[2], of_s[3])) * power_of_two(254 - scale_bits),
                  fmaxf(fmaxf(of_v[0], of_v[1]), fmaxf(of_v[2], of_v[3])));
        for (int step = warp_size / 2; step > 0; step /= 2) {
          largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
        }
        // 2^(8 - exponent of the largest), kept where it and its inverse are normal numbers
        int const exponent = static_cast<int>(__float_as_uint(largest) >> 23);
        int const wanted = largest == 0 ? 127 : min(max(127 + 127 + 8 - exponent, 2), 252);
        if (wanted != scale_bits) {
          JET_UNROLL
          for (int j = 0; j < DK / 8; ++j) {
            JET_UNROLL
            for (int e = 0; e < 4; ++e) {
              s[j][e] = s[j][e] * power_of_two(254 - scale_bits) * power_of_two(wanted);
            }
          }
          scale_bits = wanted;
        }
        float const scale = power_of_two(scale_bits);
        JET_UNROLL
        for (int j = 0; j < 8; ++j) {
          JET_UNROLL
          for (int e = 0; e < 4; ++e) {
            u[j][e] *= scale;
          }
        }
      }

      // U^T = (V - e^gamma K S)^T T^T. Factors are loaded one step ahead.
      float product[8][4] = {};
      if constexpr (Delta) {
        multiply_ahead<F, DK / 16, 4>(
            product, [&](int k) { return F::from_sums(s[2 * k], s[2 * k + 1]); },
            [&](int k, int j) { return F::load_b(keys, C::key_stride, 16 * j, 16 * k); });
      }
      JET_UNROLL
      for (int j = 0; j < 8; ++j) {
        float2 const decay = *reinterpret_cast<float2 const*>(factors + 8 * j + 2 * t);
        u[j][0] = __fmaf_rn(-decay.x, product[j][0], u[j][0]);
        u[j][1] = __fmaf_rn(-decay.y, product[j][1], u[j][1]);
        u[j][2] = __fmaf_rn(-decay.x, product[j][2], u[j][2]);
        u[j][3] = __fmaf_rn(-decay.y, product[j][3], u[j][3]);
        product[j][0] = product[j][1] = product[j][2] = product[j][3] = 0;
      }
      multiply_lower<F>(product, u, inverse, C::square_stride);

      // O^T = scale e^gamma (Q S)^T + U^T P^T
      JET_UNROLL
      for (int j = 0; j < 8; ++j) {
        JET_UNROLL
        for (int e = 0; e < 4; ++e) {
          u[j][e] = 0;
        }
      }
      multiply_ahead<F, DK / 16, 4>(
          u, [&](int k) { return F::from_sums(s[2 * k], s[2 * k + 1]); },
          [&](int k, int j) { return F::load_b(queries, C::key_stride, 16 * j, 16 * k); });
      JET_UNROLL
      for (int j = 0; j < 8; ++j) {
        float2 const query = *reinterpret_cast<float2 const*>(factors + n + 8 * j + 2 * t);
        u[j][0] *= query.x, u[j][1] *= query.y, u[j][2] *= query.x, u[j][3] *= query.y;
      }
      multiply_lower<F>(u, product, inside, C::square_stride);
      float const back = power_of_two(254 - scale_bits);
      int const rows = rows_of(chunk);
      float* const out =
          call.o + (seq.begin + i64{chunk} * n + 2 * t) * call.o_stride + i64{head} * call.head_v + column;
      JET_UNROLL
      for (int j = 0; j < 8; ++j) {
        JET_UNROLL
        for (int e = 0; e < 4; ++e) {
          int const token = 8 * j + e % 2;
          if (token + 2 * t < rows) {
            out[token * call.o_stride + e / 2 * 8] = scaled ? u[j][e] * back : u[j][e];
          }
        }
      }

      // S' = e^gamma_C S + U^T e^(gamma_C - gamma) K
      float const keep = factors[3 * n];
      JET_UNROLL
      for (int j = 0; j < DK / 8; ++j) {
        JET_UNROLL
        for (int e = 0; e < 4; ++e) {
          s[j][e] *= keep;
        }
      }
      JET_UNROLL
      for (int j = 0; j < 8; ++j) {
        float2 const rest = *reinterpret_cast<float2 const*>(factors + 2 * n + 8 * j + 2 * t);
        product[j][0] *= rest.x, product[j][1] *= rest.y, product[j][2] *= rest.x, product[j][3] *= rest.y;
      }
      multiply_ahead<F, 4, DK / 16>(
          s, [&](int k) { return F::from_sums(product[2 * k], product[2 * k + 1]); },
          [&](int k, int j) { return F::load_b_rows(keys, C::key_stride, 16 * k, 16 * j); });
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
    float const back = power_of_two(254 - scale_bits);
    with_type(call.state_type, [&](auto const* type) {
      using T = std::remove_cvref_t<decltype(*type)>;
      T* const to = static_cast<T*>(call.state);
      JET_UNROLL
      for (int j = 0; j < DK / 8; ++j) {
        JET_UNROLL
        for (int e = 0; e < 4; ++e) {
          to[state_at(j, e)] = T(scaled ? s[j][e] * back : s[j][e]);
        }
      }
    });
  }
}

/// Scratch of the chunk form.
struct ScanChunkMemory {
  int* first_chunk = nullptr;  // [seqs + 1]
  std::byte* chunks = nullptr;
};

/// Queues the chunk form for all sequences of more than scan_few tokens. `max_chunks`: at least as many as there
/// are. Pointers and strides are 16-byte aligned, head_v is a multiple of 16.
template <class F, int DK, bool Delta>
void launch_scan_chunks(cudaStream_t stream, int multiprocessors, ScanCall const& call,
                        ScanChunkMemory const& memory, i64 max_chunks) {
  JET_ASSERT(call.delta == Delta);
  if (max_chunks == 0) {
    return;
  }
  launch("scan_plan", Grid{.threads = 256, .dependent = true}, stream, &scan_plan<>, call.cu_seqlens, call.slot,
         static_cast<int>(call.seqs), memory.first_chunk);
  launch("scan_prepare",
         Grid{.blocks = max_chunks * call.heads,
              .threads = 128,
              .shared_bytes = scan_prepare_shared<F, DK>(),
              .dependent = true},
         stream, &scan_prepare<F, DK>, call, memory.first_chunk, memory.chunks);
  // Warps are independent of each other: how many share a block changes no result. Few heads: two, to use more
  // multiprocessors; many: four, to share what they read.
  i64 const columns = call.head_v / 16;
  i64 const heads = call.seqs * call.heads;
  int const warps = columns >= 4 && heads * columns / 4 >= multiprocessors ? 4 : columns >= 2 ? 2 : 1;
  i64 const blocks = (columns + warps - 1) / warps;
  // Two stages unless they cost a multiprocessor its second block.
  constexpr i64 half = 112 * 1024;
  constexpr i64 two = scan_chunks_shared<F, DK>(2);
  int const stages = two <= half || (two <= scan_max_shared && heads * blocks <= multiprocessors) ? 2 : 1;
  launch("scan_chunks",
         Grid{.blocks = heads * blocks,
              .threads = warps * warp_size,
              .shared_bytes = scan_chunks_shared<F, DK>(stages),
              .dependent = true},
         stream, &scan_chunks<F, DK, Delta>, call, memory.first_chunk, memory.chunks, static_cast<int>(blocks),
         stages);
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
