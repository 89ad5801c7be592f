/// \file
/// The gated scan and the gates of the delta rule on the CPU.
#pragma once

#include <cmath>

#include <jet/cpu/rows.hpp>
#include <jet/cpu/scan.hpp>
#include <jet/op/gated_scan.hpp>

JET_NAMESPACE_BEGIN

template <op::ScanShape C> struct Kernel<op::GatedScan<C>, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::GatedScan<C> const&, View const&, View const&, View const&, View const&,
                      View const&, Slot const&, View const&, View const& = {}) {
    return cpu::scan_scratch<C, false>(ctx);
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::GatedScan<C> const&, S const& memory, View const& q, View const& k,
                  View const& v, View const& g, View const& beta, Slot const& state, View const& o,
                  View const& states = {}) {
    cpu::scan<C, false>(ctx, memory, {.q = q, .k = k, .v = v, .g = g, .beta = beta, .o = o, .states = states},
                        state);
  }
};

template <> struct Kernel<op::DeltaGates, tag::cpu> {
  template <class B>
  static void run(Context<B>& ctx, op::DeltaGates const&, View const& a, View const& b, Slot const& a_log,
                  Slot const& dt_bias, View const& g, View const& beta) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const heads = a.width();
    cpu::parallel_rows(ctx.backend(), a.tokens(), 8 * heads, [&](i64 first, i64 last, int) {
      for (i64 t = first; t < last; ++t) {
        T* const out = g.row<T>(t);
        k.add(heads, a.row<T>(t), dt_bias.as<T>(), out);
        k.softplus(heads, out, out);
        for (i64 h = 0; h < heads; ++h) {
          out[h] *= -std::exp(a_log.as<T>()[h]);
        }
        k.sigmoid(heads, b.row<T>(t), beta.row<T>(t));
      }
    });
  }
};

JET_NAMESPACE_END
