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
#include <jet/core/saved.hpp>
#include <jet/core/view.hpp>
#include <jet/op/backward.hpp>
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
  /// Promises |k| <= 1 (up to rounding) and, with the delta update, 0 <= beta <= 2: 16-bit factors are then safe.
  bool unit_keys = false;

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
/// Saving: one more argument, View states (chunks, heads, head_k, head_v) at acc: the state at the start of every
/// chunk of 64 tokens (core/saved.hpp).
/// Backward: View q, k, v, g, beta as in the forward, View states, View do (tokens, heads * head_v),
///         ScanGradient const&. Saves its inputs and states; everything inside a chunk is recomputed in the chunk
///         form, whatever form the forward took. Cost: about 2.5 times the forward.
template <ScanShape C> struct GatedScan {
  static constexpr std::string_view name = "gated_scan";
  static constexpr ScanShape c = C;
  static_assert(C.heads > 0 && C.head_k > 0 && C.head_v > 0, "jet: a scan needs heads, head_k and head_v > 0");
};

/// Where the gradients of a scan go: views shaped as the inputs (dg null for Decay::none, dbeta null without beta),
/// and the state's [slots, heads, head_k, head_v].
struct ScanGradient {
  View q{}, k{}, v{}, g{}, beta{};
  Slot state_end{}, state_begin{};
};

/// The gates of Gated DeltaNet and JetBlock: g = -exp(A_log) softplus(a + dt_bias), beta = sigmoid(b), per head.
///   args: View a, b (tokens, heads) logits at acc, Slot A_log, dt_bias [heads], View g, beta (tokens, heads) at
///   acc
/// Backward: View a, b, Slot A_log, dt_bias, View dg, dbeta, View da, db (both formed; may be dg and dbeta),
///         Slot dA_log, ddt_bias. Saves a and b.
struct DeltaGates {
  static constexpr std::string_view name = "delta_gates";
};

/// What DeltaMix keeps when it saves, beside its inputs: q and k as they came in, the scan's output, its states.
struct DeltaMixSaved {
  View q{}, k{};
  View o{};
  View states{};
};
/// Where the gradients of DeltaMix go, shaped as its inputs.
struct DeltaMixGradient {
  View q{}, k{}, v{}, a{}, b{}, z{};
  Slot a_log{}, dt_bias{}, o_norm{};
  Slot state_end{}, state_begin{};
};

/// The core of JetBlock between its products: silu and l2 norm of q and k, gates, scan, gated norm.
///   args: View q, k, v, a, b (raw projections; v after its convolution) at acc, Slot A_log, dt_bias, state,
///         View z (tokens, heads * head_v) gate logits at acc, Slot o_norm [head_v], View y (tokens, heads *
///         head_v)
/// q and k are overwritten. Gated DeltaNet, whose q and k come from a convolution with silu, clears `silu_qk`.
/// Saving: one more argument, DeltaMixSaved.
/// Backward: DeltaMixSaved (q and k raw), View v, a, b, Slot A_log, dt_bias, View z, Slot o_norm, View dy,
///         DeltaMixGradient. Recomputes the normalised q and k and the gates.
template <ScanShape C> struct DeltaMix {
  static constexpr std::string_view name = "delta_mix";
  static constexpr ScanShape c = C;
  double norm_eps = 1e-5;
  bool silu_qk = true;

  template <class B>
  static void compose(Context<B>& ctx, DeltaMix const& op, View const& q, View const& k, View const& v,
                      View const& a, View const& b, Slot const& a_log, Slot const& dt_bias, Slot const& state,
                      View const& z, Slot const& o_norm, View const& y, DeltaMixSaved const& saved = {}) {
    i64 const t = q.tokens();
    bool const saving = static_cast<bool>(saved.states);
    View const g = ctx.accumulator(t, C.heads);
    View const beta = ctx.accumulator(t, C.heads);
    View const o = saving ? saved.o : ctx.accumulator(t, C.heads * C.head_v);
    if (saving) {
      copy_rows(ctx, q, saved.q);
      copy_rows(ctx, k, saved.k);
    }
    normalise(ctx, op, q, k);
    ctx.run(DeltaGates{}, a, b, a_log, dt_bias, g, beta);
    if (saving) {
      run_saving(ctx, GatedScan<C>{}, q, k, v, g, beta, state, o, saved.states);
    } else {
      ctx.run(GatedScan<C>{}, q, k, v, g, beta, state, o);
    }
    ctx.run(gated_norm(op), o_norm, o, z, y);
  }

  template <class B>
  static void compose_backward(Context<B>& ctx, DeltaMix const& op, DeltaMixSaved const& saved, View const& v,
                               View const& a, View const& b, Slot const& a_log, Slot const& dt_bias, View const& z,
                               Slot const& o_norm, View const& dy, DeltaMixGradient const& to) {
    i64 const t = v.tokens();
    View const q = ctx.accumulator(t, C.heads * C.head_k);
    View const k = ctx.accumulator(t, C.heads * C.head_k);
    View const g = ctx.accumulator(t, C.heads);
    View const beta = ctx.accumulator(t, C.heads);
    View const d_o = ctx.accumulator(t, C.heads * C.head_v);
    copy_rows(ctx, saved.q, q);
    copy_rows(ctx, saved.k, k);
    normalise(ctx, op, q, k);
    ctx.run(DeltaGates{}, a, b, a_log, dt_bias, g, beta);
    ctx.run(Backward{gated_norm(op)}, o_norm, saved.o, z, dy, d_o, to.z, to.o_norm);
    ctx.run(Backward{GatedScan<C>{}}, q, k, v, g, beta, saved.states, d_o,
            ScanGradient{to.q, to.k, to.v, to.a, to.b, to.state_end, to.state_begin});
    ctx.run(Backward{DeltaGates{}}, a, b, a_log, dt_bias, to.a, to.b, to.a, to.b, to.a_log, to.dt_bias);
    ctx.run(Backward{l2_norm(op)}, saved.q, to.q);
    ctx.run(Backward{l2_norm(op)}, saved.k, to.k);
  }

 private:
  static L2Norm l2_norm(DeltaMix const& op) { return {C.heads, C.head_k, 1e-6, op.silu_qk}; }
  static GatedRmsNorm gated_norm(DeltaMix const& op) { return {C.heads, C.head_v, op.norm_eps, false}; }
  template <class B> static void normalise(Context<B>& ctx, DeltaMix const& op, View const& q, View const& k) {
    ctx.run(l2_norm(op), q);
    ctx.run(l2_norm(op), k);
  }
};

}  // namespace op
JET_NAMESPACE_END
