/// \file
/// Backward of the MLP's activation on the CPU.
#pragma once

#include <jet/cpu/backward/norm.hpp>
#include <jet/cpu/rows.hpp>
#include <jet/op/swiglu.hpp>

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::Backward<op::SwiGlu>, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::Backward<op::SwiGlu> const&, View const& gate, View const&, View const&,
                      View const&, View const&) {
    return cpu::worker_scratch(ctx, 3 * gate.width());
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::Backward<op::SwiGlu> const&, S const& memory, View const& gate,
                  View const& up, View const& dy, View const& dgate, View const& dup) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const n = gate.width();
    cpu::parallel_rows(ctx.backend(), gate.tokens(), 2 * n, [&](i64 first, i64 last, int worker) {
      T* const slope = memory.of(worker);
      T* const sigmoid = slope + n;
      T* const activated = sigmoid + n;
      for (i64 t = first; t < last; ++t) {
        T const* const d = dy.row<T>(t);
        cpu::silu_slope(k, n, gate.row<T>(t), sigmoid, slope);
        cpu::multiply(n, up.row<T>(t), slope);
        k.silu(n, gate.row<T>(t), activated);
        cpu::multiply(n, d, slope);
        k.mul_scale(n, T{1}, d, activated, dup.row<T>(t));
        std::copy_n(slope, n, dgate.row<T>(t));
      }
    });
  }
};

JET_NAMESPACE_END
