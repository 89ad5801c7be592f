/// \file
/// Backward of matrix products on the CPU. Tasks are rectangles of dx and of the weights' gradients; an element
/// does not depend on the cut: its sum runs over blocks of `gradient_depth` terms in ascending order.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include <jet/cpu/rows.hpp>
#include <jet/op/linear.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

inline constexpr i64 gradient_rows = 192;     // of a rectangle
inline constexpr i64 gradient_columns = 192;  // of a rectangle
inline constexpr i64 gradient_depth = 256;    // a panel of the right operand stays in the second-level cache

/// A rectangle of a product, cut along k.
template <class T> void gradient_product(KernelTable<T> const& k, GemmNn<T> g, DType b_type, bool accumulate) {
  i64 const depth = g.k;
  g.beta = accumulate ? T{1} : T{0};
  for (i64 at = 0; at == 0 || at < depth; at += gradient_depth) {
    GemmNn<T> piece = g;
    piece.k = std::min(gradient_depth, depth - at);
    piece.a = g.a + at * g.a_col;
    piece.b = static_cast<char const*>(g.b) + at * g.ldb * size_of(b_type);
    piece.beta = at == 0 ? g.beta : T{1};
    k.gemm_nn[storage_index(b_type)](piece);
  }
}

struct GradientCut {
  i64 row_tasks = 0, column_tasks = 0;
  static GradientCut make(bool wanted, i64 rows, i64 columns) {
    return wanted ? GradientCut{(rows + gradient_rows - 1) / gradient_rows,
                                (columns + gradient_columns - 1) / gradient_columns}
                  : GradientCut{};
  }
  i64 tasks() const { return row_tasks * column_tasks; }
  /// First row, rows, first column, columns of a task.
  std::array<i64, 4> rectangle(i64 task, i64 rows, i64 columns) const {
    i64 const row = task % row_tasks * gradient_rows, column = task / row_tasks * gradient_columns;
    return {row, std::min(gradient_rows, rows - row), column, std::min(gradient_columns, columns - column)};
  }
};

}  // namespace cpu

template <> struct Kernel<op::Backward<op::Linears>, tag::cpu> {
  template <class B, std::size_t N>
  static void run(Context<B>& ctx, op::Backward<op::Linears> const&, View const& x, View const& dx,
                  std::array<op::ProjectionGradient, N> const& parts) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const tokens = x.tokens(), in = x.width();
    auto const input = cpu::GradientCut::make(static_cast<bool>(dx), tokens, in);
    std::array<cpu::GradientCut, N> cuts;
    i64 tasks = input.tasks();
    for (std::size_t i = 0; i < N; ++i) {
      op::ProjectionGradient const& p = parts[i];
      JET_ASSERT(p.dy.tokens() == tokens && p.dy.dtype == dtype_of<T>);
      cuts[i] = cpu::GradientCut::make(static_cast<bool>(p.dweight), p.dy.width(), in);
      tasks += cuts[i].tasks() + (p.dbias ? 1 : 0);
    }
    ctx.backend().parallel(tasks, [&](i64 task, int) {
      if (task < input.tasks()) {
        auto const [row, rows, column, columns] = input.rectangle(task, tokens, in);
        for (std::size_t i = 0; i < N; ++i) {
          op::ProjectionGradient const& p = parts[i];
          void const* const weight = p.weight.columns(column, columns).data;
          cpu::gradient_product<T>(k,
                                   {rows, columns, p.dy.width(), p.dy.row<T>(row), p.dy.stride[0], 1, weight,
                                    p.weight.stride[0], dx.row<T>(row) + column, dx.stride[0]},
                                   p.weight.dtype, i > 0);
        }
        return;
      }
      task -= input.tasks();
      for (std::size_t i = 0; i < N; ++i) {
        op::ProjectionGradient const& p = parts[i];
        if (task < cuts[i].tasks()) {
          auto const [row, rows, column, columns] = cuts[i].rectangle(task, p.dy.width(), in);
          cpu::gradient_product<T>(
              k,
              {rows, columns, tokens, p.dy.as<T>() + row, 1, p.dy.stride[0], x.columns(column, columns).data,
               x.stride[0], p.dweight.row<T>(row) + column, p.dweight.stride[0]},
              x.dtype, true);
          return;
        }
        task -= cuts[i].tasks();
        if (p.dbias && task-- == 0) {
          for (i64 t = 0; t < tokens; ++t) {
            k.axpy(p.dy.width(), T{1}, p.dy.row<T>(t), p.dbias.as<T>());
          }
          return;
        }
      }
    });
  }
};

JET_NAMESPACE_END
