/// \file
/// The recurrence that the linear-attention family shares, with its decay and its update as parameters:
///   S <- diag(e^g_t) S ;  u = delta ? beta_t (v_t - S^T k_t) : beta_t v_t ;  S <- S + k_t u^T ;  o_t = scale S^T
///   q_t
/// Gated DeltaNet and JetBlock: decay per head, delta (arXiv 2412.06464, chunk form section 3). DeltaNet: no decay,
/// delta (2406.06484). RetNet, Mamba2: decay per head, additive. GLA: decay per channel, additive. KDA: decay per
/// channel, delta (2510.26692).
#pragma once

#include <cmath>
#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>
#include <jet/op/norm.hpp>

JET_NAMESPACE_BEGIN
namespace op {

enum class Decay : std::uint8_t { none, head, channel };
enum class Update : std::uint8_t { additive, delta };

/// Compile-time sizes and kind of a scan: a template argument of the op.
struct ScanShape {
  i64 heads = 1;
  i64 head_k = 1;
  i64 head_v = 1;
  Decay decay = Decay::head;
  Update update = Update::delta;
  double scale = 0;  // of the query; 0: head_k^-1/2

  constexpr i64 decay_width() const {
    return decay == Decay::none ? 0 : decay == Decay::head ? heads : heads * head_k;
  }
};

/// args: View q, k (tokens, heads * head_k) at acc, View v (tokens, heads * head_v) at acc,
///       View g (tokens, decay_width) log decays <= 0 at acc (null for Decay::none),
///       View beta (tokens, heads) at acc (null: 1),
///       Slot state [slots, heads, head_k, head_v] (null: zero and not kept), View o (tokens, heads * head_v) at
///       acc
/// Many tokens of a sequence go through the chunk form (matrix products over 64 tokens), few through the
/// recurrence; both give the same answer up to rounding. Only e^(difference of cumulative decays) <= 1 is ever
/// formed. Cost per head and token: about 7 head_k head_v FLOP recurrent, 2 C (2 head_k + head_v) + 6 head_k head_v
/// in chunks.
template <ScanShape C> struct GatedScan {
  static constexpr std::string_view name = "gated_scan";
  static constexpr ScanShape c = C;
  static_assert(C.heads > 0 && C.head_k > 0 && C.head_v > 0, "jet: a scan needs heads, head_k and head_v > 0");
};

/// The gates of Gated DeltaNet and JetBlock: g = -exp(A_log) softplus(a + dt_bias), beta = sigmoid(b), per head.
///   args: View a, b (tokens, heads) logits at acc, Slot A_log, dt_bias [heads], View g, beta (tokens, heads) at
///   acc
struct DeltaGates {
  static constexpr std::string_view name = "delta_gates";
};

/// The core of JetBlock between its products: silu and l2 norm of q and k, gates, scan, gated norm.
///   args: View q, k, v, a, b (raw projections; v after its convolution) at acc, Slot A_log, dt_bias, state,
///         View z (tokens, heads * head_v) gate logits at acc, Slot o_norm [head_v], View y (tokens, heads *
///         head_v)
/// q and k are overwritten. Gated DeltaNet, whose q and k come from a convolution with silu, clears `silu_qk`.
template <ScanShape C> struct DeltaMix {
  static constexpr std::string_view name = "delta_mix";
  static constexpr ScanShape c = C;
  double norm_eps = 1e-5;
  bool silu_qk = true;

  template <class B>
  static void compose(Context<B>& ctx, DeltaMix const& op, View const& q, View const& k, View const& v,
                      View const& a, View const& b, Slot const& a_log, Slot const& dt_bias, Slot const& state,
                      View const& z, Slot const& o_norm, View const& y) {
    i64 const t = q.tokens();
    View const g = ctx.accumulator(t, C.heads);
    View const beta = ctx.accumulator(t, C.heads);
    View const o = ctx.accumulator(t, C.heads * C.head_v);
    ctx.run(L2Norm{C.heads, C.head_k, 1e-6, op.silu_qk}, q);
    ctx.run(L2Norm{C.heads, C.head_k, 1e-6, op.silu_qk}, k);
    ctx.run(DeltaGates{}, a, b, a_log, dt_bias, g, beta);
    ctx.run(GatedScan<C>{}, q, k, v, g, beta, state, o);
    ctx.run(GatedRmsNorm{C.heads, C.head_v, op.norm_eps, false}, o_norm, o, z, y);
  }
};

}  // namespace op
JET_NAMESPACE_END
