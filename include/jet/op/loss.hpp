/// \file
/// The loss of a language model.
#pragma once

#include <cstdint>
#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// Cross-entropy and its gradient in place: losses[i] = log sum_v e^logits[i, v] - logits[i, targets[i]], then
/// logits[i, :] = scale (softmax(logits[i, :]) - onehot(targets[i])). Rows with a negative target are ignored: loss
/// 0, gradient 0.
///   args: View logits (rows, vocab) at acc, std::int32_t const* targets [rows], double* losses [rows], both in the
///   backend's memory
struct CrossEntropy {
  static constexpr std::string_view name = "cross_entropy";
  double scale = 1;
};

}  // namespace op
JET_NAMESPACE_END
