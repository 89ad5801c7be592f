/// \file
/// The SwiGLU MLP (arXiv 2002.05202): y = (silu(x Wg^T) * (x Wu^T)) Wd^T. No biases, no state.
#pragma once

#include <array>
#include <string_view>

#include <jet/concepts.hpp>
#include <jet/core/context.hpp>
#include <jet/core/param.hpp>
#include <jet/core/saved.hpp>
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

/// x, y (tokens, d_model). Cost: 6 d_model hidden FLOP per token. Training saves gate and up, 2 hidden numbers per
/// token at acc.
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

  template <class T> struct Saved { T gate, up; };
  static constexpr Saved<SavedSpec> saved() {
    return {.gate = {"gate", {C.hidden}, Per::token, SavedAs::acc},
            .up = {"up", {C.hidden}, Per::token, SavedAs::acc}};
  }

  template <Backend B>
  static void forward(Context<B>& ctx, Params<Slot> const& w, State<Slot>&, View x, View y,
                      Saved<Slot>* saved = nullptr) {
    i64 const t = x.tokens();
    View const h = ctx.scratch(t, C.hidden);
    if (saved == nullptr) {
      ctx.run(op::SwiGluLinears{}, x, w.gate, w.up, h);
    } else {
      View const gate = saved->gate.rows(0, t), up = saved->up.rows(0, t);
      ctx.run(op::Linears{}, x, std::array{op::Projection{w.gate, {}, gate}, op::Projection{w.up, {}, up}});
      ctx.run(op::SwiGlu{}, gate, up, h);
    }
    ctx.run(op::Linear{}, w.down, Slot{}, h, y);
  }

  template <Backend B>
  static void backward(Context<B>& ctx, Params<Slot> const& w, State<Slot> const&, View x, Saved<Slot> const& saved,
                       View dy, View dx, Params<Slot> const& dw, State<Slot> const&, State<Slot> const&) {
    i64 const t = x.tokens();
    View const gate = saved.gate.rows(0, t), up = saved.up.rows(0, t);
    View const h = ctx.scratch(t, C.hidden);
    View const dgate = ctx.accumulator(t, C.hidden);
    View const dup = ctx.accumulator(t, C.hidden);
    if (dw.down) {
      ctx.run(op::SwiGlu{}, gate, up, h);
    }
    ctx.run(op::Backward{op::Linear{}}, w.down, h, dy, dgate, dw.down, Slot{});
    ctx.run(op::Backward{op::SwiGlu{}}, gate, up, dgate, dgate, dup);
    ctx.run(op::Backward{op::Linears{}}, x, dx,
            std::array{op::ProjectionGradient{w.gate, dgate, dw.gate, {}},
                       op::ProjectionGradient{w.up, dup, dw.up, {}}});
  }
};

JET_NAMESPACE_END
