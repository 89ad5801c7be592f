/// \file
/// The scan token by token: decode steps, short calls, and every size and kind that the chunk form does not take.
///
/// With a = e^g, s = S^T (a k), r = S^T (a q):  u = beta (v - s) (additive: beta v);  o = scale (r + (q . k) u);
/// S <- a S + k u^T. The old state is read once, both sums run over it together, and one multiply-add writes it.
#pragma once

#include <algorithm>
#include <type_traits>

#include <cuda_runtime.h>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/mma.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/scan_call.cuh>
#include <jet/cuda/vector.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// 16 bytes of a state as floats.
template <class S> inline constexpr int state_numbers = 16 / static_cast<int>(sizeof(S));

template <class S> __device__ void unpack_state(uint4 const& from, float (&to)[state_numbers<S>]) {
  std::uint32_t const words[4] = {from.x, from.y, from.z, from.w};
  JET_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<S, float>) {
      to[i] = __uint_as_float(words[i]);
    } else if constexpr (std::is_same_v<S, bf16>) {
      to[2 * i] = low_bf16(words[i]);
      to[2 * i + 1] = high_bf16(words[i]);
    } else {
      asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
          : "=f"(to[2 * i]), "=f"(to[2 * i + 1])
          : "r"(words[i]));
    }
  }
}
template <class S> __device__ uint4 pack_state(float const (&from)[state_numbers<S>]) {
  std::uint32_t words[4];
  JET_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<S, float>) {
      words[i] = __float_as_uint(from[i]);
    } else if constexpr (std::is_same_v<S, bf16>) {
      words[i] = pack_bf16(from[2 * i], from[2 * i + 1]);
    } else {
      words[i] = pack_f16(from[2 * i], from[2 * i + 1]);
    }
  }
  return {words[0], words[1], words[2], words[3]};
}

/// Threads that the rows of a column go round. Fewer make wider blocks of columns: for short columns, and where a
/// head has an odd number of sixteen rows, whose widths are seldom a whole number of narrow blocks.
constexpr int scan_groups(int head_k) {
  return head_k <= 16 ? 2 : head_k <= 32 ? 4 : head_k <= 112 && head_k % 32 != 0 ? 8 : 16;
}
inline constexpr int scan_max_threads = 256;

/// How a launch of scan_steps is cut; the defaults are what models use, others are for tests and benchmarks.
///   pieces   most pieces of 16 bytes of a row that a block takes at a time; 0: as many as it can have threads for
///   unit     blocks begin at multiples of so many pieces: 8 are a line of the cache
///   cluster  blocks that share a head; 0: by the number of heads in the call
///   early    states may be read while the kernels queued before still run: none of them writes these (only in a
///            recorded step, Cuda::in_recording)
struct ScanCut {
  int pieces = 0;
  int unit = 8;
  int cluster = 0;
  bool early = false;
};

/// Columns of the state that a block takes at a time. They depend on the sizes and the dtype alone.
struct ScanColumns {
  int pieces;  // of a block
  int blocks;  // of a head
};
inline ScanColumns scan_columns(i64 head_k, i64 head_v, i64 per_piece, ScanCut const& cut = {}) {
  i64 const pieces = head_v / per_piece;
  i64 const most = cut.pieces > 0 ? cut.pieces : scan_max_threads / scan_groups(static_cast<int>(head_k));
  if (pieces <= most) {
    return {static_cast<int>(pieces), 1};
  }
  i64 const even = (pieces + (pieces + most - 1) / most - 1) / ((pieces + most - 1) / most);
  i64 const width = std::min(most, (even + cut.unit - 1) / cut.unit * cut.unit);
  return {static_cast<int>(width), static_cast<int>((pieces + width - 1) / width)};
}

/// Blocks that a multiprocessor must have room for, by the numbers of the state in a thread's registers: enough
/// loads under way at a time.
constexpr int scan_min_blocks(int numbers) {
  return numbers <= 32 ? 4 : numbers <= 48 ? 3 : numbers <= 64 ? 2 : 1;
}

