/// \file
/// The SwiGLU MLP (arXiv 2002.05202): y = (silu(x Wg^T) * (x Wu^T)) Wd^T. No biases, no state.
#pragma once

#include <array>
#include <string_view>

#include <jet/concepts.hpp>
#include <jet/core/context.hpp>
#include <jet/core/param.hpp>
#include <jet/core/state.hpp>
#include <jet/op/linear.hpp>
#include <jet/op/swiglu.hpp>

JET_NAMESPACE_BEGIN

struct MlpConfig {
  i64 d_model = 0;
  i64 hidden = 0;
  constexpr bool valid() const { return d_model > 0 && hidden > 0; }
  friend constexpr bool operator==(MlpConfig const&, MlpConfig const&) = default;

  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model);
    f("hidden", self.hidden);
  }
};

/// x, y (tokens, d_model). Cost: 6 d_model hidden FLOP per token.
template <MlpConfig C> struct SwiGluMlp {
  static_assert(C.valid(), "jet: MlpConfig needs d_model and hidden > 0");
  static constexpr auto config = C;
  static constexpr std::string_view kind = "swiglu";
  static constexpr i64 width = C.d_model;

  template <class T> struct Params { T gate, up, down; };
  static constexpr Params<ParamSpec> params() {
    return {.gate = {"gate_proj.weight", {C.hidden, C.d_model}, {}, true, false, Role::mlp, Part::none, 0},
            .up = {"up_proj.weight", {C.hidden, C.d_model}, {}, true, false, Role::mlp, Part::none, 0},
            .down = {"down_proj.weight", {C.d_model, C.hidden}, {}, true, false, Role::mlp, Part::none, 1}};
  }
  template <class T> struct State {};
  static constexpr State<StateSpec> state() { return {}; }

  template <Backend B> static void forward(Context<B>& ctx, Params<Slot> const& w, State<Slot>&, View x, View y) {
    i64 const t = x.tokens();
    View const gate = ctx.accumulator(t, C.hidden);
    View const up = ctx.accumulator(t, C.hidden);
    View const h = ctx.scratch(t, C.hidden);
    ctx.run(op::Linears{}, x, std::array{op::Projection{w.gate, {}, gate}, op::Projection{w.up, {}, up}});
    ctx.run(op::SwiGlu{}, gate, up, h);
    ctx.run(op::Linear{}, w.down, Slot{}, h, y);
  }
};

JET_NAMESPACE_END
