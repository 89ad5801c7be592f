/// \file
/// Rotary positions on the CPU.
#pragma once

#include <cmath>

#include <jet/cpu/rows.hpp>
#include <jet/op/rope.hpp>

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::RopeTable, tag::cpu> {
  template <class B> static double* scratch(Context<B>& ctx, op::RopeTable const& op, View const&) {
    return static_cast<double*>(ctx.scratch_bytes(op.head / 2 * static_cast<i64>(sizeof(double))));
  }
  template <class B>
  static void run(Context<B>& ctx, op::RopeTable const& op, double* inv_freq, View const& table) {
    using T = cpu::scalar_of<B>;
    i64 const half = op.head / 2;
    for (i64 m = 0; m < half; ++m) {
      inv_freq[m] = rope_inv_freq(op.rope, op.head, m);
    }
    for (i64 i = 0; i < ctx.seqs(); ++i) {
      Sequence const seq = ctx.sequence(i);
      cpu::parallel_rows(ctx.backend(), seq.tokens, 16 * op.head, [&](i64 first, i64 last, int) {
        for (i64 t = first; t < last; ++t) {
          T* const row = table.row<T>(seq.begin + t);
          double const position = static_cast<double>(seq.position + t);
          for (i64 m = 0; m < half; ++m) {
            double const angle = position * inv_freq[m];
            row[m] = static_cast<T>(std::cos(angle));
            row[half + m] = static_cast<T>(std::sin(angle));
          }
        }
      });
    }
  }
};

template <> struct Kernel<op::Rope, tag::cpu> {
  template <class B> static void run(Context<B>& ctx, op::Rope const& op, View const& table, View const& x) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const half = op.head / 2;
    cpu::parallel_rows(ctx.backend(), x.tokens(), x.width(), [&](i64 first, i64 last, int) {
      for (i64 t = first; t < last; ++t) {
        T const* angles = table.row<T>(t);
        for (i64 h = 0; h < op.heads; ++h) {
          k.rope(half, angles, angles + half, x.row<T>(t) + h * op.head);
        }
      }
    });
  }
};

JET_NAMESPACE_END