/// Bytes of shared memory of scan_steps.
inline i64 scan_steps_shared(int head_k, int head_v, int columns) {
  i64 const floats = 5 * head_k + 4 + (2 * scan_groups(head_k) + 1) * columns + 3 * head_v;
  return floats * i64{sizeof(float)};
}

/// All tokens of one head of one sequence, state in registers: thread (group, piece) holds 16 bytes of rows group,
/// group + 16, ... of a block of columns. A cluster shares a head's blocks of columns. Sequences of more than
/// `few` tokens are left to the chunk form (0: none are). With `fused` every sequence has at most one token and the
/// gated norm follows in place. R: head_k / 16.
template <class S, int R>
__global__ void __launch_bounds__(scan_max_threads,
                                  scan_min_blocks(16 * R / scan_groups(16 * R) * state_numbers<S>))
    scan_steps(ScanCall const __grid_constant__ call, int pieces, int blocks, int few, bool fused, bool early) {
  constexpr int E = state_numbers<S>;
  constexpr int K = 16 * R;
  constexpr int groups = scan_groups(K);
  constexpr int mine_rows = K / groups;
  constexpr int finished = (E + groups - 1) / groups;
  extern __shared__ float4 scan_memory[];
  int const columns = pieces * E;
  float4* const rows = scan_memory;  // [K] {a k, a q, a, k}
  float* const query = reinterpret_cast<float*>(rows + K);
  float* const scalars = query + K;                      // beta, q . k
  float* const partial = scalars + 4;                    // [groups][2][columns]
  float* const update = partial + 2 * groups * columns;  // [columns]
  float* const out = update + columns;                   // [head_v]
  float* const silu_z = out + call.head_v;               // [head_v]
  float* const weight = silu_z + call.head_v;            // [head_v]

  release_next();
  if (!early) {
    wait_for_previous();
  }
  int const ranks = cluster_size();
  int const rank = cluster_rank();
  i64 const pair = blockIdx.x / static_cast<unsigned>(ranks);
  ScanSequence const seq(call, pair / call.heads);
  int const head = static_cast<int>(pair % call.heads);
  if (seq.slot < 0 || seq.tokens == 0 || (few > 0 && seq.tokens > few)) {
    wait_for_previous();
    return;
  }
  if (ranks > 1) {
    cluster_arrive();
  }
  int const thread = static_cast<int>(threadIdx.x);
  int const warp = thread / warp_size;
  int const warps = static_cast<int>(blockDim.x) / warp_size;
  int const lane = thread % warp_size;
  int const group = thread / pieces;
  int const piece = thread - group * pieces;
  S* const state = call.state == nullptr
                       ? nullptr
                       : static_cast<S*>(call.state) + seq.slot * call.slot_stride + head * call.head_stride;
  bool begun = false;

  for (int block = rank; block < blocks; block += ranks) {
    int const first = block * columns;
    int const column = first + piece * E;
    bool const live = group < groups && column < call.head_v;
    float s[mine_rows][E];
    if (live && state != nullptr) {
      uint4 raw[mine_rows];
      JET_UNROLL
      for (int r = 0; r < mine_rows; ++r) {
        i64 const at = i64{group + groups * r} * call.head_v + column;
        raw[r] = __ldcs(reinterpret_cast<uint4 const*>(state + at));
      }
      if (early && block == rank) {
        wait_for_previous();
      }
      JET_UNROLL
      for (int r = 0; r < mine_rows; ++r) {
        unpack_state<S>(raw[r], s[r]);
      }
    } else {
      if (early && block == rank) {
        wait_for_previous();
      }
      JET_UNROLL
      for (int r = 0; r < mine_rows; ++r) {
        JET_UNROLL
        for (int e = 0; e < E; ++e) {
          s[r][e] = 0;
        }
      }
    }

    for (i64 t = 0; t < seq.tokens; ++t) {
      i64 const row = seq.begin + t;
      // the columns that this thread finishes
      float value[finished];
      JET_UNROLL
      for (int i = 0; i < finished; ++i) {
        int const c = thread + i * static_cast<int>(blockDim.x);
        bool const mine = c < columns && first + c < call.head_v;
        value[i] = mine ? call.v[row * call.v_stride + i64{head} * call.head_v + first + c] : 0.0f;
      }
      if (!begun || seq.tokens > 1) {
        if (fused) {
          for (int c = thread; c < call.head_v; c += static_cast<int>(blockDim.x)) {
            if (c / columns % ranks == rank) {
              silu_z[c] = silu(call.z[row * call.z_stride + i64{head} * call.head_v + c]);
              weight[c] = call.weight[c];
            }
          }
        }
        if (begun) {
          __syncthreads();  // the rows of the token before are still read
        }
        for (int which = warp; which < 2; which += warps) {
          bool const of_q = which == 0;
          HeadRow<K> x;
          x.load(of_q ? call.q + row * call.q_stride + i64{head} * K
                      : call.k + row * call.k_stride + i64{head} * K);
          float decay = call.decay == op::Decay::head ? expf(scan_log_decay(call, row, head)) : 1.0f;
          float const beta = of_q ? scan_beta(call, row, head) : 0.0f;
          if (call.raw) {
            x.normalise(call.silu);
          }
          JET_UNROLL
          for (int i = 0; i < HeadRow<K>::groups; ++i) {
            JET_UNROLL
            for (int e = 0; e < 4; ++e) {
              int const n = head_element(i, e);
              if (n < K) {
                if (call.decay == op::Decay::channel) {
                  decay = expf(call.g[row * call.g_stride + i64{head} * K + n]);
                }
                if (of_q) {
                  rows[n].y = decay * x.v[i][e];
                  query[n] = x.v[i][e];
                } else {
                  rows[n].x = decay * x.v[i][e];
                  rows[n].z = decay;
                  rows[n].w = x.v[i][e];
                }
              }
            }
          }
          if (of_q && lane == 0) {
            scalars[0] = beta;
          }
        }
        __syncthreads();
        if (warp == 0) {
          float sum = 0;
          for (int n = lane; n < K; n += warp_size) {
            sum += query[n] * rows[n].w;
          }
          sum = warp_sum(sum);
          if (lane == 0) {
            scalars[1] = sum;
          }
        }
        begun = true;
      }

      if (live) {
        float along_k[E] = {};
        float along_q[E] = {};
        JET_UNROLL
        for (int r = 0; r < mine_rows; ++r) {
          float2 const kq = *reinterpret_cast<float2 const*>(rows + group + groups * r);
          JET_UNROLL
          for (int e = 0; e < E; ++e) {
            along_k[e] = __fmaf_rn(kq.x, s[r][e], along_k[e]);
            along_q[e] = __fmaf_rn(kq.y, s[r][e], along_q[e]);
          }
        }
        float* const to = partial + group * 2 * columns + piece * E;
        JET_UNROLL
        for (int e = 0; e < E; e += 4) {
          *reinterpret_cast<float4*>(to + e) =
              make_float4(along_k[e], along_k[e + 1], along_k[e + 2], along_k[e + 3]);
          *reinterpret_cast<float4*>(to + columns + e) =
              make_float4(along_q[e], along_q[e + 1], along_q[e + 2], along_q[e + 3]);
        }
      }
      __syncthreads();
      JET_UNROLL
      for (int i = 0; i < finished; ++i) {
        int const c = thread + i * static_cast<int>(blockDim.x);
        if (c < columns && first + c < call.head_v) {
          float sk = 0;
          float sq = 0;
          JET_UNROLL
          for (int n = 0; n < groups; ++n) {
            sk += partial[n * 2 * columns + c];
            sq += partial[(n * 2 + 1) * columns + c];
          }
          float const u = scalars[0] * (call.delta ? value[i] - sk : value[i]);
          float const o = call.scale * __fmaf_rn(scalars[1], u, sq);
          update[c] = u;
          if (fused) {
            out[first + c] = o;
          } else {
            call.o[row * call.o_stride + i64{head} * call.head_v + first + c] = o;
          }
        }
      }
      __syncthreads();
      if (live) {
        float u[E];
        JET_UNROLL
        for (int e = 0; e < E; ++e) {
          u[e] = update[piece * E + e];
        }
        JET_UNROLL
        for (int r = 0; r < mine_rows; ++r) {
          float2 const decay_k = *(reinterpret_cast<float2 const*>(rows + group + groups * r) + 1);
          JET_UNROLL
          for (int e = 0; e < E; ++e) {
            s[r][e] = __fmaf_rn(decay_k.y, u[e], decay_k.x * s[r][e]);
          }
        }
      }
    }
    if (live && state != nullptr) {
      JET_UNROLL
      for (int r = 0; r < mine_rows; ++r) {
        i64 const at = i64{group + groups * r} * call.head_v + column;
        __stcs(reinterpret_cast<uint4*>(state + at), pack_state<S>(s[r]));
      }
    }
  }
  if (!fused) {
    if (ranks > 1) {
      cluster_wait();
    }
    return;
  }

  // Every block of the cluster gets the whole head's output and adds up its squares in the one order.
  if (ranks > 1) {
    cluster_wait();  // all have begun
    for (int c = thread; c < call.head_v; c += static_cast<int>(blockDim.x)) {
      if (c / columns % ranks == rank) {
        float const o = out[c];
        for (int other = 0; other < ranks; ++other) {
          if (other != rank) {
            store_in_cluster(out + c, other, o);
          }
        }
      }
    }
    cluster_arrive();
    cluster_wait();
  }
  float const squares = head_sum_squares(call.head_v, [&](int n) { return out[n]; });
  float const scale = rms_scale(squares, call.head_v, call.norm_eps);
  for (int c = thread; c < call.head_v; c += static_cast<int>(blockDim.x)) {
    if (c / columns % ranks == rank) {
      store_one(call.y, call.y_type, seq.begin * call.y_stride + i64{head} * call.head_v + c,
                gated(out[c], scale, weight[c], silu_z[c]));
    }
  }
}

