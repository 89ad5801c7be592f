/// \file
/// Full causal attention: every token sees all before it. See AttentionBlock for parameters, state and maths.
#pragma once

#include <string_view>

#include <jet/block/attention.hpp>

JET_NAMESPACE_BEGIN

/// State per sequence of L tokens: 2 kv_heads head L numbers of the kv dtype.
template <AttentionConfig C> struct FullAttention : AttentionBlock<C, 0> {
  static constexpr std::string_view kind = "attn";
};

JET_NAMESPACE_END
