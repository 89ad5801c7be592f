/// \file
/// GLA: linear attention with a decay per key channel.
#pragma once

#include <array>
#include <limits>
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

/// Sizes of a GLA layer. In the configs of flash-linear-attention: head_k, head_v are hidden_size * expand_k and
/// hidden_size * expand_v over num_heads, kv_heads num_kv_heads (0: as many as heads), low_rank
/// gate_low_rank_dim, conv conv_size (0: use_short_conv off), gate use_output_gate (gate_fn swish), feature_map of
/// q and k (elu is elu_plus_one), normalizer gate_logit_normalizer, clamp_min clamp_min (clamps: whether it is
/// set).
struct GlaConfig {
  i64 d_model = 0;
  i64 heads = 0;
  i64 kv_heads = 0;
  i64 head_k = 0;
  i64 head_v = 0;
  i64 low_rank = 16;
  i64 conv = 0;
  bool gate = true;
  Activation feature_map = Activation::none;
  double normalizer = 16;
  bool clamps = false;
  double clamp_min = 0;
  double norm_eps = 1e-5;

  constexpr i64 shared() const { return kv_heads == 0 ? heads : kv_heads; }
  constexpr i64 query_dim() const { return heads * head_k; }
  constexpr i64 key_dim() const { return shared() * head_k; }
  constexpr i64 value_dim() const { return shared() * head_v; }
  constexpr i64 output_dim() const { return heads * head_v; }
  constexpr bool valid() const {
    return d_model > 0 && heads > 0 && kv_heads >= 0 && heads % shared() == 0 && head_k > 0 && head_v > 0 &&
           low_rank > 0 && conv >= 0 && feature_map <= Activation::elu_plus_one && normalizer > 0 &&
           clamp_min <= 0 && norm_eps >= 0;
  }
  friend constexpr bool operator==(GlaConfig const&, GlaConfig const&) = default;

  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model);
    f("heads", self.heads);
    f("kv_heads", self.kv_heads);
    f("head_k", self.head_k);
    f("head_v", self.head_v);
    f("low_rank", self.low_rank);
    f("conv", self.conv);
    f("gate", self.gate);
    f("feature_map", self.feature_map);
    f("normalizer", self.normalizer);
    f("clamps", self.clamps);
    f("clamp_min", self.clamp_min);
    f("norm_eps", self.norm_eps);
  }
};

