/// \file
/// Norms. Statistics at `acc`, one rounding on store.
#pragma once

#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// y = w * x / sqrt(mean(x^2) + eps), per row (arXiv 1910.07467).
///   args: Slot weight [width], View x (tokens, width), View y (tokens, width)
struct RmsNorm {
  static constexpr std::string_view name = "rms_norm";
  double eps = 1e-6;
};

/// x = x + delta (rounded to x's dtype), then y = rms_norm(x): a residual addition with the norm that follows it.
///   args: Slot weight, View delta (tokens, width), View x in and out, View y
struct AddRmsNorm {
  static constexpr std::string_view name = "add_rms_norm";
  double eps = 1e-6;
};

/// x = x + delta, rounded to x's dtype.   args: View delta, View x
struct Add {
  static constexpr std::string_view name = "add";
};

/// RMSNorm of each head in place; the weight [head] is shared by all heads (query/key norm).
///   args: Slot weight [head], View x (tokens, heads * head) at acc
struct HeadNorm {
  static constexpr std::string_view name = "head_norm";
  i64 heads = 1;
  i64 head = 1;
  double eps = 1e-6;
};

/// x = x / sqrt(sum(x^2) + eps) per head, in place, after silu when `silu` is set.
///   args: View x (tokens, heads * head) at acc
struct L2Norm {
  static constexpr std::string_view name = "l2_norm";
  i64 heads = 1;
  i64 head = 1;
  double eps = 1e-6;
  bool silu = false;
};

/// y = w * (x / sqrt(mean(x^2) + eps)) * silu(z) per head: norm first, gate from the layer's input
/// (RetNet, GLA, Gated DeltaNet, JetBlock). With `gate_first` y = w * rms(x * silu(z)) over groups of `head`
/// (Mamba2).
///   args: Slot weight [head] (gate_first: [heads * head]), View x (tokens, heads * head) at acc, View z the same
///         shape at acc, View y (tokens, heads * head)
struct GatedRmsNorm {
  static constexpr std::string_view name = "gated_rms_norm";
  i64 heads = 1;
  i64 head = 1;
  double eps = 1e-5;
  bool gate_first = false;
};

}  // namespace op
JET_NAMESPACE_END
