/// \file
/// The gates and the skip connection of Mamba2 on the CPU.
#pragma once

#include <cmath>

#include <jet/cpu/rows.hpp>
#include <jet/op/mamba2.hpp>

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::SsdGates, tag::cpu> {
  template <class B>
  static void run(Context<B>& ctx, op::SsdGates const& op, View const& dt, Slot const& a_log, Slot const& dt_bias,
                  View const& g, View const& delta) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const heads = dt.width();
    auto const least = static_cast<T>(op.dt_min);
    auto const most = static_cast<T>(op.dt_max);
    cpu::parallel_rows(ctx.backend(), dt.tokens(), 8 * heads, [&](i64 first, i64 last, int) {
      for (i64 t = first; t < last; ++t) {
        T* const d = delta.row<T>(t);
        T* const out = g.row<T>(t);
        k.add(heads, dt.row<T>(t), dt_bias.as<T>(), d);
        k.softplus(heads, d, d);
        for (i64 h = 0; h < heads; ++h) {
          d[h] = d[h] < least ? least : d[h] > most ? most : d[h];  // NaN stays
          out[h] = -std::exp(a_log.as<T>()[h]) * d[h];
        }
      }
    });
  }
};

template <> struct Kernel<op::HeadSkip, tag::cpu> {
  template <class B>
  static void run(Context<B>& ctx, op::HeadSkip const& op, Slot const& d, View const& x, View const& y) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    cpu::parallel_rows(ctx.backend(), x.tokens(), y.width(), [&](i64 first, i64 last, int) {
      for (i64 t = first; t < last; ++t) {
        for (i64 h = 0; h < op.heads; ++h) {
          k.axpy(op.head, d.as<T>()[h], x.row<T>(t) + h * op.head, y.row<T>(t) + h * op.head);
        }
      }
    });
  }
};

JET_NAMESPACE_END
