/// \file
/// Short causal depthwise convolutions: with static kernels, and with kernels generated from the input.
/// State: the last `taps` raw inputs of a sequence, [slots, taps, channels], oldest first, whatever the call's
/// length.
#pragma once

#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>
#include <jet/op/backward.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// y_t[c] = silu(bias[c] + sum_i w[c, i] x_{t-taps+1+i}[c]); the last tap multiplies the current token.
///   args: Slot weight [channels, 1, taps], Slot bias [channels] (may be null), View x (tokens, channels) at act,
///         Slot state (null: zeros before the first token, nothing kept), View y (tokens, channels) at acc
/// Backward: Slot weight, bias, View x, Slot state (before the call; null: zero), View dy, View dx, Slot dweight,
///         dbias, dstate_end, dstate_begin. Saves x; what lies before silu is recomputed.
struct ShortConv {
  static constexpr std::string_view name = "short_conv";
  i64 taps = 4;
  bool silu = true;
};

/// The kernel of channel c at token t is row block c of (silu(h_t) W2^T + b2), applied to the raw input
/// (Jet-Nemotron, arXiv 2508.15884; dynamic convolution, 1901.10430). The kernel belongs to the output position.
///   args: View hidden (tokens, R) at acc: the generator's first product, before silu;
///         Slot w2 [channels * taps, R], Slot b2 [channels * taps], row c * taps + i;
///         View x (tokens, channels) at act, Slot state, View y (tokens, channels) at acc, after silu
/// Kernels are never formed for more than a tile of tokens. Cost: 2 channels taps (R + 1) FLOP per token.
/// Backward: View hidden, Slot w2, b2, View x, Slot state (before the call; null: zero), View dy, View dhidden,
///         View dx, Slot dw2, db2, Slot dstate_end, dstate_begin. Saves hidden and x; the kernels and what lies
///         before silu are recomputed tile by tile. Cost: 8 channels taps R FLOP per token.
struct DynamicConv {
  static constexpr std::string_view name = "dynamic_conv";
  i64 taps = 4;
};

}  // namespace op
JET_NAMESPACE_END
