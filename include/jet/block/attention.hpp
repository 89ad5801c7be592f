/// \file
/// What full and sliding-window attention share: config, parameters and forward.
#pragma once

#include <array>
#include <string_view>

#include <jet/concepts.hpp>
#include <jet/core/context.hpp>
#include <jet/core/param.hpp>
#include <jet/core/saved.hpp>
#include <jet/core/state.hpp>
#include <jet/op/attention.hpp>
#include <jet/op/linear.hpp>
#include <jet/op/norm.hpp>
#include <jet/op/rope.hpp>

JET_NAMESPACE_BEGIN

/// Grouped-query attention. `head` may differ from d_model / heads.
struct AttentionConfig {
  i64 d_model = 0;
  i64 heads = 0;
  i64 kv_heads = 0;
  i64 head = 0;
  bool qkv_bias = false;
  bool qk_norm = false;
  double norm_eps = 1e-6;  // of the query/key norm
  double rope_theta = 1e4;
  RopeScaling rope_scaling{};

  constexpr i64 query_dim() const { return heads * head; }
  constexpr i64 kv_dim() const { return kv_heads * head; }
  constexpr RopeConfig rope() const { return {rope_theta, rope_scaling}; }
  constexpr bool valid() const {
    return d_model > 0 && heads > 0 && kv_heads > 0 && head > 0 && heads % kv_heads == 0 && head % 2 == 0;
  }
  friend constexpr bool operator==(AttentionConfig const&, AttentionConfig const&) = default;

  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model);
    f("heads", self.heads);
    f("kv_heads", self.kv_heads);
    f("head", self.head);
    f("qkv_bias", self.qkv_bias);
    f("qk_norm", self.qk_norm);
    f("norm_eps", self.norm_eps);
    f("rope_theta", self.rope_theta);
    f("rope_factor", self.rope_scaling.factor);
    f("rope_low_freq_factor", self.rope_scaling.low_freq_factor);
    f("rope_high_freq_factor", self.rope_scaling.high_freq_factor);
    f("rope_original_max_position", self.rope_scaling.original_max_position);
  }
};

