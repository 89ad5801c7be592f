/// \file
/// The activation of RWKV's channel mixing.
#pragma once

#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// y = max(x, 0)^2 (arXiv 2109.08668).   args: View x (tokens, width) at acc, View y (tokens, width) at act
struct SquaredRelu {
  static constexpr std::string_view name = "squared_relu";
};

}  // namespace op
JET_NAMESPACE_END
