/// \file
/// The scan of the linear-attention family (op/gated_scan.hpp) on the device: which sequences go token by token and
/// which in chunks, and what is fused.
///
/// A sequence's form depends on its number of tokens alone, and every kernel adds up in an order that depends on
/// the sizes alone: the bits of a sequence's result do not depend on the batch that it sits in.
#pragma once

#include <algorithm>
#include <cmath>
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
#include <jet/cuda/batch.cuh>
#include <jet/cuda/runs_wgmma.cuh>
#include <jet/cuda/scan_call.cuh>
#include <jet/cuda/scan_channel.cuh>
#include <jet/cuda/scan_chunk.cuh>
#include <jet/cuda/scan_hopper.cuh>
#include <jet/cuda/scan_norm.cuh>
#include <jet/cuda/scan_steps.cuh>
#include <jet/fwd.hpp>
#include <jet/op/gated_scan.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Which calls go to the kernels of scan_hopper.cuh, of those that they can take. `where_faster` is what was
/// measured on an H100 (benchmarks/results/cuda_h100.md): the delta update with head_k to 128 and enough heads to
/// fill the device, or with head_k to 96 and sequences that are cut into pieces.
enum class ScanHopper { never, where_faster, always };
inline ScanHopper scan_hopper = ScanHopper::where_faster;

/// Scratch of the chunk form, whichever kernels run.
struct ScanMemory {
  ScanChunkMemory portable;
  ScanHopperMemory hopper;
};

