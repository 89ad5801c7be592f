/// \file
/// RMSNorm as the norm of a layer (arXiv 1910.07467).
#pragma once

#include <jet/concepts.hpp>
#include <jet/core/context.hpp>
#include <jet/core/param.hpp>
#include <jet/op/norm.hpp>

JET_NAMESPACE_BEGIN

struct NormConfig {
  i64 d_model = 0;
  double eps = 1e-6;
  friend constexpr bool operator==(NormConfig const&, NormConfig const&) = default;
};

/// y = weight * x / sqrt(mean(x^2) + eps). x, y (tokens, d_model).
template <NormConfig C> struct RmsNorm {
  static_assert(C.d_model > 0 && C.eps >= 0, "jet: NormConfig needs d_model > 0 and eps >= 0");
  static constexpr auto config = C;
  static constexpr i64 width = C.d_model;

  template <class T> struct Params { T weight; };
  static constexpr Params<ParamSpec> params() {
    return {.weight = {"weight", {C.d_model}, Init::ones(), false, false, Role::norm}};
  }

  template <Backend B> static void forward(Context<B>& ctx, Params<Slot> const& w, View x, View y) {
    ctx.run(op::RmsNorm{C.eps}, w.weight, x, y);
  }
  /// x = x + delta, y = norm(x)
  template <Backend B> static void add_forward(Context<B>& ctx, Params<Slot> const& w, View delta, View x, View y) {
    ctx.run(op::AddRmsNorm{C.eps}, w.weight, delta, x, y);
  }

  /// Saves nothing but its input x, which the caller keeps. A null dx is not formed, a null dw.weight is frozen.
  template <Backend B>
  static void backward(Context<B>& ctx, Params<Slot> const& w, View x, View dy, View dx, Params<Slot> const& dw) {
    ctx.run(op::Backward{op::RmsNorm{C.eps}}, w.weight, x, dy, dx, dw.weight);
  }
  /// The same, added to dx: of a norm whose input also goes on beside it, and of add_forward (x: the sum).
  template <Backend B>
  static void add_backward(Context<B>& ctx, Params<Slot> const& w, View x, View dy, View dx,
                           Params<Slot> const& dw) {
    ctx.run(op::Backward{op::AddRmsNorm{C.eps}}, w.weight, x, dy, dx, dw.weight);
  }
};

JET_NAMESPACE_END
