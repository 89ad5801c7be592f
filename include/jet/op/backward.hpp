/// \file
/// The backward of an op is an op: ctx.run(op::Backward{op::SwiGlu{}}, ...) reaches Kernel<Backward<SwiGlu>, tag>,
/// or the op's own `compose_backward` of finer ones.
///
/// Rules for all of them (each op's docstring lists its arguments, what its forward saves and what is recomputed):
///   - gradients are at `acc`; what was saved or recomputed has the dtypes of the forward
///   - gradients of activations are overwritten, a null one is not formed, unless the op says otherwise
///   - gradients of parameters are added to; a null one is frozen, and no product is formed for it
///   - gradients of state: a null end is zero, a null begin is not formed
///   - all sequences of the batch are active; none crosses into another
///   - sums over tokens have one fixed order, so results do not depend on the number of threads
#pragma once

#include <string_view>
#include <utility>

#include <jet/core/context.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// The backward of `Op`.
template <class Op> struct Backward {
  static constexpr std::string_view name = Op::name;
  Op forward{};

  template <class B, class... Args>
    requires requires(Context<B>& ctx, Op const& op, Args&&... args) {
      Op::compose_backward(ctx, op, std::forward<Args>(args)...);
    }
  static void compose(Context<B>& ctx, Backward const& op, Args&&... args) {
    Op::compose_backward(ctx, op.forward, std::forward<Args>(args)...);
  }
};
template <class Op> Backward(Op) -> Backward<Op>;

}  // namespace op
JET_NAMESPACE_END