/// The scan of shape C. S: type of the state. Exact: fp32 products in chunks; otherwise fp16 factors, for
/// normalised q and k. Rounded: with wgmma factors are fp16 nevertheless, of which an additive update needs no
/// norm.
template <op::ScanShape C, class S, bool Exact, bool Rounded> struct Scan {
  static constexpr bool by_sixteen = C.head_k % 16 == 0 && C.head_k <= 256 && C.head_v % 16 == 0;
  static constexpr int head_k = static_cast<int>(C.head_k);
  using Fragments = std::conditional_t<Exact, SplitFragments, HalfFragments>;
  static constexpr bool in_chunks = [] {
    if constexpr (by_sixteen && C.decay != op::Decay::channel) {
      return scan_chunks_fit<Fragments, head_k>;
    }
    return false;
  }();

  /// Whether there are kernels with wgmma for it.
  static constexpr bool hopper = has_sm_90 && Rounded && by_sixteen && C.decay != op::Decay::channel &&
                                 head_k % 32 == 0 && (C.update == op::Update::additive || C.unit_keys);

  /// Chunks with a decay per channel (scan_channel.cuh).
  using ChannelFragments = std::conditional_t<Rounded, HalfFragments, SplitFragments>;
  static constexpr ChannelRule rule = C.update == op::Update::delta ? ChannelRule::delta : ChannelRule::additive;
  static constexpr bool in_channels = [] {
    if constexpr (by_sixteen && C.decay == op::Decay::channel) {
      return channel_chunks_fit<ChannelFragments, head_k, rule>;
    }
    return false;
  }();

  template <class B> static ScanMemory scratch(Context<B>& ctx, i64 tokens) {
    ScanMemory m;
    if constexpr (in_channels) {
      m.portable = channel_scratch<ChannelFragments, head_k, rule>(ctx, tokens, C.heads);
    }
    if constexpr (in_chunks || hopper) {
      i64 const chunks = scan_max_chunks(tokens, ctx.seqs());
      i64 bytes = 0;
      if constexpr (in_chunks) {
        bytes = ScanChunk<Fragments, head_k>::bytes;
      }
      if constexpr (hopper) {
        bytes = std::max<i64>(bytes, ScanTiles<head_k>::bytes);
        i64 const pieces = scan_max_pieces(tokens) * C.heads * C.head_k * i64{sizeof(float)};
        m.hopper.states = static_cast<float*>(ctx.scratch_bytes(pieces * C.head_v));
        m.hopper.transfers = static_cast<float*>(ctx.scratch_bytes(pieces * C.head_k));
      }
      m.portable.first_chunk = static_cast<int*>(ctx.scratch_bytes(3 * (ctx.seqs() + 1) * i64{sizeof(int)}));
      m.portable.chunks = static_cast<std::byte*>(ctx.scratch_bytes(chunks * C.heads * bytes));
      m.hopper.first_chunk = m.portable.first_chunk;
      m.hopper.chunks = m.portable.chunks;
    }
    return m;
  }

  /// What does not depend on where gates and output come from. Throws jet::Error on other shapes and dtypes.
  template <class B>
  static ScanCall call(Context<B>& ctx, View const& q, View const& k, View const& v, Slot const& state) {
    i64 const tokens = q.tokens();
    check_f32_rows("gated_scan", q, "q", tokens, C.heads * C.head_k);
    check_f32_rows("gated_scan", k, "k", tokens, C.heads * C.head_k);
    check_f32_rows("gated_scan", v, "v", tokens, C.heads * C.head_v);
    constexpr i64 most = std::numeric_limits<int>::max();
    JET_CHECK(tokens * C.heads <= most && ctx.seqs() * C.heads <= most, "CUDA: gated_scan: a call of ", tokens,
              " tokens in ", ctx.seqs(), " sequences is too large");
    ScanCall c{};
    c.q = q.as<float>();
    c.k = k.as<float>();
    c.v = v.as<float>();
    c.q_stride = q.stride[0];
    c.k_stride = k.stride[0];
    c.v_stride = v.stride[0];
    if (state) {
      JET_CHECK(state.dtype == dtype_of<S>, "CUDA: gated_scan: the state has dtype ", name_of(state.dtype),
                ", expected ", name_of(dtype_of<S>));
      JET_CHECK(state.rank == 4 && state.extent[1] == C.heads && state.extent[2] == C.head_k &&
                    state.extent[3] == C.head_v && state.stride[3] == 1 && state.stride[2] == C.head_v,
                "CUDA: gated_scan: the state must have the shape [slots, ", C.heads, ", ", C.head_k, ", ", C.head_v,
                "] with dense heads");
      c.state = state.data;
      c.slot_stride = state.stride[0];
      c.head_stride = state.stride[1];
    }
    c.cu_seqlens = ctx.batch().cu_seqlens;
    c.slot = ctx.batch().slot;
    c.seqs = ctx.seqs();
    c.heads = static_cast<int>(C.heads);
    c.head_k = head_k;
    c.head_v = static_cast<int>(C.head_v);
    c.scale = static_cast<float>(C.scale != 0 ? C.scale : 1.0 / std::sqrt(static_cast<double>(C.head_k)));
    c.decay = C.decay;
    c.state_type = dtype_of<S>;
    c.delta = C.update == op::Update::delta;
    return c;
  }

  /// Queues it. Returns whether the call's gated norm is done with.
  template <class B> static bool run(Context<B>& ctx, ScanCall const& call, ScanMemory const& memory, i64 tokens) {
    cudaStream_t const stream = ctx.backend().stream();
    i64 const longest = longest_sequence(ctx);
    if (longest == 0 || tokens == 0) {
      return true;
    }
    if constexpr (by_sixteen) {
      auto const aligned = [](void const* at, i64 stride, i64 size) {
        return reinterpret_cast<std::uintptr_t>(at) % 16 == 0 && stride * size % 16 == 0;
      };
      constexpr i64 s = sizeof(S);
      if (aligned(call.q, call.q_stride, 4) && aligned(call.k, call.k_stride, 4) &&
          aligned(call.v, call.v_stride, 4) && aligned(call.state, call.slot_stride, s) &&
          aligned(call.state, call.head_stride, s)) {
        bool const chunks = in_chunks || in_channels || uses_hopper(ctx);
        int const few = chunks && longest > scan_few ? scan_few : 0;
        bool const fused = longest == 1 && call.y != nullptr;
        if (few == 0 || has_short(ctx)) {
          launch_scan_steps<S, head_k / 16>(stream, ctx.backend().multiprocessors(), call, few, fused,
                                            ScanCut{.early = ctx.backend().in_recording()});
        }
        if (few > 0) {
          run_chunks(ctx, call, memory, tokens);
        }
        return fused;
      }
    }
    launch_scan_any(stream, call, 0);
    return false;
  }

  /// Whether a sequence may have 1 to scan_few tokens.
  template <class B> static bool has_short(Context<B> const& ctx) {
    BatchView const* const host = ctx.host_batch();
    if (host == nullptr) {
      return true;
    }
    for (i64 i = 0; i < host->seqs; ++i) {
      i64 const tokens = host->cu_seqlens[i + 1] - host->cu_seqlens[i];
      if (host->slot[i] >= 0 && tokens > 0 && tokens <= scan_few) {
        return true;
      }
    }
    return false;
  }

 private:
  template <class B> static bool uses_hopper(Context<B> const& ctx) {
    if constexpr (hopper) {
      if (scan_hopper == ScanHopper::never || !runs_wgmma()) {
        return false;
      }
      bool const fills = 2 * ctx.seqs() * C.heads >= ctx.backend().multiprocessors();
      bool const faster =
          C.update == op::Update::delta && (cuts(ctx) ? head_k <= 96 : head_k <= 128 && (fills || !in_chunks));
      return faster || scan_hopper == ScanHopper::always;
    }
    return false;
  }
  /// Whether the kernels of scan_hopper.cuh cut a sequence into pieces.
  template <class B> static bool cuts(Context<B> const& ctx) {
    return longest_sequence(ctx) > i64{scan_cut_from - 1} * scan_chunk;
  }
  template <class B>
  static void run_chunks(Context<B>& ctx, ScanCall const& call, ScanMemory const& memory, i64 tokens) {
    constexpr bool delta = C.update == op::Update::delta;
    cudaStream_t const stream = ctx.backend().stream();
    i64 const chunks = scan_max_chunks(tokens, ctx.seqs());
    if constexpr (hopper) {
      if (uses_hopper(ctx)) {
        launch_scan_hopper<head_k, delta>(stream, call, memory.hopper, chunks,
                                          cuts(ctx) ? scan_max_pieces(tokens) : 0);
        return;
      }
    }
    if constexpr (in_channels) {
      launch_channel_chunks<ChannelFragments, head_k, rule>(stream, ctx.backend().multiprocessors(), call,
                                                            memory.portable, chunks);
    }
    if constexpr (in_chunks) {
      launch_scan_chunks<Fragments, head_k, delta>(stream, ctx.backend().multiprocessors(), call, memory.portable,
                                                   chunks);
    }
  }
};

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

