/// \file
/// DeltaNet: the delta rule without a decay.
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

/// Sizes of a DeltaNet layer. In the configs of flash-linear-attention: head_k, head_v are hidden_size * expand_k
/// and hidden_size * expand_v over num_heads, conv conv_size (0: use_short_conv off), gate use_gate, neg_eigval
/// allow_neg_eigval (beta up to 2, arXiv 2411.12537), activation qk_activation (of q and k; elu is elu_plus_one),
/// qk_norm "l2".
struct DeltaNetConfig {
  i64 d_model = 0;
  i64 heads = 0;
  i64 head_k = 0;
  i64 head_v = 0;
  i64 conv = 4;
  bool gate = false;
  bool neg_eigval = false;
  Activation activation = Activation::silu;
  double norm_eps = 1e-5;

  constexpr i64 key_dim() const { return heads * head_k; }
  constexpr i64 value_dim() const { return heads * head_v; }
  constexpr bool valid() const {
    return d_model > 0 && heads > 0 && head_k > 0 && head_v > 0 && conv >= 0 &&
           activation <= Activation::elu_plus_one && norm_eps >= 0;
  }
  friend constexpr bool operator==(DeltaNetConfig const&, DeltaNetConfig const&) = default;

  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model);
    f("heads", self.heads);
    f("head_k", self.head_k);
    f("head_v", self.head_v);
    f("conv", self.conv);
    f("gate", self.gate);
    f("neg_eigval", self.neg_eigval);
    f("activation", self.activation);
    f("norm_eps", self.norm_eps);
  }
};

/// DeltaNet (arXiv 2102.11174; chunk form 2406.06484). With u the block's input and f the activation:
///   q, k = l2(f(conv(u Wq^T))), l2(f(conv(u Wk^T))) ;  v = silu(conv(u Wv^T)) ;  beta = sigmoid(u Wb^T)
///   S <- S + k (beta (v - S^T k))^T ;  o = head_k^-1/2 S^T q
///   y = (w_o * rms(o)) Wo^T, with the gate (w_o * rms(o) * silu(u Wg^T)) Wo^T
/// beta is doubled with neg_eigval. x, y (tokens, d_model). State: S [heads, head_k, head_v]; the last `conv` rows
/// of each raw projection. Cost per token: 2 FLOP per weight, plus about 6 head_k head_v per head. Numerics: gates,
/// norms and the scan at acc; projections are rounded to act before their convolution, because the state keeps
/// them so.
template <DeltaNetConfig C> struct DeltaNet {
  static_assert(C.valid(),
                "jet: DeltaNetConfig needs d_model, heads, head_k, head_v > 0 and an activation of none, silu, "
                "relu, elu_plus_one");
  static constexpr auto config = C;
  static constexpr std::string_view kind = "deltanet";
  static constexpr i64 width = C.d_model;

  template <class T> struct Params { T q, k, v, b, q_conv, k_conv, v_conv, g, o_norm, o; };
  static constexpr Params<ParamSpec> params() {
    constexpr auto mixer = Role::mixer;
    return {
        .q = {"q_proj.weight", {C.key_dim(), C.d_model}, {}, true, false, mixer, Part::query, 0},
        .k = {"k_proj.weight", {C.key_dim(), C.d_model}, {}, true, false, mixer, Part::key, 0},
        .v = {"v_proj.weight", {C.value_dim(), C.d_model}, {}, true, false, mixer, Part::value, 0},
        .b = {"b_proj.weight", {C.heads, C.d_model}, {}, true, false, mixer, Part::beta, 0},
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
    return {.recurrent = {"recurrent", {C.heads, C.head_k, C.head_v}, false, 0, Role::recurrent},
            .q_conv = detail::conv_state("q_conv", C.key_dim(), C.conv),
            .k_conv = detail::conv_state("k_conv", C.key_dim(), C.conv),
            .v_conv = detail::conv_state("v_conv", C.value_dim(), C.conv)};
  }

  template <Backend B> static void forward(Context<B>& ctx, Params<Slot> const& w, State<Slot>& s, View x, View y) {
    i64 const t = x.tokens();
    constexpr bool silu = C.activation == Activation::silu;
    View const q_raw = detail::projection(ctx, t, C.key_dim(), C.conv);
    View const k_raw = detail::projection(ctx, t, C.key_dim(), C.conv);
    View const v_raw = detail::projection(ctx, t, C.value_dim(), C.conv);
    View const beta = ctx.accumulator(t, C.heads);
    View const z = C.gate ? ctx.accumulator(t, C.value_dim()) : View{};
    View const o = ctx.accumulator(t, C.value_dim());
    View const mixed = ctx.scratch(t, C.value_dim());
    ctx.run(op::Linears{}, x,
            std::array{op::Projection{w.q, {}, q_raw}, op::Projection{w.k, {}, k_raw},
                       op::Projection{w.v, {}, v_raw}, op::Projection{w.b, {}, beta}});
    if constexpr (C.gate) {
      ctx.run(op::Linear{}, w.g, Slot{}, x, z);
    }
    View const q = detail::convolved(ctx, C.conv, silu, w.q_conv, q_raw, s.q_conv);
    View const k = detail::convolved(ctx, C.conv, silu, w.k_conv, k_raw, s.k_conv);
    View const v = detail::convolved(ctx, C.conv, true, w.v_conv, v_raw, s.v_conv);
    if constexpr (C.conv == 0) {
      ctx.run(op::Activate{Activation::silu}, v);
    }
    if constexpr (!silu && C.activation != Activation::none) {
      ctx.run(op::Activate{C.activation}, q);
      ctx.run(op::Activate{C.activation}, k);
    }
    ctx.run(op::L2Norm{C.heads, C.head_k, 1e-6, silu && C.conv == 0}, q);
    ctx.run(op::L2Norm{C.heads, C.head_k, 1e-6, silu && C.conv == 0}, k);
    ctx.run(op::Activate{Activation::sigmoid, C.neg_eigval ? 2.0 : 1.0}, beta);
    constexpr op::ScanShape shape{
        .heads = C.heads, .head_k = C.head_k, .head_v = C.head_v, .decay = op::Decay::none, .unit_keys = true};
    ctx.run(op::GatedScan<shape>{}, q, k, v, View{}, beta, s.recurrent, o);
    detail::norm_heads(ctx, C.heads, C.head_v, C.norm_eps, w.o_norm, o, z, mixed);
    ctx.run(op::Linear{}, w.o, Slot{}, mixed, y);
  }
};

JET_NAMESPACE_END
