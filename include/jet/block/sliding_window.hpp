/// \file
/// Sliding-window attention: query i sees keys [i - window + 1, i], its own included (Jet-Nemotron's definition).
#pragma once

#include <string_view>

#include <jet/block/attention.hpp>

JET_NAMESPACE_BEGIN

/// State per sequence: a ring of min(window, max_len) tokens. Positions for the rotation go on counting when the
/// ring has wrapped.
template <AttentionConfig C, i64 Window> struct SlidingWindow : AttentionBlock<C, Window> {
  static_assert(Window >= 1, "jet: SlidingWindow needs a window of at least one token; use FullAttention for none");
  static constexpr std::string_view kind = "swa";
};

JET_NAMESPACE_END