/// Any sizes, dtypes and strides: a thread per column of the state, which is in shared memory [head_k][columns].
/// Sequences of more than `few` tokens are left to the chunk form (0: none are).
template <class = void>
__global__ void scan_any(ScanCall const __grid_constant__ call, int columns, int blocks, int few) {
  extern __shared__ float4 scan_memory[];
  float* const query = reinterpret_cast<float*>(scan_memory);
  float* const key = query + call.head_k;
  float* const decay = key + call.head_k;
  float* const s = decay + call.head_k;
  release_next();
  wait_for_previous();
  i64 const pair = blockIdx.x / static_cast<unsigned>(blocks);
  ScanSequence const seq(call, pair / call.heads);
  int const head = static_cast<int>(pair % call.heads);
  if (seq.slot < 0 || seq.tokens == 0 || (few > 0 && seq.tokens > few)) {
    return;
  }
  int const thread = static_cast<int>(threadIdx.x);
  int const warp = thread / warp_size;
  int const lane = thread % warp_size;
  int const column = static_cast<int>(blockIdx.x % static_cast<unsigned>(blocks)) * columns + thread;
  bool const live = thread < columns && column < call.head_v;
  i64 const at = seq.slot * call.slot_stride + head * call.head_stride + column;
  if (live) {
    for (int i = 0; i < call.head_k; ++i) {
      s[i * columns + thread] =
          call.state != nullptr ? load_one(call.state, call.state_type, at + i64{i} * call.head_v) : 0.0f;
    }
  }
  for (i64 t = 0; t < seq.tokens; ++t) {
    i64 const row = seq.begin + t;
    __syncthreads();
    if (warp < 2) {
      float const* const from = warp == 0 ? call.q + row * call.q_stride + i64{head} * call.head_k
                                          : call.k + row * call.k_stride + i64{head} * call.head_k;
      auto const value = [&](int n) { return call.raw && call.silu ? silu(from[n]) : from[n]; };
      float const scale = call.raw ? l2_scale(head_sum_squares(call.head_k, value), qk_eps) : 1.0f;
      for (int n = lane; n < call.head_k; n += warp_size) {
        (warp == 0 ? query : key)[n] = __fmul_rn(value(n), scale);
        if (warp == 0) {
          decay[n] = call.decay == op::Decay::none ? 1.0f
                     : call.decay == op::Decay::head
                         ? expf(scan_log_decay(call, row, head))
                         : expf(call.g[row * call.g_stride + i64{head} * call.head_k + n]);
        }
      }
    }
    __syncthreads();
    if (live) {
      float sk = 0;
      for (int i = 0; i < call.head_k; ++i) {
        float const x = decay[i] * s[i * columns + thread];
        s[i * columns + thread] = x;
        sk = __fmaf_rn(key[i], x, sk);
      }
      float const v = call.v[row * call.v_stride + i64{head} * call.head_v + column];
      float const u = scan_beta(call, row, head) * (call.delta ? v - sk : v);
      float o = 0;
      for (int i = 0; i < call.head_k; ++i) {
        float const x = __fmaf_rn(key[i], u, s[i * columns + thread]);
        s[i * columns + thread] = x;
        o = __fmaf_rn(query[i], x, o);
      }
      call.o[row * call.o_stride + i64{head} * call.head_v + column] = call.scale * o;
    }
  }
  if (live && call.state != nullptr) {
    for (int i = 0; i < call.head_k; ++i) {
      store_one(call.state, call.state_type, at + i64{i} * call.head_v, s[i * columns + thread]);
    }
  }
}

