/// \file
/// LayerNorm as the norm of a layer (arXiv 1607.06450).
#pragma once

#include <string_view>

#include <jet/block/rms_norm.hpp>
#include <jet/concepts.hpp>
#include <jet/core/context.hpp>
#include <jet/core/param.hpp>
#include <jet/op/norm.hpp>

JET_NAMESPACE_BEGIN

/// y = weight * (x - mean(x)) / sqrt(var(x) + eps) + bias. x, y (tokens, d_model); y may be x.
template <NormConfig C> struct LayerNorm {
  static_assert(C.d_model > 0 && C.eps >= 0, "jet: NormConfig needs d_model > 0 and eps >= 0");
  static constexpr auto config = C;
  static constexpr std::string_view kind = "layer_norm";
  static constexpr i64 width = C.d_model;

  template <class T> struct Params { T weight, bias; };
  static constexpr Params<ParamSpec> params() {
    return {.weight = {"weight", {C.d_model}, Init::ones(), false, false, Role::norm},
            .bias = {"bias", {C.d_model}, Init::zeros(), false, false, Role::norm}};
  }

  template <Backend B> static void forward(Context<B>& ctx, Params<Slot> const& w, View x, View y) {
    ctx.run(op::LayerNorm{C.eps}, w.weight, w.bias, x, y);
  }
  /// x = x + delta, y = norm(x)
  template <Backend B> static void add_forward(Context<B>& ctx, Params<Slot> const& w, View delta, View x, View y) {
    ctx.run(op::Add{}, delta, x);
    forward(ctx, w, x, y);
  }
};

JET_NAMESPACE_END
