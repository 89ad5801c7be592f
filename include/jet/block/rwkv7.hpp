/// \file
/// RWKV-7: the generalised delta rule with a decay and a learning rate per channel.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include <jet/concepts.hpp>
#include <jet/core/context.hpp>
#include <jet/core/error.hpp>
#include <jet/core/param.hpp>
#include <jet/core/state.hpp>
#include <jet/op/activate.hpp>
#include <jet/op/gated_scan.hpp>
#include <jet/op/linear.hpp>
#include <jet/op/rwkv7.hpp>

JET_NAMESPACE_BEGIN

/// Sizes of an RWKV-7 time mixing layer. In the configs of flash-linear-attention: head head_dim, decay_rank
/// decay_low_rank_dim, rate_rank a_low_rank_dim, value_rank v_low_rank_dim (0: the stack's first RWKV-7 layer,
/// which has no v_lora), gate_rank gate_low_rank_dim. heads * head is key_dim and value_dim.
struct Rwkv7Config {
  i64 d_model = 0;
  i64 heads = 0;
  i64 head = 64;
  i64 decay_rank = 64;
  i64 rate_rank = 64;
  i64 value_rank = 0;
  i64 gate_rank = 128;
  double norm_eps = 1e-5;

  constexpr i64 dim() const { return heads * head; }
  constexpr bool valid() const {
    return d_model > 0 && heads > 0 && head > 0 && decay_rank > 0 && rate_rank > 0 && value_rank >= 0 &&
           gate_rank > 0 && norm_eps >= 0;
  }
  friend constexpr bool operator==(Rwkv7Config const&, Rwkv7Config const&) = default;

  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model);
    f("heads", self.heads);
    f("head", self.head);
    f("decay_rank", self.decay_rank);
    f("rate_rank", self.rate_rank);
    f("value_rank", self.value_rank);
    f("gate_rank", self.gate_rank);
    f("norm_eps", self.norm_eps);
  }
};

