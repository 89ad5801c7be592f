/// \file
/// Element-wise functions that linear-attention blocks apply to their projections: feature maps and gates.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>

JET_NAMESPACE_BEGIN

/// elu_plus_one: x > 0 ? x + 1 : e^x. Configs hold one of the first four by its number.
enum class Activation : std::uint8_t { none, silu, relu, elu_plus_one, sigmoid, tanh, log_sigmoid };

namespace op {

/// x = max(scale f(x), at_least), in place. NaN stays NaN.
///   args: View x (tokens, width) at acc
struct Activate {
  static constexpr std::string_view name = "activate";
  Activation function = Activation::none;
  double scale = 1;
  double at_least = -std::numeric_limits<double>::infinity();
};

}  // namespace op
JET_NAMESPACE_END
