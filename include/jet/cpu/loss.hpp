/// \file
/// Cross-entropy on the CPU, row by row.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <jet/cpu/rows.hpp>
#include <jet/op/loss.hpp>

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::CrossEntropy, tag::cpu> {
  template <class B>
  static void run(Context<B>& ctx, op::CrossEntropy const& op, View const& logits, std::int32_t const* targets,
                  double* losses) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const n = logits.width();
    cpu::parallel_rows(ctx.backend(), logits.tokens(), 8 * n, [&](i64 first, i64 last, int) {
      for (i64 i = first; i < last; ++i) {
        T* const row = logits.row<T>(i);
        losses[i] = 0;
        if (targets[i] < 0) {
          std::fill_n(row, n, T{0});
          continue;
        }
        JET_ASSERT(targets[i] < n);
        T const top = k.max(n, row);
        T const chosen = row[targets[i]] - top;
        T const sum = k.exp_sum(n, top, row, row);
        losses[i] = std::log(static_cast<double>(sum)) - static_cast<double>(chosen);
        k.scale(n, static_cast<T>(op.scale) / sum, row, row);
        row[targets[i]] -= static_cast<T>(op.scale);
      }
    });
  }
};

JET_NAMESPACE_END
