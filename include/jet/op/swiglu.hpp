/// \file
/// The activation between an MLP's products (arXiv 2002.05202).
#pragma once

#include <array>
#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>
#include <jet/op/backward.hpp>
#include <jet/op/linear.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// y = silu(gate) * up.   args: View gate, up (tokens, width) at acc, View y (tokens, width) at act
/// Backward: View gate, up, View dy, View dgate, dup (both formed; either may be dy). Saves gate and up.
struct SwiGlu {
  static constexpr std::string_view name = "swiglu";
};

/// y = silu(x Wg^T) * (x Wu^T): an MLP's first two products and its activation, when nothing in between is kept.
///   args: View x (tokens, in), Slot gate, up [out, in], View y (tokens, out) at act
struct SwiGluLinears {
  static constexpr std::string_view name = "swiglu_linears";

  template <class B>
  static void compose(Context<B>& ctx, SwiGluLinears const&, View const& x, Slot const& gate, Slot const& up,
                      View const& y) {
    View const g = ctx.accumulator(x.tokens(), gate.extent[0]);
    View const u = ctx.accumulator(x.tokens(), gate.extent[0]);
    ctx.run(Linears{}, x, std::array{Projection{gate, {}, g}, Projection{up, {}, u}});
    ctx.run(SwiGlu{}, g, u, y);
  }
};

}  // namespace op
JET_NAMESPACE_END
