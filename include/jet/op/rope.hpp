/// \file
/// Rotary position embedding, rotate-half form (arXiv 2104.09864), default frequencies or Llama-3 scaling.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>
#include <jet/op/backward.hpp>
#include <jet/op/norm.hpp>

JET_NAMESPACE_BEGIN

/// Llama-3's piecewise interpolation of frequencies; factor 0: none.
struct RopeScaling {
  double factor = 0;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  i64 original_max_position = 8192;
  friend constexpr bool operator==(RopeScaling const&, RopeScaling const&) = default;
};

struct RopeConfig {
  double theta = 1e4;
  RopeScaling scaling{};
  friend constexpr bool operator==(RopeConfig const&, RopeConfig const&) = default;

  /// Tells tables of different configs apart.
  constexpr std::uint64_t key(i64 dim) const {
    std::uint64_t h = 0x9e3779b97f4a7c15u;
    auto mix = [&](std::uint64_t v) { h = (h ^ v) * 0xff51afd7ed558ccdu + (h >> 29); };
    mix(std::bit_cast<std::uint64_t>(theta));
    mix(std::bit_cast<std::uint64_t>(scaling.factor));
    mix(std::bit_cast<std::uint64_t>(scaling.low_freq_factor));
    mix(std::bit_cast<std::uint64_t>(scaling.high_freq_factor));
    mix(static_cast<std::uint64_t>(scaling.original_max_position));
    mix(static_cast<std::uint64_t>(dim));
    return h;
  }
};

/// inv_freq of pair m of a head of `dim`: theta^(-2m/dim), scaled as the config says.
inline double rope_inv_freq(RopeConfig const& c, i64 dim, i64 m) {
  double const inv = std::pow(c.theta, -2.0 * static_cast<double>(m) / static_cast<double>(dim));
  RopeScaling const& r = c.scaling;
  if (r.factor == 0) {
    return inv;
  }
  double const wavelength = 2 * std::numbers::pi / inv;
  double const original = static_cast<double>(r.original_max_position);
  if (wavelength > original / r.low_freq_factor) {
    return inv / r.factor;
  }
  if (wavelength < original / r.high_freq_factor) {
    return inv;
  }
  double const t = (original / wavelength - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor);
  return (1 - t) * inv / r.factor + t * inv;
}

namespace op {

/// cos and sin of every token's position: row t holds head/2 cosines, then head/2 sines.
///   args: View table (tokens, head) at acc. Positions from the batch. Angles in double.
struct RopeTable {
  static constexpr std::string_view name = "rope_table";
  RopeConfig rope{};
  i64 head = 1;
};

/// y[m] = x[m] cos_m - x[m+h/2] sin_m ; y[m+h/2] = x[m+h/2] cos_m + x[m] sin_m, per head, in place.
///   args: View table (tokens, head), View x (tokens, heads * head) at acc
/// Backward: View table, View dx in place: the inverse rotation.
struct Rope {
  static constexpr std::string_view name = "rope";
  i64 heads = 1;
  i64 head = 1;
};

/// Queries and keys on their way to attention, in place: HeadNorm of both where there are weights, then Rope.
///   args: View table (tokens, head), Slot q_norm, k_norm [head] (null: no norm), View q (tokens, heads * head),
///         View k (tokens, kv_heads * head) at acc
struct RotateHeads {
  static constexpr std::string_view name = "rotate_heads";
  i64 heads = 1;
  i64 kv_heads = 1;
  i64 head = 1;
  double eps = 1e-6;

  template <class B>
  static void compose(Context<B>& ctx, RotateHeads const& op, View const& table, Slot const& q_norm,
                      Slot const& k_norm, View const& q, View const& k) {
    if (q_norm) {
      ctx.run(HeadNorm{op.heads, op.head, op.eps}, q_norm, q);
    }
    if (k_norm) {
      ctx.run(HeadNorm{op.kv_heads, op.head, op.eps}, k_norm, k);
    }
    ctx.run(Rope{op.heads, op.head}, table, q);
    ctx.run(Rope{op.kv_heads, op.head}, table, k);
  }
};

}  // namespace op
JET_NAMESPACE_END
