/// \file
/// Matrix products with weights as checkpoints store them: W is [out, in], y = x W^T (+ bias).
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>
#include <jet/op/backward.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// y[t, out] = sum_in x[t, in] W[out, in] + bias[out] (+ y[t, out] when `accumulate`).
///   args: Slot weight [out, in], Slot bias [out] (may be null), View x (tokens, in), View y (tokens, out)
/// Accumulates at `acc`, rounds once to y's dtype. Cost: 2 in out FLOP per token.
/// Backward: Slot weight, View x, View dy (tokens, out), View dx (tokens, in), Slot dweight, Slot dbias. Saves x.
///   dx = dy W ;  dW += dy^T x ;  dbias += sum_t dy      (4 in out FLOP per token)
struct Linear {
  static constexpr std::string_view name = "linear";
  bool accumulate = false;

  template <class B>
  static void compose_backward(Context<B>& ctx, Linear const&, Slot const& weight, View const& x, View const& dy,
                               View const& dx, Slot const& dweight, Slot const& dbias);
};

/// One product of `Linears`.
struct Projection {
  Slot weight{};
  Slot bias{};
  View out{};
};

/// What one product of `Linears` has in the backward: the gradient of its output, and where those of its weight and
/// bias go.
struct ProjectionGradient {
  Slot weight{};
  View dy{};
  Slot dweight{};
  Slot dbias{};
};

/// Several products of one input: y_i = x W_i^T + b_i. One pass over x, one parallel region.
///   args: View x (tokens, in), std::array<Projection, N> const&
/// Backward: View x, View dx, std::array<ProjectionGradient, N> const&. Saves x. dx = sum_i dy_i W_i.
struct Linears {
  static constexpr std::string_view name = "linears";

  template <class B, std::size_t N>
  static void compose(Context<B>& ctx, Linears const&, View const& x, std::array<Projection, N> const& parts) {
    for (auto const& p : parts) {
      ctx.run(Linear{}, p.weight, p.bias, x, p.out);
    }
  }
};

template <class B>
void Linear::compose_backward(Context<B>& ctx, Linear const&, Slot const& weight, View const& x, View const& dy,
                              View const& dx, Slot const& dweight, Slot const& dbias) {
  ctx.run(Backward{Linears{}}, x, dx, std::array{ProjectionGradient{weight, dy, dweight, dbias}});
}

}  // namespace op
JET_NAMESPACE_END
