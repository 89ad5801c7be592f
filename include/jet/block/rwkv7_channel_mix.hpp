/// \file
/// RWKV-7's channel mixing: an MLP with a token shift and squared ReLU.
#pragma once

#include <array>
#include <string_view>

#include <jet/concepts.hpp>
#include <jet/core/context.hpp>
#include <jet/core/param.hpp>
#include <jet/core/state.hpp>
#include <jet/op/linear.hpp>
#include <jet/op/rwkv7.hpp>
#include <jet/op/squared_relu.hpp>

JET_NAMESPACE_BEGIN

struct ChannelMixConfig {
  i64 d_model = 0;
  i64 hidden = 0;
  constexpr bool valid() const { return d_model > 0 && hidden > 0; }
  friend constexpr bool operator==(ChannelMixConfig const&, ChannelMixConfig const&) = default;

  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model);
    f("hidden", self.hidden);
  }
};

/// RWKV-7 channel mixing (arXiv 2503.14456), in the place of an MLP. With u the block's input:
///   y = relu((u_t + (u_{t-1} - u_t) x_k) Wk^T)^2 Wv^T
/// x, y (tokens, d_model). State: the last two rows of u, as the time mixing keeps them. Cost: 4 d_model hidden
/// FLOP per token. Numerics: the shifted input and the activation are rounded to act, the key is at acc.
template <ChannelMixConfig C> struct Rwkv7ChannelMix {
  static_assert(C.valid(), "jet: ChannelMixConfig needs d_model and hidden > 0");
  static constexpr auto config = C;
  static constexpr std::string_view kind = "rwkv7_channel_mix";
  static constexpr i64 width = C.d_model;

  template <class T> struct Params { T x_k, key, value; };
  static constexpr Params<ParamSpec> params() {
    return {.x_k = {"x_k", {C.d_model}, Init::uniform(0, 1), false, true, Role::mlp, Part::none, -1},
            .key = {"key.weight", {C.hidden, C.d_model}, {}, true, false, Role::mlp, Part::none, 0},
            .value = {"value.weight", {C.d_model, C.hidden}, {}, true, false, Role::mlp, Part::none, 1}};
  }
  template <class T> struct State { T shift; };
  static constexpr State<StateSpec> state() { return {.shift = {"shift", {2, C.d_model}, false, 0, Role::conv}}; }

  template <Backend B> static void forward(Context<B>& ctx, Params<Slot> const& w, State<Slot>& s, View x, View y) {
    i64 const t = x.tokens();
    View const mixed = ctx.scratch(t, C.d_model);
    View const key = ctx.accumulator(t, C.hidden);
    View const hidden = ctx.scratch(t, C.hidden);
    ctx.run(op::TokenShift{}, x, s.shift, std::array<Slot, 1>{w.x_k}, std::array<View, 1>{mixed});
    ctx.run(op::Linear{}, w.key, Slot{}, mixed, key);
    ctx.run(op::SquaredRelu{}, key, hidden);
    ctx.run(op::Linear{}, w.value, Slot{}, hidden, y);
  }
};

JET_NAMESPACE_END
