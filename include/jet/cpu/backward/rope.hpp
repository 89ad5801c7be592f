/// \file
/// Backward of rotary positions on the CPU.
#pragma once

#include <jet/cpu/rows.hpp>
#include <jet/op/rope.hpp>

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::Backward<op::Rope>, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::Backward<op::Rope> const& op, View const&, View const&) {
    return cpu::worker_scratch(ctx, op.forward.head / 2);
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::Backward<op::Rope> const& op, S const& memory, View const& table,
                  View const& dx) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const half = op.forward.head / 2;
    cpu::parallel_rows(ctx.backend(), dx.tokens(), dx.width(), [&](i64 first, i64 last, int worker) {
      T* const sine = memory.of(worker);  // of minus the angle
      for (i64 t = first; t < last; ++t) {
        T const* angles = table.row<T>(t);
        k.scale(half, T{-1}, angles + half, sine);
        for (i64 h = 0; h < op.forward.heads; ++h) {
          k.rope(half, angles, sine, dx.row<T>(t) + h * op.forward.head);
        }
      }
    });
  }
};

JET_NAMESPACE_END
