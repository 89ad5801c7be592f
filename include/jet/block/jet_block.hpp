/// \file
/// JetBlock: the gated delta rule with a value path through a convolution whose kernels come from the input.
#pragma once

#include <array>
#include <string_view>

#include <jet/concepts.hpp>
#include <jet/core/context.hpp>
#include <jet/core/param.hpp>
#include <jet/core/saved.hpp>
#include <jet/core/state.hpp>
#include <jet/op/gated_scan.hpp>
#include <jet/op/linear.hpp>
#include <jet/op/short_conv.hpp>

JET_NAMESPACE_BEGIN

/// Sizes of a JetBlock. The generator's hidden size is heads * head_v / gen_reduction.
struct JetBlockConfig {
  i64 d_model = 0;
  i64 heads = 0;
  i64 head_k = 0;
  i64 head_v = 0;
  i64 conv = 4;
  i64 gen_reduction = 8;
  double norm_eps = 1e-5;

  constexpr i64 key_dim() const { return heads * head_k; }
  constexpr i64 value_dim() const { return heads * head_v; }
  constexpr i64 gen_dim() const { return value_dim() / gen_reduction; }
  constexpr bool valid() const {
    return d_model > 0 && heads > 0 && head_k > 0 && head_v > 0 && conv > 0 && gen_reduction > 0 &&
           value_dim() % gen_reduction == 0;
  }
  friend constexpr bool operator==(JetBlockConfig const&, JetBlockConfig const&) = default;

  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model);
    f("heads", self.heads);
    f("head_k", self.head_k);
    f("head_v", self.head_v);
    f("conv", self.conv);
    f("gen_reduction", self.gen_reduction);
    f("norm_eps", self.norm_eps);
  }
};