/// Keys may have any norm, so the products in chunks are in fp32; in fp16 where activations are bf16 and
/// the call goes to the kernels of scan_hopper.cuh.
template <op::ScanShape C> struct Kernel<op::GatedScan<C>, tag::cuda> {
  template <class B>
  using Scan = cuda::kernel::Scan<C, type_of<B::precision.state>, true, B::precision.act != DType::f32>;

  template <class B>
  static cuda::kernel::ScanMemory scratch(Context<B>& ctx, op::GatedScan<C> const&, View const& q, View const&,
                                          View const&, View const&, View const&, Slot const&, View const&) {
    return Scan<B>::scratch(ctx, q.tokens());
  }
  template <class B>
  static void run(Context<B>& ctx, op::GatedScan<C> const&, cuda::kernel::ScanMemory const& memory, View const& q,
                  View const& k, View const& v, View const& g, View const& beta, Slot const& state, View const& o) {
    namespace kernel = cuda::kernel;
    kernel::check_f32_rows("gated_scan", o, "o", q.tokens(), C.heads * C.head_v);
    kernel::ScanCall call = Scan<B>::call(ctx, q, k, v, state);
    if constexpr (C.decay != op::Decay::none) {
      kernel::check_f32_rows("gated_scan", g, "g", q.tokens(), C.decay_width());
      call.g = g.as<float>();
      call.g_stride = g.stride[0];
    }
    if (beta) {
      kernel::check_f32_rows("gated_scan", beta, "beta", q.tokens(), C.heads);
      call.beta = beta.as<float>();
      call.beta_stride = beta.stride[0];
    }
    call.o = o.as<float>();
    call.o_stride = o.stride[0];
    Scan<B>::run(ctx, call, memory, q.tokens());
  }
};