/// Blocks that share a head in a cluster: as many as leave room for all of them at once. Where there are more
/// heads, waiting for each other costs more than it gives.
inline int scan_cluster(i64 heads, int blocks, int multiprocessors) {
  if (!has_dependent_launch) {
    return 1;
  }
  int cluster = 1;
  while (cluster * 2 <= std::min(blocks, 8) && heads * cluster * 2 <= 3 * i64{multiprocessors}) {
    cluster *= 2;
  }
  return cluster;
}

/// Queues the scan token by token for a head_k of 16 R and a head_v that is a multiple of 16 bytes, everything
/// aligned to 16 bytes.
template <class S, int R>
void launch_scan_steps(cudaStream_t stream, int multiprocessors, ScanCall const& call, int few, bool fused,
                       ScanCut const& cut = {}) {
  constexpr int E = state_numbers<S>;
  ScanColumns const c = scan_columns(call.head_k, call.head_v, E, cut);
  i64 const heads = call.seqs * call.heads;
  int const cluster = cut.cluster > 0 ? cut.cluster : scan_cluster(heads, c.blocks, multiprocessors);
  int const threads = (scan_groups(16 * R) * c.pieces + warp_size - 1) / warp_size * warp_size;
  Grid const grid{.blocks = heads * cluster,
                  .threads = threads,
                  .shared_bytes = scan_steps_shared(call.head_k, call.head_v, c.pieces * E),
                  .dependent = true,
                  .cluster = cluster};
  launch("scan_steps", grid, stream, &scan_steps<S, R>, call, c.pieces, c.blocks, few, fused, cut.early);
}

/// Queues the scan token by token for any sizes.
template <class = void> void launch_scan_any(cudaStream_t stream, ScanCall const& call, int few) {
  constexpr i64 budget = 160 * 1024;  // bytes of shared memory that sm_80 has, too
  i64 const head = call.head_k * i64{sizeof(float)};
  i64 const columns = std::min<i64>({call.head_v, 64, (budget - 3 * head) / head});
  JET_CHECK(columns >= 1, "CUDA: gated_scan: head_k is ", call.head_k, ", expected at most ",
            budget / (4 * i64{sizeof(float)}));
  i64 const blocks = (call.head_v + columns - 1) / columns;
  Grid const grid{.blocks = call.seqs * call.heads * blocks,
                  .threads = 64,
                  .shared_bytes = (3 + columns) * head,
                  .dependent = true};
  launch("scan_any", grid, stream, &scan_any<>, call, static_cast<int>(columns), static_cast<int>(blocks), few);
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