/// Gated linear attention (arXiv 2312.06635). With u the block's input and f the feature map:
///   q, k, v = f(u Wq^T), f(u Wk^T), u Wv^T    (through silu(conv(.)) each where the layer has convolutions)
///   g = logsigmoid(u W1^T W2^T + b2) / normalizer     (tokens, heads, head_k), clamped below by clamp_min
///   S <- diag(e^g) S ;  S <- S + k v^T ;  o = head_k^-1/2 S^T q
///   y = (w_o * rms(o) * silu(u Wg^T)) Wo^T            (without the gate: no silu factor)
/// Query head h reads key, value and decay head h * kv_heads / heads. x, y (tokens, d_model). State: S [heads,
/// head_k, head_v]; with convolutions the last `conv` rows of each raw projection. Cost per token: 2 FLOP per
/// weight, plus about 5 head_k head_v per head. Numerics: gates, norms and the scan at acc; the product u W1^T is
/// not rounded; projections are rounded to act before their convolution.
template <GlaConfig C> struct Gla {
  static_assert(
      C.valid(),
      "jet: GlaConfig needs d_model, heads, head_k, head_v, low_rank, normalizer > 0, heads a multiple of "
      "kv_heads (or 0), clamp_min <= 0 and a feature map of none, silu, relu, elu_plus_one");
  static constexpr auto config = C;
  static constexpr std::string_view kind = "gla";
  static constexpr i64 width = C.d_model;

  template <class T> struct Params { T q, k, v, q_conv, k_conv, v_conv, gk1, gk2, gk2_bias, g, o_norm, o; };
  static constexpr Params<ParamSpec> params() {
    constexpr auto mixer = Role::mixer;
    return {
        .q = {"q_proj.weight", {C.query_dim(), C.d_model}, {}, true, false, mixer, Part::query, 0},
        .k = {"k_proj.weight", {C.key_dim(), C.d_model}, {}, true, false, mixer, Part::key, 0},
        .v = {"v_proj.weight", {C.value_dim(), C.d_model}, {}, true, false, mixer, Part::value, 0},
        .q_conv = detail::conv_param("q_conv1d.weight", C.query_dim(), C.conv),
        .k_conv = detail::conv_param("k_conv1d.weight", C.key_dim(), C.conv),
        .v_conv = detail::conv_param("v_conv1d.weight", C.value_dim(), C.conv),
        .gk1 = {"gk_proj.0.weight", {C.low_rank, C.d_model}, {}, true, false, mixer, Part::decay, -1},
        .gk2 = {"gk_proj.1.weight", {C.key_dim(), C.low_rank}, {}, true, false, mixer, Part::decay, 0},
        .gk2_bias = {"gk_proj.1.bias", {C.key_dim()}, Init::zeros(), false, false, mixer, Part::decay, 0},
        .g = present_if(C.gate,
                        {"g_proj.weight", {C.output_dim(), C.d_model}, {}, true, false, mixer, Part::gate, 0}),
        .o_norm = {C.gate ? Name("g_norm_swish_gate.weight") : Name("g_norm.weight"),
                   {C.head_v},
                   Init::ones(),
                   false},
        .o = {"o_proj.weight", {C.d_model, C.output_dim()}, {}, true, false, mixer, Part::output, 1},
    };
  }

  template <class T> struct State { T recurrent, q_conv, k_conv, v_conv; };
  static constexpr State<StateSpec> state() {
    return {.recurrent = {"recurrent", {C.heads, C.head_k, C.head_v}, false, 0, Role::recurrent},
            .q_conv = detail::conv_state("q_conv", C.query_dim(), C.conv),
            .k_conv = detail::conv_state("k_conv", C.key_dim(), C.conv),
            .v_conv = detail::conv_state("v_conv", C.value_dim(), C.conv)};
  }

  template <Backend B> static void forward(Context<B>& ctx, Params<Slot> const& w, State<Slot>& s, View x, View y) {
    i64 const t = x.tokens();
    constexpr i64 repeat = C.heads / C.shared();
    View const q_raw = detail::projection(ctx, t, C.query_dim(), C.conv);
    View const k_raw = detail::projection(ctx, t, C.key_dim(), C.conv);
    View const v_raw = detail::projection(ctx, t, C.value_dim(), C.conv);
    View const low = ctx.accumulator(t, C.low_rank);
    View const decay = ctx.accumulator(t, C.key_dim());
    View const z = C.gate ? ctx.accumulator(t, C.output_dim()) : View{};
    View const o = ctx.accumulator(t, C.output_dim());
    View const mixed = ctx.scratch(t, C.output_dim());
    ctx.run(op::Linears{}, x,
            std::array{op::Projection{w.q, {}, q_raw}, op::Projection{w.k, {}, k_raw},
                       op::Projection{w.v, {}, v_raw}, op::Projection{w.gk1, {}, low}});
    if constexpr (C.gate) {
      ctx.run(op::Linear{}, w.g, Slot{}, x, z);
    }
    ctx.run(op::Linear{}, w.gk2, w.gk2_bias, low, decay);
    ctx.run(op::Activate{Activation::log_sigmoid, 1 / C.normalizer,
                         C.clamps ? C.clamp_min : -std::numeric_limits<double>::infinity()},
            decay);
    View const q = detail::convolved(ctx, C.conv, true, w.q_conv, q_raw, s.q_conv);
    View const k = detail::convolved(ctx, C.conv, true, w.k_conv, k_raw, s.k_conv);
    View const v = detail::convolved(ctx, C.conv, true, w.v_conv, v_raw, s.v_conv);
    if constexpr (C.feature_map != Activation::none) {
      ctx.run(op::Activate{C.feature_map}, q);
      ctx.run(op::Activate{C.feature_map}, k);
    }
    constexpr op::ScanShape shape{C.heads, C.head_k, C.head_v, op::Decay::channel, op::Update::additive};
    ctx.run(op::GatedScan<shape>{}, q, detail::repeated(ctx, C.shared(), C.head_k, repeat, k),
            detail::repeated(ctx, C.shared(), C.head_v, repeat, v),
            detail::repeated(ctx, C.shared(), C.head_k, repeat, decay), View{}, s.recurrent, o);
    detail::norm_heads(ctx, C.heads, C.head_v, C.norm_eps, w.o_norm, o, z, mixed);
    ctx.run(op::Linear{}, w.o, Slot{}, mixed, y);
  }
};

JET_NAMESPACE_END