/// RWKV-7 time mixing (arXiv 2503.14456). With u the block's input and u^c_t = u_t + (u_{t-1} - u_t) x_c:
///   r, k, v = u^r Wr^T, u^k Wk^T, u^v Wv^T ;  g = sigmoid(u^g G1^T) G2^T
///   w = -e^-1/2 sigmoid(tanh(u^w W1^T) W2^T + w2) ;  a = sigmoid(u^a A1^T A2^T + a2)
///   v <- v + sigmoid(u^v V1^T V2^T + v2) (v_first - v), v_first the v of the stack's first RWKV-7 layer
///   kappa = k k_k / |k k_k| ;  k <- k (1 + (a - 1) k_a)
///   S <- diag(e^w) S - (kappa a) (S^T kappa)^T + k v^T, S^T kappa before the decay ;  o = S^T r
///   y = ((group_norm(o) + (sum_d r k r_k) v) g) Wo^T, the norm per head with epsilon head * norm_eps
/// A layer with value_rank > 0 needs one with value_rank 0 and the same heads * head before it in the call, else
/// jet::Error. u, y (tokens, d_model). State: S [heads, head, head]; the last two rows of u. Cost per token: 2 FLOP
/// per weight, plus about 9 head^2 per head. Numerics: everything between products at acc; shifted inputs are
/// rounded to act. The declared starts are constants and x_c uniform in [0, 1], not the ramps over channels and
/// layers of the paper.
template <Rwkv7Config C> struct Rwkv7 {
  static_assert(C.valid(),
                "jet: Rwkv7Config needs all sizes > 0 (value_rank may be 0: the first layer of a stack)");
  static constexpr auto config = C;
  static constexpr std::string_view kind = "rwkv7";
  static constexpr i64 width = C.d_model;

  template <class T> struct Params {
    T x_r, x_w, x_k, x_v, x_a, x_g, k_k, k_a, r_k;
    T r, k, v, o;
    T w1, w2, w2_bias, v1, v2, v2_bias, a1, a2, a2_bias, g1, g2;
    T norm, norm_bias;
  };
  static constexpr Params<ParamSpec> params() {
    constexpr auto mixer = Role::mixer;
    constexpr i64 n = C.dim();
    constexpr auto matrix = [](Name const& name, i64 out, i64 in, Part part, int split) {
      return ParamSpec{name, {out, in}, {}, true, false, mixer, part, split};
    };
    constexpr auto mix = [](Name const& name) {
      return ParamSpec{name, {1, 1, C.d_model}, Init::uniform(0, 1), false, true, mixer, Part::none, -1};
    };
    constexpr auto vector = [](Name const& name, double value) {
      return ParamSpec{name, {n}, Init::constant(value), false, true, mixer, Part::none, 0};
    };
    constexpr bool residual = C.value_rank > 0;
    return {
        .x_r = mix("x_r"),
        .x_w = mix("x_w"),
        .x_k = mix("x_k"),
        .x_v = mix("x_v"),
        .x_a = mix("x_a"),
        .x_g = mix("x_g"),
        .k_k = vector("k_k", 0.71),
        .k_a = vector("k_a", 1.02),
        .r_k = {"r_k", {C.heads, C.head}, Init::constant(-0.04), false, true, mixer, Part::none, 0},
        .r = matrix("r_proj.weight", n, C.d_model, Part::query, 0),
        .k = matrix("k_proj.weight", n, C.d_model, Part::key, 0),
        .v = matrix("v_proj.weight", n, C.d_model, Part::value, 0),
        .o = matrix("o_proj.weight", C.d_model, n, Part::output, 1),
        .w1 = matrix("w_lora.lora.0.weight", C.decay_rank, C.d_model, Part::decay, -1),
        .w2 = matrix("w_lora.lora.2.weight", n, C.decay_rank, Part::decay, 0),
        .w2_bias = vector("w_lora.lora.2.bias", -2),
        .v1 = present_if(residual, matrix("v_lora.lora.0.weight", C.value_rank, C.d_model, Part::none, -1)),
        .v2 = present_if(residual, matrix("v_lora.lora.2.weight", n, C.value_rank, Part::none, 0)),
        .v2_bias = present_if(residual, vector("v_lora.lora.2.bias", 0.73)),
        .a1 = matrix("a_lora.lora.0.weight", C.rate_rank, C.d_model, Part::beta, -1),
        .a2 = matrix("a_lora.lora.2.weight", n, C.rate_rank, Part::beta, 0),
        .a2_bias = vector("a_lora.lora.2.bias", -0.19),
        .g1 = matrix("g_lora.lora.0.weight", C.gate_rank, C.d_model, Part::gate, -1),
        .g2 = matrix("g_lora.lora.2.weight", n, C.gate_rank, Part::gate, 0),
        .norm = {"g_norm.weight", {n}, Init::ones(), false, false, mixer, Part::none, 0},
        .norm_bias = {"g_norm.bias", {n}, Init::zeros(), false, false, mixer, Part::none, 0},
    };
  }

  template <class T> struct State { T recurrent, shift; };
  static constexpr State<StateSpec> state() {
    return {.recurrent = {"recurrent", {C.heads, C.head, C.head}, false, 0, Role::recurrent},
            .shift = {"shift", {2, C.d_model}, false, 0, Role::conv}};
  }

  /// The values of the stack's first RWKV-7 layer.
  template <class T> struct Shared { T v_first; };
  static constexpr Shared<SharedSpec> shared() {
    return {.v_first = {"rwkv7_v_first", C.dim(), static_cast<std::uint64_t>(C.dim()), true}};
  }

  template <Backend B> static void forward(Context<B>& ctx, Params<Slot> const& w, State<Slot>& s, View x, View y) {
    i64 const t = x.tokens();
    SharedSlot& first = ctx.shared(shared().v_first);
    bool const is_first = C.value_rank == 0 && !first.filled;
    JET_CHECK(C.value_rank == 0 || first.filled,
              "an rwkv7 layer with value_rank > 0 needs one with value_rank 0 before it");
    auto const shifted = [&] { return ctx.scratch(t, C.d_model); };
    std::array<View, 6> const in{shifted(), shifted(), shifted(), shifted(), shifted(), shifted()};
    auto const& [x_r, x_w, x_k, x_v, x_a, x_g] = in;
    ctx.run(op::TokenShift{}, x, s.shift, std::array<Slot, 6>{w.x_r, w.x_w, w.x_k, w.x_v, w.x_a, w.x_g}, in);

    auto const project = [&](View const& from, Slot const& weight, Slot const& bias, View const& to) {
      ctx.run(op::Linear{}, weight, bias, from, to);
      return to;
    };
    auto const wide = [&] { return ctx.accumulator(t, C.dim()); };
    View const r = project(x_r, w.r, Slot{}, wide());
    View const k = project(x_k, w.k, Slot{}, wide());
    View const v = project(x_v, w.v, Slot{}, is_first ? first.value : wide());
    if (is_first) {
      first.filled = true;
    }
    View const w_low = project(x_w, w.w1, Slot{}, ctx.accumulator(t, C.decay_rank));
    ctx.run(op::Activate{Activation::tanh}, w_low);
    View const decay = project(w_low, w.w2, w.w2_bias, wide());
    ctx.run(op::Activate{Activation::sigmoid, -decay_scale}, decay);
    View const a_low = project(x_a, w.a1, Slot{}, ctx.accumulator(t, C.rate_rank));
    View const a = project(a_low, w.a2, w.a2_bias, wide());
    ctx.run(op::Activate{Activation::sigmoid}, a);
    View const g_low = project(x_g, w.g1, Slot{}, ctx.accumulator(t, C.gate_rank));
    ctx.run(op::Activate{Activation::sigmoid}, g_low);
    View const g = project(g_low, w.g2, Slot{}, wide());
    if constexpr (C.value_rank > 0) {
      View const v_low = project(x_v, w.v1, Slot{}, ctx.accumulator(t, C.value_rank));
      View const nu = project(v_low, w.v2, w.v2_bias, wide());
      ctx.run(op::Activate{Activation::sigmoid}, nu);
      ctx.run(op::Interpolate{}, first.value, nu, v);
    }

    View const removal = wide(), replacement = wide(), o = wide();
    View const mixed = ctx.scratch(t, C.dim());
    ctx.run(op::Rwkv7Keys{C.heads, C.head}, w.k_k, w.k_a, a, k, removal, replacement);
    constexpr op::ScanShape shape{C.heads, C.head, C.head, op::Decay::channel, op::Update::delta, 1.0};
    ctx.run(op::GeneralDeltaScan<shape>{}, r, k, v, removal, replacement, decay, s.recurrent, o);
    ctx.run(op::Rwkv7Output{C.heads, C.head, static_cast<double>(C.head) * C.norm_eps}, w.norm, w.norm_bias, w.r_k,
            o, r, k, v, g, mixed);
    ctx.run(op::Linear{}, w.o, Slot{}, mixed, y);
  }

 private:
  static constexpr double decay_scale = 0.60653065971263342360;  // e^-1/2
};

JET_NAMESPACE_END
