/// \file
/// The gates and the skip connection of Mamba2.
#pragma once

#include <limits>
#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// delta = min(max(softplus(dt + dt_bias), dt_min), dt_max) ;  g = -exp(A_log) delta, per head (arXiv 2405.21060).
///   args: View dt (tokens, heads) logits at acc, Slot A_log, dt_bias [heads], View g, delta (tokens, heads) at acc
struct SsdGates {
  static constexpr std::string_view name = "ssd_gates";
  double dt_min = 0;
  double dt_max = std::numeric_limits<double>::infinity();
};

/// y[t, h] = y[t, h] + d[h] x[t, h] for whole heads.
///   args: Slot d [heads], View x, y (tokens, heads * head) at acc
struct HeadSkip {
  static constexpr std::string_view name = "head_skip";
  i64 heads = 1;
  i64 head = 1;
};

}  // namespace op
JET_NAMESPACE_END
