/// \file
/// What a decode step does after its logits, in the backend's memory: choose the next token and move on.
#pragma once

#include <cstdint>
#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>

JET_NAMESPACE_BEGIN
namespace op {

/// ids[i] = argmax_v logits[i, v], the lowest index of equal ones, for active sequences; others keep theirs.
///   args: View logits (seqs, vocab) at acc, std::int32_t* ids [seqs]
struct Greedy {
  static constexpr std::string_view name = "greedy";
};

/// position[i] += 1 for active sequences.   args: std::int64_t* position [seqs]
struct Advance {
  static constexpr std::string_view name = "advance";
};

}  // namespace op
JET_NAMESPACE_END
