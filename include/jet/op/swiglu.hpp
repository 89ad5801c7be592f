/// \file
/// The activation between an MLP's products (arXiv 2002.05202).
#pragma once

#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// y = silu(gate) * up.   args: View gate, up (tokens, width) at acc, View y (tokens, width) at act
struct SwiGlu {
  static constexpr std::string_view name = "swiglu";
};

}  // namespace op
JET_NAMESPACE_END
