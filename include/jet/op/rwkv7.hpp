/// \file
/// What RWKV-7 computes between its products (arXiv 2503.14456): token shift, keys, value residual, the generalised
/// delta rule, the output of a head.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>
#include <jet/op/gated_scan.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// y_i[t] = x[t] + (x[t - 1] - x[t]) mix_i, x[-1] from the state or zero.
///   args: View x (tokens, width) at act, Slot state [slots, 2, width] the last two rows of x (null: zeros, not
///         kept), std::array<Slot, N> mix [1, 1, width] each, std::array<View, N> y (tokens, width) at act
struct TokenShift {
  static constexpr std::string_view name = "token_shift";
};

/// x = x + weight (target - x), element by element.   args: View target, weight, View x in place; all at acc
struct Interpolate {
  static constexpr std::string_view name = "interpolate";
};

/// The keys of RWKV-7, with kappa = k k_k / |k k_k| per head (a norm below 1e-12 counts as 1e-12):
///   removal = -kappa ;  replacement = kappa a ;  k = k (1 + (a - 1) k_a)
///   args: Slot k_k, k_a [heads * head], View a, View k in place, View removal, View replacement; all (tokens,
///         heads * head) at acc
struct Rwkv7Keys {
  static constexpr std::string_view name = "rwkv7_keys";
  i64 heads = 1;
  i64 head = 1;
};

/// The generalised delta rule (diagonal plus low rank), with the prediction taken from the state before its decay:
///   p = S^T a ;  S <- diag(e^g) S + b p^T + k v^T ;  o = scale S^T q
///   args: View q, k, a, b, g (tokens, heads * head_k), View v (tokens, heads * head_v), all at acc, Slot state
///         [slots, heads, head_k, head_v] (null: zero and not kept), View o (tokens, heads * head_v) at acc
/// The shape's decay is per channel, its update is not read. Many tokens of a sequence go through chunks of 64
/// (matrix products), few through the recurrence; only e^(difference of cumulative decays) <= 1 is ever formed.
/// Cost per head and token: about 9 head_k head_v FLOP recurrent, 8 C (head_k + head_v) + 8 head_k head_v in
/// chunks.
template <ScanShape C> struct GeneralDeltaScan {
  static constexpr std::string_view name = "general_delta_scan";
  static constexpr ScanShape c = C;
  static_assert(C.heads > 0 && C.head_k > 0 && C.head_v > 0, "jet: a scan needs heads, head_k and head_v > 0");
  static_assert(C.decay == Decay::channel, "jet: the generalised delta rule decays per channel");
};

/// y = (weight (o - mean(o)) / sqrt(var(o) + eps) + bias + (sum_d r k r_k) v) g per head: a group norm, the current
/// token's own value, the gate.
///   args: Slot weight, bias [heads * head], Slot r_k [heads, head] at acc, View o, r, k, v, g (tokens, heads *
///         head) at acc, View y the same shape
struct Rwkv7Output {
  static constexpr std::string_view name = "rwkv7_output";
  i64 heads = 1;
  i64 head = 1;
  double eps = 6.4e-4;
};

}  // namespace op
JET_NAMESPACE_END