/// JetBlock (Jet-Nemotron, arXiv 2508.15884, section 3; reference jet_block.py). With u the block's input:
///   q, k = l2(silu(u Wq^T)), l2(silu(u Wk^T))            (tokens, heads, head_k)
///   v    = silu(conv(u Wv^T; kernels silu(u W1^T) W2^T + b2))   (tokens, heads, head_v)
///   beta = sigmoid(u Wb^T) ;  g = -exp(A_log) softplus(u Wa^T + dt_bias)     (tokens, heads)
///   S <- e^g S ;  S <- S + k (beta (v - S^T k))^T ;  o = head_k^-1/2 S^T q
///   y = (w_o * rms(o) * silu(u Wg^T)) Wo^T
/// x, y (tokens, d_model). State: S [heads, head_k, head_v]; the last `conv` rows of u Wv^T, [conv, heads *
/// head_v]. Cost per token: 2 FLOP per weight of the rank-2 rows, plus about 7 head_k head_v per head. Numerics: q,
/// k, v, gates and the scan at acc; the value projection is rounded to act before the convolution, because the
/// state keeps it so. Training saves every projection, v, the scan's output and one state per chunk of 64 tokens;
/// convolution kernels, gates, norms and the inside of chunks are recomputed.
template <JetBlockConfig C> struct JetBlock {
  static_assert(C.valid(),
                "jet: JetBlockConfig needs all sizes > 0 and heads * head_v a multiple of gen_reduction");
  static constexpr auto config = C;
  static constexpr std::string_view kind = "jet";
  static constexpr i64 width = C.d_model;

  template <class T> struct Params { T q, k, v, b, a, A_log, dt_bias, gen1, gen2, gen2_bias, g, o_norm, o; };
  static constexpr Params<ParamSpec> params() {
    return {
        .q = {"q_proj.weight", {C.key_dim(), C.d_model}, {}, true, false, Role::mixer, Part::query, 0},
        .k = {"k_proj.weight", {C.key_dim(), C.d_model}, {}, true, false, Role::mixer, Part::key, 0},
        .v = {"v_proj.weight", {C.value_dim(), C.d_model}, {}, true, false, Role::mixer, Part::value, 0},
        .b = {"b_proj.weight", {C.heads, C.d_model}, {}, true, false, Role::mixer, Part::beta, 0},
        .a = {"a_proj.weight", {C.heads, C.d_model}, {}, true, false, Role::mixer, Part::decay, 0},
        .A_log = {"A_log", {C.heads}, Init::log_uniform(0, 16), false, true, Role::mixer, Part::decay, 0},
        .dt_bias = {"dt_bias", {C.heads}, Init::dt_bias(), false, true, Role::mixer, Part::decay, 0},
        // w1 random and w2 zero: both zero would be a dead start (no gradient reaches either)
        .gen1 = {"dynamic_conv1d.kernel_generator.w1.weight",
                 {C.gen_dim(), C.d_model},
                 {},
                 true,
                 false,
                 Role::mixer,
                 Part::conv,
                 -1},
        .gen2 = {"dynamic_conv1d.kernel_generator.w2.weight",
                 {C.value_dim() * C.conv, C.gen_dim()},
                 Init::zeros(),
                 true,
                 false,
                 Role::mixer,
                 Part::conv,
                 0},
        .gen2_bias = {"dynamic_conv1d.kernel_generator.w2.bias",
                      {C.value_dim() * C.conv},
                      {},
                      true,
                      false,
                      Role::mixer,
                      Part::conv,
                      0},
        .g = {"g_proj.weight", {C.value_dim(), C.d_model}, {}, true, false, Role::mixer, Part::gate, 0},
        .o_norm = {"o_norm.weight", {C.head_v}, Init::ones(), false},
        .o = {"o_proj.weight", {C.d_model, C.value_dim()}, {}, true, false, Role::mixer, Part::output, 1},
    };
  }

  template <class T> struct State { T recurrent, conv; };
  static constexpr State<StateSpec> state() {
    return {.recurrent = {"recurrent", {C.heads, C.head_k, C.head_v}, false, 0, Role::recurrent},
            .conv = {"conv", {C.conv, C.value_dim()}, false, 0, Role::conv}};
  }

  /// q, k before silu and norm, raw the value projection, hidden the generator's first product, o the scan's
  /// output.
  template <class T> struct Saved { T q, k, raw, v, z, a, b, hidden, o, states; };
  static constexpr Saved<SavedSpec> saved() {
    constexpr auto acc = SavedAs::acc;
    return {.q = {"q", {C.key_dim()}, Per::token, acc},
            .k = {"k", {C.key_dim()}, Per::token, acc},
            .raw = {"raw", {C.value_dim()}, Per::token, SavedAs::act},
            .v = {"v", {C.value_dim()}, Per::token, acc},
            .z = {"z", {C.value_dim()}, Per::token, acc},
            .a = {"a", {C.heads}, Per::token, acc},
            .b = {"b", {C.heads}, Per::token, acc},
            .hidden = {"hidden", {C.gen_dim()}, Per::token, acc},
            .o = {"o", {C.value_dim()}, Per::token, acc},
            .states = {"states", {C.heads, C.head_k, C.head_v}, Per::chunk, acc}};
  }

  template <Backend B>
  static void forward(Context<B>& ctx, Params<Slot> const& w, State<Slot>& s, View x, View y,
                      Saved<Slot>* saved = nullptr) {
    i64 const t = x.tokens();
    bool const saving = saved != nullptr;
    View const q = ctx.accumulator(t, C.key_dim());
    View const k = ctx.accumulator(t, C.key_dim());
    View const raw = saving ? saved->raw.rows(0, t) : ctx.scratch(t, C.value_dim());
    View const v = saving ? saved->v.rows(0, t) : ctx.accumulator(t, C.value_dim());
    View const z = saving ? saved->z.rows(0, t) : ctx.accumulator(t, C.value_dim());
    View const a = saving ? saved->a.rows(0, t) : ctx.accumulator(t, C.heads);
    View const b = saving ? saved->b.rows(0, t) : ctx.accumulator(t, C.heads);
    View const hidden = saving ? saved->hidden.rows(0, t) : ctx.accumulator(t, C.gen_dim());
    View const mixed = ctx.scratch(t, C.value_dim());
    ctx.run(op::Linears{}, x,
            std::array{op::Projection{w.q, {}, q}, op::Projection{w.k, {}, k}, op::Projection{w.v, {}, raw},
                       op::Projection{w.g, {}, z}, op::Projection{w.gen1, {}, hidden}, op::Projection{w.b, {}, b},
                       op::Projection{w.a, {}, a}});
    ctx.run(op::DynamicConv{C.conv}, hidden, w.gen2, w.gen2_bias, raw, s.conv, v);
    if (saving) {
      ctx.run(mix(), q, k, v, a, b, w.A_log, w.dt_bias, s.recurrent, z, w.o_norm, mixed, mix_saved(*saved, t));
    } else {
      ctx.run(mix(), q, k, v, a, b, w.A_log, w.dt_bias, s.recurrent, z, w.o_norm, mixed);
    }
    ctx.run(op::Linear{}, w.o, Slot{}, mixed, y);
  }

  template <Backend B>
  static void backward(Context<B>& ctx, Params<Slot> const& w, State<Slot> const& s0, View x,
                       Saved<Slot> const& saved, View dy, View dx, Params<Slot> const& dw,
                       State<Slot> const& ds_end, State<Slot> const& ds_begin) {
    i64 const t = x.tokens();
    View const raw = saved.raw.rows(0, t), v = saved.v.rows(0, t), z = saved.z.rows(0, t);
    View const a = saved.a.rows(0, t), b = saved.b.rows(0, t), hidden = saved.hidden.rows(0, t);
    op::DeltaMixSaved const kept = mix_saved(saved, t);
    View const mixed = ctx.scratch(t, C.value_dim());
    View const dmixed = ctx.accumulator(t, C.value_dim());
    View const dq = ctx.accumulator(t, C.key_dim());
    View const dk = ctx.accumulator(t, C.key_dim());
    View const dv = ctx.accumulator(t, C.value_dim());
    View const dz = ctx.accumulator(t, C.value_dim());
    View const da = ctx.accumulator(t, C.heads);
    View const db = ctx.accumulator(t, C.heads);
    View const dhidden = ctx.accumulator(t, C.gen_dim());
    View const draw = dmixed;  // which is done with by then
    if (dw.o) {
      ctx.run(op::GatedRmsNorm{C.heads, C.head_v, C.norm_eps, false}, w.o_norm, kept.o, z, mixed);
    }
    ctx.run(op::Backward{op::Linear{}}, w.o, mixed, dy, dmixed, dw.o, Slot{});
    ctx.run(op::Backward{mix()}, kept, v, a, b, w.A_log, w.dt_bias, z, w.o_norm, dmixed,
            op::DeltaMixGradient{dq, dk, dv, da, db, dz, dw.A_log, dw.dt_bias, dw.o_norm, ds_end.recurrent,
                                 ds_begin.recurrent});
    ctx.run(op::Backward{op::DynamicConv{C.conv}}, hidden, w.gen2, w.gen2_bias, raw, s0.conv, dv, dhidden, draw,
            dw.gen2, dw.gen2_bias, ds_end.conv, ds_begin.conv);
    ctx.run(op::Backward{op::Linears{}}, x, dx,
            std::array{op::ProjectionGradient{w.q, dq, dw.q, {}}, op::ProjectionGradient{w.k, dk, dw.k, {}},
                       op::ProjectionGradient{w.v, draw, dw.v, {}}, op::ProjectionGradient{w.g, dz, dw.g, {}},
                       op::ProjectionGradient{w.gen1, dhidden, dw.gen1, {}},
                       op::ProjectionGradient{w.b, db, dw.b, {}}, op::ProjectionGradient{w.a, da, dw.a, {}}});
  }

 private:
  static constexpr auto mix() { return op::DeltaMix<op::ScanShape{C.heads, C.head_k, C.head_v}>{C.norm_eps}; }
  static op::DeltaMixSaved mix_saved(Saved<Slot> const& saved, i64 t) {
    return {saved.q.rows(0, t), saved.k.rows(0, t), saved.o.rows(0, t), saved.states};
  }
};

JET_NAMESPACE_END
