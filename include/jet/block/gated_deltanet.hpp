/// \file
/// Gated DeltaNet: the delta rule with a decay per head.
#pragma once

#include <array>
#include <string_view>

#include <jet/block/linear_attention.hpp>
#include <jet/concepts.hpp>
#include <jet/core/context.hpp>
#include <jet/core/param.hpp>
#include <jet/core/state.hpp>
#include <jet/op/activate.hpp>
#include <jet/op/gated_scan.hpp>
#include <jet/op/linear.hpp>
#include <jet/op/short_conv.hpp>

JET_NAMESPACE_BEGIN

/// Sizes of a Gated DeltaNet layer. In the configs of flash-linear-attention: heads num_heads, value_heads
/// num_v_heads (0: as many as heads), head_k head_dim, head_v head_dim * expand_v, conv conv_size (0:
/// use_short_conv off), gate use_gate, neg_eigval allow_neg_eigval (beta up to 2, arXiv 2411.12537).
struct GatedDeltaNetConfig {
  i64 d_model = 0;
  i64 heads = 0;
  i64 value_heads = 0;
  i64 head_k = 0;
  i64 head_v = 0;
  i64 conv = 4;
  bool gate = true;
  bool neg_eigval = false;
  double norm_eps = 1e-5;

  constexpr i64 states() const { return value_heads == 0 ? heads : value_heads; }
  constexpr i64 key_dim() const { return heads * head_k; }
  constexpr i64 value_dim() const { return states() * head_v; }
  constexpr bool valid() const {
    return d_model > 0 && heads > 0 && value_heads >= 0 && states() % heads == 0 && head_k > 0 && head_v > 0 &&
           conv >= 0 && norm_eps >= 0;
  }
  friend constexpr bool operator==(GatedDeltaNetConfig const&, GatedDeltaNetConfig const&) = default;

  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model);
    f("heads", self.heads);
    f("value_heads", self.value_heads);
    f("head_k", self.head_k);
    f("head_v", self.head_v);
    f("conv", self.conv);
    f("gate", self.gate);
    f("neg_eigval", self.neg_eigval);
    f("norm_eps", self.norm_eps);
  }
};

