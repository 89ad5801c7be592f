/// \file
/// Token embedding and the choice of rows that get logits.
#pragma once

#include <cstdint>
#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>
#include <jet/op/backward.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// x[t] = E[ids[t]]; rows of inactive sequences are not read and become 0.
///   args: Slot table [vocab, d_model], std::int32_t const* ids [tokens] in the backend's memory, View x (tokens,
///   d_model)
/// Backward: std::int32_t const* ids, View dx, Slot dtable. dtable[ids[t]] += dx[t].
struct Embedding {
  static constexpr std::string_view name = "embedding";
};

/// y[i] = x[rows[i]].   args: View x (tokens, width), std::int64_t const* rows, View y (rows, width)
struct GatherRows {
  static constexpr std::string_view name = "gather_rows";
};

}  // namespace op
JET_NAMESPACE_END
