/// \file
/// The end of a decode step on the CPU.
#pragma once

#include <cstdint>

#include <jet/cpu/rows.hpp>
#include <jet/op/sample.hpp>

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::Greedy, tag::cpu> {
  template <class B> static void run(Context<B>& ctx, op::Greedy const&, View const& logits, std::int32_t* ids) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    ctx.backend().parallel(ctx.seqs(), [&](i64 i, int) {
      if (!ctx.sequence(i).active()) {
        return;
      }
      T const* row = logits.row<T>(i);
      T const top = k.max(logits.width(), row);
      std::int32_t best = 0;
      while (best + 1 < logits.width() && row[best] != top) {
        ++best;
      }
      ids[i] = best;
    });
  }
};

template <> struct Kernel<op::Advance, tag::cpu> {
  template <class B> static void run(Context<B>& ctx, op::Advance const&, std::int64_t* position) {
    for (i64 i = 0; i < ctx.seqs(); ++i) {
      position[i] += ctx.sequence(i).active() ? 1 : 0;
    }
  }
};

JET_NAMESPACE_END
