/// \file
/// Heads that several others share, written out once per reader (arXiv 2305.13245).
#pragma once

#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// y[t, h] = x[t, h / repeat]: every head of x `repeat` times in a row.
///   args: View x (tokens, heads * head), View y (tokens, heads * repeat * head), both at acc
struct RepeatHeads {
  static constexpr std::string_view name = "repeat_heads";
  i64 heads = 1;
  i64 head = 1;
  i64 repeat = 1;
};

}  // namespace op
JET_NAMESPACE_END
