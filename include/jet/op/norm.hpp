/// \file
/// Norms. Statistics at `acc`, one rounding on store.
#pragma once

#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>
#include <jet/op/backward.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// y = w * x / sqrt(mean(x^2) + eps), per row (arXiv 1910.07467).
///   args: Slot weight [width], View x (tokens, width), View y (tokens, width)
/// Backward: Slot weight, View x, View dy, View dx, Slot dweight. Saves x; the statistics are recomputed.
///   with r = 1 / sqrt(mean(x^2) + eps), m = dy w:  dx = r (m - r^2 x mean(m x)) ;  dw += sum_t dy r x
struct RmsNorm {
  static constexpr std::string_view name = "rms_norm";
  double eps = 1e-6;
};

/// x = x + delta (rounded to x's dtype), then y = rms_norm(x): a residual addition with the norm that follows it.
///   args: Slot weight, View delta (tokens, width), View x in and out, View y
/// Backward: Slot weight, View x (the sum), View dy, View dx, Slot dweight. Saves the sum. dx holds the gradient of
/// the sum from elsewhere, and the norm's is added to it; the result is the gradient of both addends.
struct AddRmsNorm {
  static constexpr std::string_view name = "add_rms_norm";
  double eps = 1e-6;
};

/// x = x + delta, rounded to x's dtype.   args: View delta, View x
struct Add {
  static constexpr std::string_view name = "add";
};

/// y = w * (x - mean(x)) / sqrt(var(x) + eps) + b, per row (arXiv 1607.06450).
///   args: Slot weight, bias [width], View x (tokens, width), View y (tokens, width), which may be x
struct LayerNorm {
  static constexpr std::string_view name = "layer_norm";
  double eps = 1e-5;
};

/// RMSNorm of each head in place; the weight [head] is shared by all heads (query/key norm).
///   args: Slot weight [head], View x (tokens, heads * head) at acc
/// Backward: Slot weight, View x (before the norm), View dx in place (in: of the output), Slot dweight. Saves x.
struct HeadNorm {
  static constexpr std::string_view name = "head_norm";
  i64 heads = 1;
  i64 head = 1;
  double eps = 1e-6;
};

/// x = x / sqrt(sum(x^2) + eps) per head, in place, after silu when `silu` is set.
///   args: View x (tokens, heads * head) at acc
/// Backward: View x (before silu and norm), View dx in place (in: of the output). Saves x.
///   with r = 1 / sqrt(sum(x^2) + eps), y = r x:  dx = r (dy - y (y . dy)), then times silu'
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
/// Backward: Slot weight, View x, z, View dy, View dx, View dz, Slot dweight. Saves x and z. dx and dz may not be
/// null, dy may not be one of them.
struct GatedRmsNorm {
  static constexpr std::string_view name = "gated_rms_norm";
  i64 heads = 1;
  i64 head = 1;
  double eps = 1e-5;
  bool gate_first = false;
};

}  // namespace op
JET_NAMESPACE_END
