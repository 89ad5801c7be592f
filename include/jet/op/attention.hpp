/// \file
/// Causal softmax attention over a cache and the call's own tokens: full or sliding window, grouped queries.
#pragma once

#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>
#include <jet/op/backward.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// Compile-time sizes of an attention: a template argument of the op.
struct AttentionShape {
  i64 heads = 1;     // query heads
  i64 kv_heads = 1;  // key and value heads; query head h uses kv head h * kv_heads / heads
  i64 head = 1;      // size of a head
  i64 window = 0;    // query i sees keys [i - window + 1, i]; 0: all before it
};

/// Where the gradients of an attention go. The caches' gradients [slots, capacity, kv_heads, head] at acc: `end`
/// for the caches after the call, `begin` before it.
struct AttentionGradient {
  View q{}, k{}, v{};
  Slot key_end{}, value_end{}, key_begin{}, value_begin{};
};

/// o_i = sum_j softmax_j(head^-1/2 q_i . k_j) v_j over the visible j.
///   args: View q (tokens, heads * head), View k, v (tokens, kv_heads * head), rotated, at acc;
///         Slot key, value of the state [slots, capacity, kv_heads, head] (null: no cache is read or kept);
///         View o (tokens, heads * head)
/// Keys and values are rounded to the cache's dtype before they are used, so a split of the sequence changes
/// nothing. The new tokens attend over what the cache held and over themselves, and are written afterwards: with a
/// window the cache is a ring of `capacity` rows, row = position mod capacity. Cost: 4 heads head L FLOP per token
/// at L visible keys.
/// Saving: one more argument, View lse (tokens, heads) at acc: log sum_j e^(head^-1/2 q_i . k_j).
/// Backward: View q, k, v as in the forward, Slot key, value (before the call; null: no cache), View o, View lse,
///         View do (tokens, heads * head), AttentionGradient const&. Saves its inputs, o and lse; probabilities are
///         recomputed in tiles. The rows of the caches' gradients lie as the caches' rows do. No page tables.
template <AttentionShape C> struct Attention {
  static constexpr std::string_view name = "attention";
  static constexpr AttentionShape c = C;
  static_assert(C.heads > 0 && C.kv_heads > 0 && C.heads % C.kv_heads == 0,
                "jet: attention needs heads to be a multiple of kv_heads");
  static_assert(C.head > 0 && C.window >= 0, "jet: attention needs head > 0 and window >= 0 (0: full)");
};

}  // namespace op
JET_NAMESPACE_END
