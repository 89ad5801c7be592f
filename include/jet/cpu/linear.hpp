/// \file
/// Matrix products on the CPU: tasks are rectangles of the output; an element does not depend on the cut.
#pragma once

#include <algorithm>
#include <array>

#include <jet/cpu/rows.hpp>
#include <jet/op/linear.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

/// How a product is cut into tasks: rows of x times rows of W.
struct LinearCut {
  i64 m = 0, n = 0;
  i64 m_block = 1, n_block = 1;
  i64 m_tasks = 0, n_tasks = 0;

  static LinearCut make(i64 m, i64 n, i64 k, i64 weight_bytes) {
    LinearCut c{m, n, 1, 1, 0, 0};
    if (m == 0 || n == 0) {
      return c;
    }
    c.m_block = std::min<i64>(m, 96);
    // about 128 KiB of weights per task: long enough a stream for the prefetcher, short enough to balance
    i64 const rows = std::max<i64>(1, (i64{1} << 17) / std::max<i64>(1, k * weight_bytes));
    c.n_block = std::min(n, rows >= 32 ? rows / 32 * 32 : std::max<i64>(4, rows / 4 * 4));
    c.m_tasks = (m + c.m_block - 1) / c.m_block;
    c.n_tasks = (n + c.n_block - 1) / c.n_block;
    return c;
  }
  i64 tasks() const { return m_tasks * n_tasks; }
};

template <class T>
void linear_task(KernelTable<T> const& kernels, LinearCut const& cut, i64 task, View const& x,
                 op::Projection const& p, bool accumulate) {
  i64 const m0 = task % cut.m_tasks * cut.m_block;
  i64 const n0 = task / cut.m_tasks * cut.n_block;
  GemmNt<T> g;
  g.m = std::min(cut.m_block, cut.m - m0);
  g.n = std::min(cut.n_block, cut.n - n0);
  g.k = p.weight.extent[1];
  g.a = x.row_bytes(m0);
  g.lda = x.stride[0];
  g.b = p.weight.row_bytes(n0);
  g.ldb = p.weight.stride[0];
  g.c = p.out.columns(n0, g.n).row_bytes(m0);
  g.ldc = p.out.stride[0];
  g.bias = p.bias ? p.bias.template as<T>() + n0 : nullptr;
  g.beta = accumulate ? T{1} : T{0};
  kernels.gemm_nt[storage_index(x.dtype)][storage_index(p.weight.dtype)][storage_index(p.out.dtype)](g);
}

template <class B, std::size_t N>
void linears(Context<B>& ctx, View const& x, std::array<op::Projection, N> const& parts, bool accumulate) {
  std::array<LinearCut, N> cuts;
  i64 tasks = 0;
  for (std::size_t i = 0; i < N; ++i) {
    auto const& p = parts[i];
    JET_ASSERT(p.weight.extent[1] == x.extent[1] && p.out.extent[1] == p.weight.extent[0]);
    cuts[i] = LinearCut::make(x.tokens(), p.weight.extent[0], p.weight.extent[1], size_of(p.weight.dtype));
    tasks += cuts[i].tasks();
  }
  auto const& kernels = ctx.backend().kernels();
  ctx.backend().parallel(tasks, [&](i64 task, int) {
    std::size_t i = 0;
    while (task >= cuts[i].tasks()) {
      task -= cuts[i].tasks();
      ++i;
    }
    linear_task(kernels, cuts[i], task, x, parts[i], accumulate);
  });
}

}  // namespace cpu

template <> struct Kernel<op::Linear, tag::cpu> {
  template <class B>
  static void run(Context<B>& ctx, op::Linear const& op, Slot const& weight, Slot const& bias, View const& x,
                  View const& y) {
    cpu::linears(ctx, x, std::array{op::Projection{weight, bias, y}}, op.accumulate);
  }
  template <class B>
  static void run(Context<B>& ctx, op::Linear const& op, Slot const& weight, View const& x, View const& y) {
    run(ctx, op, weight, Slot{}, x, y);
  }
};

template <> struct Kernel<op::Linears, tag::cpu> {
  template <class B, std::size_t N>
  static void run(Context<B>& ctx, op::Linears const&, View const& x, std::array<op::Projection, N> const& parts) {
    cpu::linears(ctx, x, parts, false);
  }
};

JET_NAMESPACE_END