/// Softmax attention with grouped queries (arXiv 1706.03762, 2305.13245), rotary positions, optional biases of q, k
/// and v, optional per-head RMSNorm of q and k before the rotation.
///   q = x Wq^T + bq ; k, v likewise ; q, k = rope(norm(q)), rope(norm(k)) ; y = attention(q, k, v) Wo^T
/// x, y (tokens, d_model). State: rotated keys and raw values per token, [kv_heads, head] each; `window` > 0 keeps
/// the newest `window` tokens as a ring.
/// Cost per token at L visible keys: 2 (2 heads head + 2 kv_heads head) d_model + 4 heads head L FLOP.
/// Numerics: scores and softmax at acc; keys and values rounded to the kv dtype before use. Training saves the
/// projections, the output before Wo and one log-sum-exp per head; rotations and probabilities are recomputed.
template <AttentionConfig C, i64 Window> struct AttentionBlock {
  static_assert(C.valid(),
                "jet: AttentionConfig needs d_model, heads, kv_heads, head > 0, heads a multiple of kv_heads and "
                "an even head");
  static_assert(Window >= 0, "jet: a sliding window needs at least one token");
  static constexpr auto config = C;
  static constexpr i64 window = Window;
  static constexpr i64 width = C.d_model;

  template <class T> struct Params { T q, q_bias, k, k_bias, v, v_bias, q_norm, k_norm, o; };
  static constexpr Params<ParamSpec> params() {
    constexpr auto bias = Init::zeros();
    return {
        .q = {"q_proj.weight", {C.query_dim(), C.d_model}, {}, true, false, Role::mixer, Part::query, 0},
        .q_bias = present_if(C.qkv_bias,
                             {"q_proj.bias", {C.query_dim()}, bias, false, false, Role::mixer, Part::query, 0}),
        .k = {"k_proj.weight", {C.kv_dim(), C.d_model}, {}, true, false, Role::mixer, Part::key, 0},
        .k_bias =
            present_if(C.qkv_bias, {"k_proj.bias", {C.kv_dim()}, bias, false, false, Role::mixer, Part::key, 0}),
        .v = {"v_proj.weight", {C.kv_dim(), C.d_model}, {}, true, false, Role::mixer, Part::value, 0},
        .v_bias =
            present_if(C.qkv_bias, {"v_proj.bias", {C.kv_dim()}, bias, false, false, Role::mixer, Part::value, 0}),
        .q_norm = present_if(C.qk_norm, {"q_norm.weight", {C.head}, Init::ones(), false}),
        .k_norm = present_if(C.qk_norm, {"k_norm.weight", {C.head}, Init::ones(), false}),
        .o = {"o_proj.weight", {C.d_model, C.query_dim()}, {}, true, false, Role::mixer, Part::output, 1},
    };
  }

  template <class T> struct State { T key, value; };
  static constexpr State<StateSpec> state() {
    return {.key = {"key", {C.kv_heads, C.head}, true, Window, Role::kv},
            .value = {"value", {C.kv_heads, C.head}, true, Window, Role::kv}};
  }

  /// The rotations of the call, made by the first attention layer and read by the others of the same config.
  template <class T> struct Shared { T rope; };
  static constexpr Shared<SharedSpec> shared() { return {.rope = {"rope", C.head, C.rope().key(C.head)}}; }

  /// q and k as projected, before norm and rotation.
  template <class T> struct Saved { T q, k, v, o, lse; };
  static constexpr Saved<SavedSpec> saved() {
    constexpr auto acc = SavedAs::acc;
    return {.q = {"q", {C.query_dim()}, Per::token, acc},
            .k = {"k", {C.kv_dim()}, Per::token, acc},
            .v = {"v", {C.kv_dim()}, Per::token, acc},
            .o = {"o", {C.query_dim()}, Per::token, SavedAs::act},
            .lse = {"lse", {C.heads}, Per::token, acc}};
  }

  template <Backend B>
  static void forward(Context<B>& ctx, Params<Slot> const& w, State<Slot>& s, View x, View y,
                      Saved<Slot>* saved = nullptr) {
    i64 const t = x.tokens();
    bool const saving = saved != nullptr;
    View const q = ctx.accumulator(t, C.query_dim());
    View const k = ctx.accumulator(t, C.kv_dim());
    View const v = saving ? saved->v.rows(0, t) : ctx.accumulator(t, C.kv_dim());
    View const o = saving ? saved->o.rows(0, t) : ctx.scratch(t, C.query_dim());
    ctx.run(op::Linears{}, x,
            std::array{op::Projection{w.q, w.q_bias, q}, op::Projection{w.k, w.k_bias, k},
                       op::Projection{w.v, w.v_bias, v}});
    if (saving) {
      copy_rows(ctx, q, saved->q);
      copy_rows(ctx, k, saved->k);
    }
    rotate(ctx, w, q, k);
    if (saving) {
      run_saving(ctx, core(), q, k, v, s.key, s.value, o, saved->lse.rows(0, t));
    } else {
      ctx.run(core(), q, k, v, s.key, s.value, o);
    }
    ctx.run(op::Linear{}, w.o, Slot{}, o, y);
  }

  template <Backend B>
  static void backward(Context<B>& ctx, Params<Slot> const& w, State<Slot> const& s0, View x,
                       Saved<Slot> const& saved, View dy, View dx, Params<Slot> const& dw,
                       State<Slot> const& ds_end, State<Slot> const& ds_begin) {
    i64 const t = x.tokens();
    View const q = ctx.accumulator(t, C.query_dim());
    View const k = ctx.accumulator(t, C.kv_dim());
    View const v = saved.v.rows(0, t), o = saved.o.rows(0, t), lse = saved.lse.rows(0, t);
    View const d_o = ctx.accumulator(t, C.query_dim());
    View const dq = ctx.accumulator(t, C.query_dim());
    View const dk = ctx.accumulator(t, C.kv_dim());
    View const dv = ctx.accumulator(t, C.kv_dim());
    copy_rows(ctx, saved.q.rows(0, t), q);
    copy_rows(ctx, saved.k.rows(0, t), k);
    rotate(ctx, w, q, k);
    ctx.run(op::Backward{op::Linear{}}, w.o, o, dy, d_o, dw.o, Slot{});
    ctx.run(op::Backward{core()}, q, k, v, s0.key, s0.value, o, lse, d_o,
            op::AttentionGradient{dq, dk, dv, ds_end.key, ds_end.value, ds_begin.key, ds_begin.value});
    View const table = ctx.shared(shared().rope).value;
    ctx.run(op::Backward{op::Rope{C.heads, C.head}}, table, dq);
    ctx.run(op::Backward{op::Rope{C.kv_heads, C.head}}, table, dk);
    if constexpr (C.qk_norm) {
      ctx.run(op::Backward{q_norm()}, w.q_norm, saved.q.rows(0, t), dq, dw.q_norm);
      ctx.run(op::Backward{k_norm()}, w.k_norm, saved.k.rows(0, t), dk, dw.k_norm);
    }
    ctx.run(op::Backward{op::Linears{}}, x, dx,
            std::array{op::ProjectionGradient{w.q, dq, dw.q, dw.q_bias},
                       op::ProjectionGradient{w.k, dk, dw.k, dw.k_bias},
                       op::ProjectionGradient{w.v, dv, dw.v, dw.v_bias}});
  }

 private:
  static constexpr auto core() { return op::Attention<op::AttentionShape{C.heads, C.kv_heads, C.head, Window}>{}; }
  static constexpr op::HeadNorm q_norm() { return {C.heads, C.head, C.norm_eps}; }
  static constexpr op::HeadNorm k_norm() { return {C.kv_heads, C.head, C.norm_eps}; }

  /// Norm and rotation of q and k, in place.
  template <Backend B> static void rotate(Context<B>& ctx, Params<Slot> const& w, View const& q, View const& k) {
    SharedSlot& rope = ctx.shared(shared().rope);
    if (!rope.filled) {
      ctx.run(op::RopeTable{C.rope(), C.head}, rope.value);
      rope.filled = true;
    }
    ctx.run(op::RotateHeads{C.heads, C.kv_heads, C.head, C.norm_eps}, rope.value, w.q_norm, w.k_norm, q, k);
  }
};

JET_NAMESPACE_END
