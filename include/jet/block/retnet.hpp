/// \file
/// RetNet: multi-scale retention, linear attention with a constant decay per head.
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
#include <jet/op/retention.hpp>
#include <jet/op/rope.hpp>
#include <jet/op/short_conv.hpp>

JET_NAMESPACE_BEGIN

/// Sizes of a retention layer. In the configs of flash-linear-attention: head_k, head_v are hidden_size * expand_k
/// and hidden_size * expand_v over num_heads, kv_heads num_kv_heads (0: as many as heads), conv conv_size (0:
/// use_short_conv off), gate use_output_gate (gate_fn swish), feature_map of q and k (elu is elu_plus_one).
struct RetNetConfig {
  i64 d_model = 0;
  i64 heads = 0;
  i64 kv_heads = 0;
  i64 head_k = 0;
  i64 head_v = 0;
  i64 conv = 0;
  bool gate = true;
  Activation feature_map = Activation::none;
  double rope_theta = 1e4;
  double norm_eps = 1e-5;

  constexpr i64 shared() const { return kv_heads == 0 ? heads : kv_heads; }
  constexpr i64 query_dim() const { return heads * head_k; }
  constexpr i64 key_dim() const { return shared() * head_k; }
  constexpr i64 value_dim() const { return shared() * head_v; }
  constexpr i64 output_dim() const { return heads * head_v; }
  constexpr RopeConfig rope() const { return {rope_theta, {}}; }
  constexpr bool valid() const {
    return d_model > 0 && heads > 0 && kv_heads >= 0 && heads % shared() == 0 && head_k > 0 && head_k % 2 == 0 &&
           head_v > 0 && conv >= 0 && feature_map <= Activation::elu_plus_one && rope_theta > 0 && norm_eps >= 0;
  }
  friend constexpr bool operator==(RetNetConfig const&, RetNetConfig const&) = default;

  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model);
    f("heads", self.heads);
    f("kv_heads", self.kv_heads);
    f("head_k", self.head_k);
    f("head_v", self.head_v);
    f("conv", self.conv);
    f("gate", self.gate);
    f("feature_map", self.feature_map);
    f("rope_theta", self.rope_theta);
    f("norm_eps", self.norm_eps);
  }
};

/// Multi-scale retention (arXiv 2307.08621) as flash-linear-attention has it: rotate-half positions instead of
/// xPos, RMSNorm per head instead of GroupNorm. With u the block's input and f the feature map:
///   q, k, v = rope(f(u Wq^T)), rope(f(u Wk^T)), u Wv^T  (through silu(conv(.)) each where it has convolutions)
///   S <- (1 - 2^(-5-h)) S ;  S <- S + k v^T ;  o = head_k^-1/2 S^T q
///   y = (w_o * rms(o) * silu(u Wg^T)) Wo^T              (without the gate: no silu factor)
/// Query head h reads key and value head h * kv_heads / heads. x, y (tokens, d_model). State: S [heads, head_k,
/// head_v]; with convolutions the last `conv` rows of each raw projection; positions come from the batch. Cost per
/// token: 2 FLOP per weight, plus about 5 head_k head_v per head. Numerics: rotations, norms and the scan at acc;
/// projections are rounded to act before their convolution.
template <RetNetConfig C> struct RetNet {
  static_assert(C.valid(),
                "jet: RetNetConfig needs d_model, heads, head_v, rope_theta > 0, an even head_k, heads a multiple "
                "of kv_heads (or 0) and a feature map of none, silu, relu, elu_plus_one");
  static constexpr auto config = C;
  static constexpr std::string_view kind = "retnet";
  static constexpr i64 width = C.d_model;

  template <class T> struct Params { T q, k, v, q_conv, k_conv, v_conv, g, o_norm, o; };
  static constexpr Params<ParamSpec> params() {
    constexpr auto mixer = Role::mixer;
    return {
        .q = {"q_proj.weight", {C.query_dim(), C.d_model}, {}, true, false, mixer, Part::query, 0},
        .k = {"k_proj.weight", {C.key_dim(), C.d_model}, {}, true, false, mixer, Part::key, 0},
        .v = {"v_proj.weight", {C.value_dim(), C.d_model}, {}, true, false, mixer, Part::value, 0},
        .q_conv = detail::conv_param("q_conv1d.weight", C.query_dim(), C.conv),
        .k_conv = detail::conv_param("k_conv1d.weight", C.key_dim(), C.conv),
        .v_conv = detail::conv_param("v_conv1d.weight", C.value_dim(), C.conv),
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

  /// The rotations of the call, which attention layers of the same frequencies and head size share.
  template <class T> struct Shared { T rope; };
  static constexpr Shared<SharedSpec> shared() { return {.rope = {"rope", C.head_k, C.rope().key(C.head_k)}}; }

  template <Backend B> static void forward(Context<B>& ctx, Params<Slot> const& w, State<Slot>& s, View x, View y) {
    i64 const t = x.tokens();
    constexpr i64 repeat = C.heads / C.shared();
    View const q_raw = detail::projection(ctx, t, C.query_dim(), C.conv);
    View const k_raw = detail::projection(ctx, t, C.key_dim(), C.conv);
    View const v_raw = detail::projection(ctx, t, C.value_dim(), C.conv);
    View const decay = ctx.accumulator(t, C.heads);
    View const z = C.gate ? ctx.accumulator(t, C.output_dim()) : View{};
    View const o = ctx.accumulator(t, C.output_dim());
    View const mixed = ctx.scratch(t, C.output_dim());
    ctx.run(
        op::Linears{}, x,
        std::array{op::Projection{w.q, {}, q_raw}, op::Projection{w.k, {}, k_raw}, op::Projection{w.v, {}, v_raw}});
    if constexpr (C.gate) {
      ctx.run(op::Linear{}, w.g, Slot{}, x, z);
    }
    View const q = detail::convolved(ctx, C.conv, true, w.q_conv, q_raw, s.q_conv);
    View const k = detail::convolved(ctx, C.conv, true, w.k_conv, k_raw, s.k_conv);
    View const v = detail::convolved(ctx, C.conv, true, w.v_conv, v_raw, s.v_conv);
    if constexpr (C.feature_map != Activation::none) {
      ctx.run(op::Activate{C.feature_map}, q);
      ctx.run(op::Activate{C.feature_map}, k);
    }
    SharedSlot& rope = ctx.shared(shared().rope);
    if (!rope.filled) {
      ctx.run(op::RopeTable{C.rope(), C.head_k}, rope.value);
      rope.filled = true;
    }
    ctx.run(op::Rope{C.heads, C.head_k}, rope.value, q);
    ctx.run(op::Rope{C.shared(), C.head_k}, rope.value, k);
    ctx.run(op::RetentionDecay{}, decay);
    constexpr op::ScanShape shape{C.heads, C.head_k, C.head_v, op::Decay::head, op::Update::additive};
    ctx.run(op::GatedScan<shape>{}, q, detail::repeated(ctx, C.shared(), C.head_k, repeat, k),
            detail::repeated(ctx, C.shared(), C.head_v, repeat, v), decay, View{}, s.recurrent, o);
    detail::norm_heads(ctx, C.heads, C.head_v, C.norm_eps, w.o_norm, o, z, mixed);
    ctx.run(op::Linear{}, w.o, Slot{}, mixed, y);
  }
};

JET_NAMESPACE_END
