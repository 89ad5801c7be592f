/// \file
/// The MLP's activation on the CPU.
#pragma once

#include <jet/cpu/rows.hpp>
#include <jet/op/swiglu.hpp>

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::SwiGlu, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::SwiGlu const&, View const& gate, View const&, View const&) {
    return cpu::worker_scratch(ctx, gate.width());
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::SwiGlu const&, S const& memory, View const& gate, View const& up,
                  View const& y) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const n = gate.width();
    cpu::parallel_rows(ctx.backend(), gate.tokens(), n, [&](i64 first, i64 last, int worker) {
      for (i64 t = first; t < last; ++t) {
        T* const out = cpu::row_target(y.dtype, y.row_bytes(t), memory.of(worker));
        k.silu_mul(n, gate.row<T>(t), up.row<T>(t), out);
        cpu::store_row(k, y.dtype, out, n, y.row_bytes(t));
      }
    });
  }
};

JET_NAMESPACE_END
