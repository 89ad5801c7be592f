/// \file
/// The constant decays of multi-scale retention.
#pragma once

#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// g[t, h] = log(1 - 2^(-5 - h)), h = 0 ... heads - 1 (RetNet, arXiv 2307.08621, section 3.1), formed in double.
///   args: View g (tokens, heads) at acc
struct RetentionDecay {
  static constexpr std::string_view name = "retention_decay";
};

}  // namespace op
JET_NAMESPACE_END
