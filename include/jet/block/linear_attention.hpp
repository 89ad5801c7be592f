/// \file
/// What the blocks of the linear-attention family share: projections that may pass through a short convolution,
/// shared heads, the norm of the heads' outputs.
#pragma once

#include <jet/core/context.hpp>
#include <jet/core/param.hpp>
#include <jet/core/state.hpp>
#include <jet/op/norm.hpp>
#include <jet/op/repeat_heads.hpp>
#include <jet/op/short_conv.hpp>

JET_NAMESPACE_BEGIN
namespace detail {

/// Kernels of a short convolution [channels, 1, taps]; absent without taps.
constexpr ParamSpec conv_param(Name const& name, i64 channels, i64 taps) {
  return present_if(taps > 0, {name, {channels, 1, taps}, {}, true, false, Role::mixer, Part::conv, 0});
}
/// The raw projections that the next tokens' convolution sees, [taps, channels]; absent without taps.
constexpr StateSpec conv_state(Name const& name, i64 channels, i64 taps) {
  return taps > 0 ? StateSpec{name, {taps, channels}, false, 0, Role::conv} : absent_state;
}

/// Where to project to: what a convolution reads and keeps is rounded to act.
template <class B> View projection(Context<B>& ctx, i64 tokens, i64 width, i64 taps) {
  return taps > 0 ? ctx.scratch(tokens, width) : ctx.accumulator(tokens, width);
}
/// The projection after its convolution, at acc; itself without taps.
template <class B>
View convolved(Context<B>& ctx, i64 taps, bool silu, Slot const& weight, View const& raw, Slot const& state) {
  if (taps == 0) {
    return raw;
  }
  View const out = ctx.accumulator(raw.tokens(), raw.width());
  ctx.run(op::ShortConv{taps, silu}, weight, Slot{}, raw, state, out);
  return out;
}

/// Every head `repeat` times; x itself for 1.
template <class B> View repeated(Context<B>& ctx, i64 heads, i64 head, i64 repeat, View const& x) {
  if (repeat == 1) {
    return x;
  }
  View const out = ctx.accumulator(x.tokens(), heads * repeat * head);
  ctx.run(op::RepeatHeads{heads, head, repeat}, x, out);
  return out;
}

/// y = w * rms(o) per head, times silu(z) unless z is null. o (tokens, heads * head) at acc, dense; y dense.
template <class B>
void norm_heads(Context<B>& ctx, i64 heads, i64 head, double eps, Slot const& weight, View const& o, View const& z,
                View const& y) {
  if (z) {
    ctx.run(op::GatedRmsNorm{heads, head, eps, false}, weight, o, z, y);
  } else {
    Shape const per_head{o.tokens() * heads, head};
    ctx.run(op::RmsNorm{eps}, weight, View(o.data, o.dtype, per_head), View(y.data, y.dtype, per_head));
  }
}

}  // namespace detail
JET_NAMESPACE_END