/// Norms of q and k and the gates are part of the scan's kernels; in a call of single tokens the gated norm is,
/// too. q and k keep their values. Products in chunks have fp16 factors if activations are bf16.
template <op::ScanShape C> struct Kernel<op::DeltaMix<C>, tag::cuda> {
  static_assert(C.decay == op::Decay::head && C.update == op::Update::delta,
                "jet: DeltaMix has a decay per head and the delta update");
  static constexpr op::ScanShape unit(op::ScanShape shape) {
    shape.unit_keys = true;
    return shape;
  }
  template <class B>
  using Scan = cuda::kernel::Scan<unit(C), type_of<B::precision.state>, B::precision.act == DType::f32,
                                  B::precision.act != DType::f32>;
  struct Memory {
    cuda::kernel::ScanMemory chunks;
    View o;
  };

  template <class B>
  static Memory scratch(Context<B>& ctx, op::DeltaMix<C> const&, View const& q, View const&, View const&,
                        View const&, View const&, Slot const&, Slot const&, Slot const&, View const&, Slot const&,
                        View const&) {
    return {Scan<B>::scratch(ctx, q.tokens()), ctx.accumulator(q.tokens(), C.heads * C.head_v)};
  }
  template <class B>
  static void run(Context<B>& ctx, op::DeltaMix<C> const& op, Memory const& memory, View const& q, View const& k,
                  View const& v, View const& a, View const& b, Slot const& a_log, Slot const& dt_bias,
                  Slot const& state, View const& z, Slot const& o_norm, View const& y) {
    namespace kernel = cuda::kernel;
    i64 const tokens = q.tokens();
    kernel::ScanCall call = Scan<B>::call(ctx, q, k, v, state);
    kernel::check_f32_rows("delta_mix", a, "a", tokens, C.heads);
    kernel::check_f32_rows("delta_mix", b, "b", tokens, C.heads);
    kernel::check_f32_rows("delta_mix", z, "z", tokens, C.heads * C.head_v);
    kernel::detail::check_rows("delta_mix", y, "y", tokens, C.heads * C.head_v);
    call.a = a.as<float>();
    call.b = b.as<float>();
    call.a_stride = a.stride[0];
    call.b_stride = b.stride[0];
    call.a_log = a_log.as<float>();
    call.dt_bias = dt_bias.as<float>();
    call.raw = true;
    call.silu = op.silu_qk;
    call.o = memory.o.template as<float>();
    call.o_stride = memory.o.stride[0];
    call.z = z.as<float>();
    call.z_stride = z.stride[0];
    call.weight = o_norm.as<float>();
    call.y = y.data;
    call.y_stride = y.stride[0];
    call.y_type = y.dtype;
    call.norm_eps = static_cast<float>(op.norm_eps);
    if (!Scan<B>::run(ctx, call, memory.chunks, tokens)) {
      Kernel<op::GatedRmsNorm, tag::cuda>::run(ctx, op::GatedRmsNorm{C.heads, C.head_v, op.norm_eps, false}, o_norm,
                                               memory.o, z, y);
    }
  }
};

JET_NAMESPACE_END
