/// \file
/// Repeated heads on the CPU.
#pragma once

#include <algorithm>

#include <jet/cpu/rows.hpp>
#include <jet/op/repeat_heads.hpp>

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::RepeatHeads, tag::cpu> {
  template <class B> static void run(Context<B>& ctx, op::RepeatHeads const& op, View const& x, View const& y) {
    using T = cpu::scalar_of<B>;
    cpu::parallel_rows(ctx.backend(), x.tokens(), y.width(), [&](i64 first, i64 last, int) {
      for (i64 t = first; t < last; ++t) {
        T const* const from = x.row<T>(t);
        T* to = y.row<T>(t);
        for (i64 h = 0; h < op.heads * op.repeat; ++h, to += op.head) {
          std::copy_n(from + h / op.repeat * op.head, op.head, to);
        }
      }
    });
  }
};

JET_NAMESPACE_END
