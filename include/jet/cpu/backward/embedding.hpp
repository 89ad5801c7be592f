/// \file
/// Backward of the embedding on the CPU: tasks are blocks of columns, tokens in order.
#pragma once

#include <algorithm>
#include <cstdint>

#include <jet/cpu/rows.hpp>
#include <jet/op/embedding.hpp>

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::Backward<op::Embedding>, tag::cpu> {
  template <class B>
  static void run(Context<B>& ctx, op::Backward<op::Embedding> const&, std::int32_t const* ids, View const& dx,
                  Slot const& dtable) {
    using T = cpu::scalar_of<B>;
    if (!dtable) {
      return;
    }
    auto const& k = ctx.backend().kernels();
    constexpr i64 block = 256;
    ctx.backend().parallel((dx.width() + block - 1) / block, [&](i64 task, int) {
      i64 const column = task * block;
      i64 const n = std::min(block, dx.width() - column);
      for (i64 t = 0; t < dx.tokens(); ++t) {
        JET_ASSERT(ids[t] >= 0 && ids[t] < dtable.extent[0]);
        k.axpy(n, T{1}, dx.row<T>(t) + column, dtable.row<T>(ids[t]) + column);
      }
    });
  }
};

JET_NAMESPACE_END
