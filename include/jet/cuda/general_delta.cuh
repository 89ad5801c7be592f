/// \file
/// The generalised delta rule (op/rwkv7.hpp) on the device, token by token, and which sequences go in chunks.
///
/// With w = e^g, p = S^T a, r = S^T (w q):  o = scale (r + (q . b) p + (q . k) v) ;  S <- w S + b p^T + k v^T. The
/// old state is read once and both sums run over it together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/batch.cuh>
#include <jet/cuda/gated_scan.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/scan_call.cuh>
#include <jet/cuda/scan_channel.cuh>
#include <jet/cuda/scan_chunk.cuh>
#include <jet/cuda/scan_fragments.cuh>
#include <jet/cuda/scan_steps.cuh>
#include <jet/fwd.hpp>
#include <jet/op/rwkv7.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

// In a ScanCall of these kernels `a` and `b` are the op's rows a and b, (tokens, heads * head_k).

/// Bytes of shared memory of general_delta_steps.
inline i64 general_delta_shared(int head_k, int columns) {
  i64 const floats = 6 * head_k + 4 + (2 * scan_groups(head_k) + 2) * columns;
  return floats * i64{sizeof(float)};
}

/// All tokens of one head of one sequence, state in registers as in scan_steps: a block per block of columns.
/// Sequences of more than `few` tokens are left to the chunk form (0: none are). R: head_k / 16.
template <class S, int R>
__global__ void __launch_bounds__(scan_max_threads,
                                  scan_min_blocks(16 * R / scan_groups(16 * R) * state_numbers<S>))
    general_delta_steps(ScanCall const __grid_constant__ call, int pieces, int blocks, int few) {
  constexpr int E = state_numbers<S>;
  constexpr int K = 16 * R;
  constexpr int groups = scan_groups(K);
  constexpr int mine_rows = K / groups;
  extern __shared__ float4 scan_memory[];
  int const columns = pieces * E;
  float4* const rows = scan_memory;                                                  // [K] {a, w q, w, k}
  float* const query = reinterpret_cast<float*>(rows + K);                           // [K]
  float* const replacement = query + K;                                              // [K]
  float* const scalars = replacement + K;                                            // q . b, q . k
  float* const partial = scalars + 4;                                                // [groups][2][columns]
  float2* const update = reinterpret_cast<float2*>(partial + 2 * groups * columns);  // [columns] {p, v}

  release_next();
  wait_for_previous();
  i64 const pair = blockIdx.x / static_cast<unsigned>(blocks);
  int const first = static_cast<int>(blockIdx.x % static_cast<unsigned>(blocks)) * columns;
  ScanSequence const seq(call, pair / call.heads);
  int const head = static_cast<int>(pair % call.heads);
  if (seq.slot < 0 || seq.tokens == 0 || (few > 0 && seq.tokens > few)) {
    return;
  }
  int const thread = static_cast<int>(threadIdx.x);
  int const threads = static_cast<int>(blockDim.x);
  int const group = thread / pieces;
  int const piece = thread - group * pieces;
  int const column = first + piece * E;
  bool const live = group < groups && column < call.head_v;
  S* const state = call.state == nullptr
                       ? nullptr
                       : static_cast<S*>(call.state) + seq.slot * call.slot_stride + head * call.head_stride;
  float s[mine_rows][E] = {};
  if (live && state != nullptr) {
    uint4 raw[mine_rows];
    JET_UNROLL
    for (int r = 0; r < mine_rows; ++r) {
      raw[r] = __ldcs(reinterpret_cast<uint4 const*>(state + i64{group + groups * r} * call.head_v + column));
    }
    JET_UNROLL
    for (int r = 0; r < mine_rows; ++r) {
      unpack_state<S>(raw[r], s[r]);
    }
  }

  for (i64 t = 0; t < seq.tokens; ++t) {
    i64 const row = seq.begin + t;
    if (t > 0) {
      __syncthreads();  // what the token before left is still read
    }
    for (int n = thread; n < K; n += threads) {
      i64 const at = i64{head} * K + n;
      float const q = call.q[row * call.q_stride + at];
      float const w = expf(call.g[row * call.g_stride + at]);
      rows[n] = make_float4(call.a[row * call.a_stride + at], w * q, w, call.k[row * call.k_stride + at]);
      query[n] = q;
      replacement[n] = call.b[row * call.b_stride + at];
    }
    for (int c = thread; c < columns; c += threads) {
      bool const inside = first + c < call.head_v;
      update[c].y = inside ? call.v[row * call.v_stride + i64{head} * call.head_v + first + c] : 0.0f;
    }
    __syncthreads();
    if (thread < warp_size) {
      float qb = 0;
      float qk = 0;
      for (int n = thread; n < K; n += warp_size) {
        qb = __fmaf_rn(query[n], replacement[n], qb);
        qk = __fmaf_rn(query[n], rows[n].w, qk);
      }
      qb = warp_sum(qb);
      qk = warp_sum(qk);
      if (thread == 0) {
        scalars[0] = qb;
        scalars[1] = qk;
      }
    }
    if (live) {
      float along_a[E] = {};
      float along_q[E] = {};
      JET_UNROLL
      for (int r = 0; r < mine_rows; ++r) {
        float2 const aq = *reinterpret_cast<float2 const*>(rows + group + groups * r);
        JET_UNROLL
        for (int e = 0; e < E; ++e) {
          along_a[e] = __fmaf_rn(aq.x, s[r][e], along_a[e]);
          along_q[e] = __fmaf_rn(aq.y, s[r][e], along_q[e]);
        }
      }
      float* const to = partial + group * 2 * columns + piece * E;
      JET_UNROLL
      for (int e = 0; e < E; e += 4) {
        *reinterpret_cast<float4*>(to + e) =
            make_float4(along_a[e], along_a[e + 1], along_a[e + 2], along_a[e + 3]);
        *reinterpret_cast<float4*>(to + columns + e) =
            make_float4(along_q[e], along_q[e + 1], along_q[e + 2], along_q[e + 3]);
      }
    }
    __syncthreads();
    for (int c = thread; c < columns; c += threads) {
      float p = 0;
      float r = 0;
      JET_UNROLL
      for (int n = 0; n < groups; ++n) {
        p += partial[n * 2 * columns + c];
        r += partial[(n * 2 + 1) * columns + c];
      }
      update[c].x = p;
      if (first + c < call.head_v) {
        call.o[row * call.o_stride + i64{head} * call.head_v + first + c] =
            call.scale * __fmaf_rn(scalars[1], update[c].y, __fmaf_rn(scalars[0], p, r));
      }
    }
    __syncthreads();
    if (live) {
      float2 u[E];
      JET_UNROLL
      for (int e = 0; e < E; ++e) {
        u[e] = update[piece * E + e];
      }
      JET_UNROLL
      for (int r = 0; r < mine_rows; ++r) {
        float2 const wk = *(reinterpret_cast<float2 const*>(rows + group + groups * r) + 1);
        float const b = replacement[group + groups * r];
        JET_UNROLL
        for (int e = 0; e < E; ++e) {
          s[r][e] = __fmaf_rn(wk.y, u[e].y, __fmaf_rn(b, u[e].x, wk.x * s[r][e]));
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

/// Any sizes, dtypes and strides: a thread per column of the state, which is in shared memory [head_k][columns].
template <class = void>
__global__ void general_delta_any(ScanCall const __grid_constant__ call, int columns, int blocks) {
  extern __shared__ float4 scan_memory[];
  int const head_k = call.head_k;
  float* const query = reinterpret_cast<float*>(scan_memory);
  float* const key = query + head_k;
  float* const decay = key + head_k;
  float* const removal = decay + head_k;
  float* const replacement = removal + head_k;
  float* const s = replacement + head_k;
  release_next();
  wait_for_previous();
  i64 const pair = blockIdx.x / static_cast<unsigned>(blocks);
  ScanSequence const seq(call, pair / call.heads);
  int const head = static_cast<int>(pair % call.heads);
  if (seq.slot < 0 || seq.tokens == 0) {
    return;
  }
  int const thread = static_cast<int>(threadIdx.x);
  int const column = static_cast<int>(blockIdx.x % static_cast<unsigned>(blocks)) * columns + thread;
  bool const live = thread < columns && column < call.head_v;
  i64 const at = seq.slot * call.slot_stride + head * call.head_stride + column;
  if (live) {
    for (int i = 0; i < head_k; ++i) {
      s[i * columns + thread] =
          call.state != nullptr ? load_one(call.state, call.state_type, at + i64{i} * call.head_v) : 0.0f;
    }
  }
  for (i64 t = 0; t < seq.tokens; ++t) {
    i64 const row = seq.begin + t;
    __syncthreads();
    for (int n = thread; n < head_k; n += static_cast<int>(blockDim.x)) {
      i64 const i = i64{head} * head_k + n;
      query[n] = call.q[row * call.q_stride + i];
      key[n] = call.k[row * call.k_stride + i];
      decay[n] = expf(call.g[row * call.g_stride + i]);
      removal[n] = call.a[row * call.a_stride + i];
      replacement[n] = call.b[row * call.b_stride + i];
    }
    __syncthreads();
    if (live) {
      float p = 0;
      for (int i = 0; i < head_k; ++i) {
        p = __fmaf_rn(removal[i], s[i * columns + thread], p);
      }
      float const v = call.v[row * call.v_stride + i64{head} * call.head_v + column];
      float o = 0;
      for (int i = 0; i < head_k; ++i) {
        float const x = __fmaf_rn(key[i], v, __fmaf_rn(replacement[i], p, decay[i] * s[i * columns + thread]));
        s[i * columns + thread] = x;
        o = __fmaf_rn(query[i], x, o);
      }
      call.o[row * call.o_stride + i64{head} * call.head_v + column] = call.scale * o;
    }
  }
  if (live && call.state != nullptr) {
    for (int i = 0; i < head_k; ++i) {
      store_one(call.state, call.state_type, at + i64{i} * call.head_v, s[i * columns + thread]);
    }
  }
}

/// Queues the generalised delta rule token by token for a head_k of 16 R and a head_v that is a multiple of 16
/// bytes, states aligned to 16 bytes.
template <class S, int R> void launch_general_delta_steps(cudaStream_t stream, ScanCall const& call, int few) {
  ScanColumns const c = scan_columns(call.head_k, call.head_v, state_numbers<S>);
  int const threads = (scan_groups(16 * R) * c.pieces + warp_size - 1) / warp_size * warp_size;
  Grid const grid{.blocks = call.seqs * call.heads * c.blocks,
                  .threads = threads,
                  .shared_bytes = general_delta_shared(call.head_k, c.pieces * state_numbers<S>),
                  .dependent = true};
  launch("general_delta_steps", grid, stream, &general_delta_steps<S, R>, call, c.pieces, c.blocks, few);
}

/// Queues it token by token for any sizes.
template <class = void> void launch_general_delta_any(cudaStream_t stream, ScanCall const& call) {
  constexpr i64 budget = 160 * 1024;  // bytes of shared memory that sm_80 has, too
  i64 const head = call.head_k * i64{sizeof(float)};
  i64 const columns = std::min<i64>({call.head_v, 64, (budget - 5 * head) / head});
  JET_CHECK(columns >= 1, "CUDA: general_delta_scan: head_k is ", call.head_k, ", expected at most ",
            budget / (6 * i64{sizeof(float)}));
  i64 const blocks = (call.head_v + columns - 1) / columns;
  Grid const grid{.blocks = call.seqs * call.heads * blocks,
                  .threads = 64,
                  .shared_bytes = (5 + columns) * head,
                  .dependent = true};
  launch("general_delta_any", grid, stream, &general_delta_any<>, call, static_cast<int>(columns),
         static_cast<int>(blocks));
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

/// Products in chunks have fp16 factors if activations are bf16.
template <op::ScanShape C> struct Kernel<op::GeneralDeltaScan<C>, tag::cuda> {
  template <class B> static constexpr bool rounded = B::precision.act != DType::f32;
  template <class B> using State = type_of<B::precision.state>;
  template <class B> using Scan = cuda::kernel::Scan<C, State<B>, true, rounded<B>>;
  template <class B>
  using Fragments = std::conditional_t<rounded<B>, cuda::kernel::HalfFragments, cuda::kernel::SplitFragments>;
  static constexpr int head_k = static_cast<int>(C.head_k);
  static constexpr auto rule = cuda::kernel::ChannelRule::general;
  template <class B>
  static constexpr bool by_sixteen =
      C.head_k % 16 == 0 && C.head_k <= 256 && C.head_v* i64{sizeof(State<B>)} % 16 == 0;
  template <class B>
  static constexpr bool in_chunks = [] {
    if constexpr (by_sixteen<B> && C.head_v % 16 == 0) {
      return cuda::kernel::channel_chunks_fit<Fragments<B>, head_k, rule>;
    }
    return false;
  }();

  template <class B>
  static cuda::kernel::ScanChunkMemory scratch(Context<B>& ctx, op::GeneralDeltaScan<C> const&, View const& q,
                                               View const&, View const&, View const&, View const&, View const&,
                                               Slot const&, View const&) {
    if constexpr (in_chunks<B>) {
      return cuda::kernel::channel_scratch<Fragments<B>, head_k, rule>(ctx, q.tokens(), C.heads);
    }
    return {};
  }
  template <class B>
  static void run(Context<B>& ctx, op::GeneralDeltaScan<C> const&, cuda::kernel::ScanChunkMemory const& memory,
                  View const& q, View const& k, View const& v, View const& a, View const& b, View const& g,
                  Slot const& state, View const& o) {
    namespace kernel = cuda::kernel;
    using S = State<B>;
    i64 const tokens = q.tokens();
    kernel::ScanCall call = Scan<B>::call(ctx, q, k, v, state);
    for (View const* const x : {&a, &b, &g}) {
      kernel::check_f32_rows("general_delta_scan", *x, "a, b or g", tokens, C.heads * C.head_k);
    }
    kernel::check_f32_rows("general_delta_scan", o, "o", tokens, C.heads * C.head_v);
    call.a = a.as<float>();
    call.b = b.as<float>();
    call.g = g.as<float>();
    call.o = o.as<float>();
    call.a_stride = a.stride[0];
    call.b_stride = b.stride[0];
    call.g_stride = g.stride[0];
    call.o_stride = o.stride[0];
    i64 const longest = cuda::longest_sequence(ctx);
    if (longest == 0 || tokens == 0) {
      return;
    }
    cudaStream_t const stream = ctx.backend().stream();
    if constexpr (by_sixteen<B>) {
      auto const aligned = [](void const* at, i64 stride, i64 size) {
        return reinterpret_cast<std::uintptr_t>(at) % 16 == 0 && stride * size % 16 == 0;
      };
      constexpr i64 size = sizeof(S);
      if (aligned(call.state, call.slot_stride, size) && aligned(call.state, call.head_stride, size)) {
        bool const chunks =
            in_chunks<B> && longest > kernel::scan_few && aligned(call.v, call.v_stride, i64{sizeof(float)});
        if (!chunks || Scan<B>::has_short(ctx)) {
          kernel::launch_general_delta_steps<S, head_k / 16>(stream, call, chunks ? kernel::scan_few : 0);
        }
        if constexpr (in_chunks<B>) {
          if (chunks) {
            kernel::launch_channel_chunks<Fragments<B>, head_k, rule>(
                stream, ctx.backend().multiprocessors(), call, memory, kernel::scan_max_chunks(tokens, ctx.seqs()));
          }
        }
        return;
      }
    }
    kernel::launch_general_delta_any(stream, call);
  }
};

JET_NAMESPACE_END
