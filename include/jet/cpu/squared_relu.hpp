/// \file
/// The activation of RWKV's channel mixing on the CPU.
#pragma once

#include <jet/cpu/rows.hpp>
#include <jet/op/squared_relu.hpp>

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::SquaredRelu, tag::cpu> {
  template <class B> static auto scratch(Context<B>& ctx, op::SquaredRelu const&, View const& x, View const&) {
    return cpu::worker_scratch(ctx, x.width());
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::SquaredRelu const&, S const& memory, View const& x, View const& y) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const n = x.width();
    cpu::parallel_rows(ctx.backend(), x.tokens(), n, [&](i64 first, i64 last, int worker) {
      for (i64 t = first; t < last; ++t) {
        T const* const in = x.row<T>(t);
        T* const out = cpu::row_target(y.dtype, y.row_bytes(t), memory.of(worker));
        for (i64 i = 0; i < n; ++i) {
          T const positive = in[i] < 0 ? T{0} : in[i];  // NaN stays NaN
          out[i] = positive * positive;
        }
        cpu::store_row(k, y.dtype, out, n, y.row_bytes(t));
      }
    });
  }
};

JET_NAMESPACE_END