/// Gated DeltaNet (arXiv 2412.06464). With u the block's input:
///   q, k = l2(silu(conv(u Wq^T))), l2(silu(conv(u Wk^T)))   (tokens, heads, head_k)
///   v    = silu(conv(u Wv^T))                               (tokens, value_heads, head_v)
///   beta = sigmoid(u Wb^T), doubled with neg_eigval ;  g = -exp(A_log) softplus(u Wa^T + dt_bias)
///   S <- e^g S ;  S <- S + k (beta (v - S^T k))^T ;  o = head_k^-1/2 S^T q
///   y = (w_o * rms(o) * silu(u Wg^T)) Wo^T                  (without the gate: no silu factor)
/// Value head h reads key head h * heads / value_heads. x, y (tokens, d_model). State: S [value_heads, head_k,
/// head_v]; the last `conv` rows of each raw projection. Cost per token: 2 FLOP per weight, plus about 7 head_k
/// head_v per value head. Numerics: gates, norms and the scan at acc; projections are rounded to act before their
/// convolution, because the state keeps them so.
template <GatedDeltaNetConfig C> struct GatedDeltaNet {
  static_assert(C.valid(),
                "jet: GatedDeltaNetConfig needs d_model, heads, head_k, head_v > 0 and value_heads a multiple of "
                "heads (or 0)");
  static constexpr auto config = C;
  static constexpr std::string_view kind = "gated_deltanet";
  static constexpr i64 width = C.d_model;

  template <class T> struct Params { T q, k, v, b, a, A_log, dt_bias, q_conv, k_conv, v_conv, g, o_norm, o; };
  static constexpr Params<ParamSpec> params() {
    constexpr auto mixer = Role::mixer;
    return {
        .q = {"q_proj.weight", {C.key_dim(), C.d_model}, {}, true, false, mixer, Part::query, 0},
        .k = {"k_proj.weight", {C.key_dim(), C.d_model}, {}, true, false, mixer, Part::key, 0},
        .v = {"v_proj.weight", {C.value_dim(), C.d_model}, {}, true, false, mixer, Part::value, 0},
        .b = {"b_proj.weight", {C.states(), C.d_model}, {}, true, false, mixer, Part::beta, 0},
        .a = {"a_proj.weight", {C.states(), C.d_model}, {}, true, false, mixer, Part::decay, 0},
        .A_log = {"A_log", {C.states()}, Init::log_uniform(0, 16), false, true, mixer, Part::decay, 0},
        .dt_bias = {"dt_bias", {C.states()}, Init::dt_bias(), false, true, mixer, Part::decay, 0},
        .q_conv = detail::conv_param("q_conv1d.weight", C.key_dim(), C.conv),
        .k_conv = detail::conv_param("k_conv1d.weight", C.key_dim(), C.conv),
        .v_conv = detail::conv_param("v_conv1d.weight", C.value_dim(), C.conv),
        .g = present_if(C.gate,
                        {"g_proj.weight", {C.value_dim(), C.d_model}, {}, true, false, mixer, Part::gate, 0}),
        .o_norm = {"o_norm.weight", {C.head_v}, Init::ones(), false},
        .o = {"o_proj.weight", {C.d_model, C.value_dim()}, {}, true, false, mixer, Part::output, 1},
    };
  }

  template <class T> struct State { T recurrent, q_conv, k_conv, v_conv; };
  static constexpr State<StateSpec> state() {
    return {.recurrent = {"recurrent", {C.states(), C.head_k, C.head_v}, false, 0, Role::recurrent},
            .q_conv = detail::conv_state("q_conv", C.key_dim(), C.conv),
            .k_conv = detail::conv_state("k_conv", C.key_dim(), C.conv),
            .v_conv = detail::conv_state("v_conv", C.value_dim(), C.conv)};
  }

  template <Backend B> static void forward(Context<B>& ctx, Params<Slot> const& w, State<Slot>& s, View x, View y) {
    i64 const t = x.tokens();
    constexpr i64 repeat = C.states() / C.heads;
    View const q_raw = detail::projection(ctx, t, C.key_dim(), C.conv);
    View const k_raw = detail::projection(ctx, t, C.key_dim(), C.conv);
    View const v_raw = detail::projection(ctx, t, C.value_dim(), C.conv);
    View const b = ctx.accumulator(t, C.states());
    View const a = ctx.accumulator(t, C.states());
    View const z = C.gate ? ctx.accumulator(t, C.value_dim()) : View{};
    View const mixed = ctx.scratch(t, C.value_dim());
    ctx.run(op::Linears{}, x,
            std::array{op::Projection{w.q, {}, q_raw}, op::Projection{w.k, {}, k_raw},
                       op::Projection{w.v, {}, v_raw}, op::Projection{w.b, {}, b}, op::Projection{w.a, {}, a}});
    if constexpr (C.gate) {
      ctx.run(op::Linear{}, w.g, Slot{}, x, z);
    }
    View const v = detail::convolved(ctx, C.conv, true, w.v_conv, v_raw, s.v_conv);
    if constexpr (C.conv == 0) {
      ctx.run(op::Activate{Activation::silu}, v);
    }
    // norms of shared heads are taken once per reader
    View const q = detail::repeated(ctx, C.heads, C.head_k, repeat,
                                    detail::convolved(ctx, C.conv, true, w.q_conv, q_raw, s.q_conv));
    View const k = detail::repeated(ctx, C.heads, C.head_k, repeat,
                                    detail::convolved(ctx, C.conv, true, w.k_conv, k_raw, s.k_conv));
    constexpr op::ScanShape shape{.heads = C.states(), .head_k = C.head_k, .head_v = C.head_v, .unit_keys = true};
    if constexpr (C.gate && !C.neg_eigval) {
      ctx.run(op::DeltaMix<shape>{C.norm_eps, C.conv == 0}, q, k, v, a, b, w.A_log, w.dt_bias, s.recurrent, z,
              w.o_norm, mixed);
    } else {
      View const g = ctx.accumulator(t, C.states());
      View const beta = ctx.accumulator(t, C.states());
      View const o = ctx.accumulator(t, C.value_dim());
      ctx.run(op::L2Norm{C.states(), C.head_k, 1e-6, C.conv == 0}, q);
      ctx.run(op::L2Norm{C.states(), C.head_k, 1e-6, C.conv == 0}, k);
      ctx.run(op::DeltaGates{}, a, b, w.A_log, w.dt_bias, g, beta);
      if constexpr (C.neg_eigval) {
        ctx.run(op::Activate{Activation::none, 2}, beta);
      }
      ctx.run(op::GatedScan<shape>{}, q, k, v, g, beta, s.recurrent, o);
      detail::norm_heads(ctx, C.states(), C.head_v, C.norm_eps, w.o_norm, o, z, mixed);
    }
    ctx.run(op::Linear{}, w.o, Slot{}, mixed, y);
  }
};

JET_NAMESPACE_END
