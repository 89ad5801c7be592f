/// \file
/// Element-wise functions on the CPU.
#pragma once

#include <cmath>
#include <limits>

#include <jet/cpu/rows.hpp>
#include <jet/op/activate.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

/// x = f(x) for n numbers.
template <class T> void activate_row(KernelTable<T> const& k, Activation function, i64 n, T* x) {
  switch (function) {
    case Activation::none: break;
    case Activation::silu: k.silu(n, x, x); break;
    case Activation::sigmoid: k.sigmoid(n, x, x); break;
    case Activation::log_sigmoid:  // -softplus(-x)
      k.scale(n, T{-1}, x, x);
      k.softplus(n, x, x);
      k.scale(n, T{-1}, x, x);
      break;
    case Activation::relu:
      for (i64 i = 0; i < n; ++i) {
        x[i] = x[i] < 0 ? T{0} : x[i];
      }
      break;
    case Activation::elu_plus_one:
      for (i64 i = 0; i < n; ++i) {
        x[i] = x[i] > 0 ? x[i] + 1 : std::exp(x[i]);
      }
      break;
    case Activation::tanh:
      for (i64 i = 0; i < n; ++i) {
        x[i] = std::tanh(x[i]);
      }
      break;
  }
}

}  // namespace cpu

template <> struct Kernel<op::Activate, tag::cpu> {
  template <class B> static void run(Context<B>& ctx, op::Activate const& op, View const& x) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const n = x.width();
    auto const scale = static_cast<T>(op.scale);
    bool const clamps = op.at_least > -std::numeric_limits<double>::infinity();
    auto const least = static_cast<T>(op.at_least);
    cpu::parallel_rows(ctx.backend(), x.tokens(), 8 * n, [&](i64 first, i64 last, int) {
      for (i64 t = first; t < last; ++t) {
        T* const row = x.row<T>(t);
        cpu::activate_row(k, op.function, n, row);
        if (op.scale != 1) {
          k.scale(n, scale, row, row);
        }
        for (i64 i = 0; clamps && i < n; ++i) {
          row[i] = row[i] < least ? least : row[i];
        }
      }
    });
  }
};

JET_NAMESPACE_END
