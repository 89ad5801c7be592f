/// \file
/// Which sequence a token row belongs to, on the device; how long sequences can be, on the host.
#pragma once

#include <algorithm>

#include <jet/core/batch.hpp>
#include <jet/core/context.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>

JET_CUDA_NAMESPACE_BEGIN

/// The sequence whose rows [cu_seqlens[i], cu_seqlens[i + 1]) hold row `token`, 0 <= token < tokens. Empty
/// sequences hold none.
__device__ inline i64 sequence_of(BatchView const& batch, i64 token) {
  i64 low = 0;
  i64 high = batch.seqs;  // cu_seqlens[low] <= token < cu_seqlens[high]
  while (high - low > 1) {
    i64 const middle = (low + high) / 2;
    (batch.cu_seqlens[middle] <= token ? low : high) = middle;
  }
  return low;
}

/// Tokens of the longest active sequence of a call, or more.
template <class B> i64 longest_sequence(Context<B> const& ctx) {
  BatchView const* const host = ctx.host_batch();
  if (host == nullptr) {
    return ctx.tokens() == ctx.seqs() ? 1 : ctx.tokens();  // as many tokens as sequences: a step
  }
  i64 longest = 0;
  for (i64 i = 0; i < host->seqs; ++i) {
    if (host->slot[i] >= 0) {
      longest = std::max(longest, host->cu_seqlens[i + 1] - host->cu_seqlens[i]);
    }
  }
  return longest;
}

JET_CUDA_NAMESPACE_END
