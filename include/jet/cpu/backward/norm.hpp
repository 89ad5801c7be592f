/// \file
/// Backward of the norms on the CPU: first the factor 1 / rms of every row, then the weight's gradient by columns,
/// then the input's by rows.
#pragma once

#include <algorithm>
#include <cmath>

#include <jet/cpu/rows.hpp>
#include <jet/op/norm.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

/// silu'(z) = s (1 + z (1 - s)) with s = sigmoid(z). z and out may be the same array.
template <class T> void silu_slope(KernelTable<T> const& k, i64 n, T const* z, T* sigmoid, T* out) {
  k.sigmoid(n, z, sigmoid);
  for (i64 i = 0; i < n; ++i) {
    out[i] = sigmoid[i] * (T{1} + z[i] * (T{1} - sigmoid[i]));
  }
}
template <class T> void multiply(i64 n, T const* x, T* y) {
  for (i64 i = 0; i < n; ++i) {
    y[i] *= x[i];
  }
}

inline constexpr i64 sum_columns = 64;

/// sums[c] += sum over rows of term(row, c); f(row, first, n, out, buffer) writes n terms of a row. Rows are added
/// in ascending order. A worker's memory holds 3 * sum_columns numbers.
template <class T, class B, class F>
void add_column_sums(B const& backend, i64 rows, i64 columns, WorkerScratch<T> const& workers, T* sums,
                     F const& f) {
  auto const& k = backend.kernels();
  backend.parallel((columns + sum_columns - 1) / sum_columns, [&](i64 task, int worker) {
    i64 const first = task * sum_columns;
    i64 const n = std::min(sum_columns, columns - first);
    T* const buffer = workers.of(worker);
    for (i64 row = 0; row < rows; ++row) {
      f(row, first, n, buffer, buffer + sum_columns);
      k.axpy(n, T{1}, buffer, sums + first);
    }
  });
}

/// dx (+)= r (m - r^2 x mean(m x)), where m = dy w is in `m`. x and dx may be the same array only if not adding.
template <class T>
void rms_norm_gradient(KernelTable<T> const& k, i64 n, T r, T const* x, T const* m, bool add, T* dx) {
  T const mean = k.dot(n, m, x) / static_cast<T>(n);
  T const along = r * r * r * mean;
  for (i64 i = 0; i < n; ++i) {
    T const value = r * m[i] - along * x[i];
    dx[i] = add ? dx[i] + value : value;
  }
}

template <class T> T inverse_rms(KernelTable<T> const& k, i64 n, T eps, T const* x) {
  return T{1} / std::sqrt(k.sum_squares(n, x) / static_cast<T>(n) + eps);
}

/// What the backward of a norm over whole rows needs: 1 / rms of every row, two rows per worker.
template <class T> struct NormMemory {
  T* inverse = nullptr;
  WorkerScratch<T> workers;
};
template <class B> NormMemory<scalar_of<B>> norm_memory(Context<B>& ctx, i64 rows, i64 width) {
  using T = scalar_of<B>;
  return {static_cast<T*>(ctx.scratch_bytes(rows * static_cast<i64>(sizeof(T)))),
          worker_scratch(ctx, std::max(2 * width, 3 * sum_columns))};
}

template <class B>
void rms_norm_backward(Context<B>& ctx, double eps, NormMemory<scalar_of<B>> const& memory, Slot const& weight,
                       View const& x, View const& dy, View const& dx, Slot const& dweight, bool add) {
  using T = scalar_of<B>;
  auto const& k = ctx.backend().kernels();
  i64 const n = x.width();
  parallel_rows(ctx.backend(), x.tokens(), n, [&](i64 first, i64 last, int worker) {
    T* const buffer = memory.workers.of(worker);
    for (i64 t = first; t < last; ++t) {
      T const* in = load_row(k, x.dtype, x.row_bytes(t), n, buffer + n);
      T const r = inverse_rms(k, n, static_cast<T>(eps), in);
      memory.inverse[t] = r;
      if (dx && !dweight) {  // dy may be dx, so the weight's gradient must come first when there is one
        k.mul_scale(n, T{1}, dy.row<T>(t), weight.as<T>(), buffer);
        rms_norm_gradient(k, n, r, in, buffer, add, dx.row<T>(t));
      }
    }
  });
  if (!dweight) {
    return;
  }
  add_column_sums(ctx.backend(), x.tokens(), n, memory.workers, dweight.as<T>(),
                  [&](i64 t, i64 first, i64 count, T* out, T* buffer) {
                    T const* in = load_row(k, x.dtype, x.columns(first, count).row_bytes(t), count, buffer);
                    k.mul_scale(count, memory.inverse[t], in, dy.row<T>(t) + first, out);
                  });
  if (dx) {
    rms_norm_backward(ctx, eps, memory, weight, x, dy, dx, Slot{}, add);
  }
}

}  // namespace cpu

template <> struct Kernel<op::Backward<op::RmsNorm>, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::Backward<op::RmsNorm> const&, Slot const&, View const& x, View const&,
                      View const&, Slot const&) {
    return cpu::norm_memory(ctx, x.tokens(), x.width());
  }
  template <class B, class M>
  static void run(Context<B>& ctx, op::Backward<op::RmsNorm> const& op, M const& memory, Slot const& weight,
                  View const& x, View const& dy, View const& dx, Slot const& dweight) {
    cpu::rms_norm_backward(ctx, op.forward.eps, memory, weight, x, dy, dx, dweight, false);
  }
};

template <> struct Kernel<op::Backward<op::AddRmsNorm>, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::Backward<op::AddRmsNorm> const&, Slot const&, View const& x, View const&,
                      View const&, Slot const&) {
    return cpu::norm_memory(ctx, x.tokens(), x.width());
  }
  template <class B, class M>
  static void run(Context<B>& ctx, op::Backward<op::AddRmsNorm> const& op, M const& memory, Slot const& weight,
                  View const& x, View const& dy, View const& dx, Slot const& dweight) {
    cpu::rms_norm_backward(ctx, op.forward.eps, memory, weight, x, dy, dx, dweight, true);
  }
};

template <> struct Kernel<op::Backward<op::HeadNorm>, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::Backward<op::HeadNorm> const& op, Slot const&, View const& x,
                      View const&, Slot const&) {
    return cpu::norm_memory(ctx, x.tokens() * op.forward.heads, op.forward.head);
  }
  template <class B, class M>
  static void run(Context<B>& ctx, op::Backward<op::HeadNorm> const& op, M const& memory, Slot const& weight,
                  View const& x, View const& dx, Slot const& dweight) {
    // a head is a row: rows of q and k are dense
    i64 const heads = op.forward.heads, head = op.forward.head;
    JET_ASSERT(x.stride[0] == heads * head && dx.stride[0] == heads * head);
    View const rows(x.data, x.dtype, Shape{x.tokens() * heads, head});
    View const to(dx.data, dx.dtype, Shape{x.tokens() * heads, head});
    cpu::rms_norm_backward(ctx, op.forward.eps, memory, weight, rows, to, to, dweight, false);
  }
};

template <> struct Kernel<op::Backward<op::L2Norm>, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::Backward<op::L2Norm> const& op, View const&, View const&) {
    return cpu::worker_scratch(ctx, 2 * op.forward.heads * op.forward.head);
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::Backward<op::L2Norm> const& op, S const& memory, View const& x,
                  View const& dx) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const heads = op.forward.heads, head = op.forward.head;
    i64 const n = heads * head;
    cpu::parallel_rows(ctx.backend(), x.tokens(), 2 * n, [&](i64 first, i64 last, int worker) {
      T* const buffer = memory.of(worker);
      for (i64 t = first; t < last; ++t) {
        T const* in = x.row<T>(t);
        if (op.forward.silu) {
          k.silu(n, in, buffer);
          in = buffer;
        }
        for (i64 h = 0; h < heads; ++h) {
          T const* y = in + h * head;
          T* const d = dx.row<T>(t) + h * head;
          T const r = T{1} / std::sqrt(k.sum_squares(head, y) + static_cast<T>(op.forward.eps));
          T const along = -r * r * k.dot(head, y, d);
          k.axpy(head, along, y, d);
          k.scale(head, r, d, d);
        }
        if (op.forward.silu) {
          cpu::silu_slope(k, n, x.row<T>(t), buffer, buffer + n);
          cpu::multiply(n, buffer + n, dx.row<T>(t));
        }
      }
    });
  }
};

template <> struct Kernel<op::Backward<op::GatedRmsNorm>, tag::cpu> {
  template <class T> struct Memory {
    T* inverse = nullptr;  // [tokens, heads]
    cpu::WorkerScratch<T> workers;
  };
  template <class B>
  static Memory<cpu::scalar_of<B>> scratch(Context<B>& ctx, op::Backward<op::GatedRmsNorm> const& op, Slot const&,
                                           View const& x, View const&, View const&, View const&, View const&,
                                           Slot const&) {
    using T = cpu::scalar_of<B>;
    i64 const n = op.forward.heads * op.forward.head;
    return {static_cast<T*>(ctx.scratch_bytes(x.tokens() * op.forward.heads * static_cast<i64>(sizeof(T)))),
            cpu::worker_scratch(ctx, std::max(5 * n, 3 * cpu::sum_columns))};
  }
  template <class B, class M>
  static void run(Context<B>& ctx, op::Backward<op::GatedRmsNorm> const& op, M const& memory, Slot const& weight,
                  View const& x, View const& z, View const& dy, View const& dx, View const& dz,
                  Slot const& dweight) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const heads = op.forward.heads, head = op.forward.head;
    i64 const n = heads * head;
    bool const gate_first = op.forward.gate_first;
    T const eps = static_cast<T>(op.forward.eps);
    cpu::parallel_rows(ctx.backend(), x.tokens(), 4 * n, [&](i64 first, i64 last, int worker) {
      T* const gate = memory.workers.of(worker);  // silu(z)
      T* const slope = gate + n;                  // silu'(z)
      T* const normed = slope + n;                // what is normalised, in `gate_first` order
      T* const m = normed + n;
      T* const sigmoid = m + n;
      for (i64 t = first; t < last; ++t) {
        T const* const in = x.row<T>(t);
        T const* const d = dy.row<T>(t);
        T* const to = dx.row<T>(t);
        T* const to_gate = dz.row<T>(t);
        k.silu(n, z.row<T>(t), gate);
        cpu::silu_slope(k, n, z.row<T>(t), sigmoid, slope);
        T const* u = in;
        if (gate_first) {
          k.mul_scale(n, T{1}, in, gate, normed);
          u = normed;
        }
        for (i64 h = 0; h < heads; ++h) {
          i64 const at = h * head;
          T const* const w = weight.as<T>() + (gate_first ? at : 0);
          T const r = cpu::inverse_rms(k, head, eps, u + at);
          memory.inverse[t * heads + h] = r;
          k.mul_scale(head, T{1}, d + at, w, m + at);
          if (gate_first) {  // to = the gradient of x silu(z)
            cpu::rms_norm_gradient(k, head, r, u + at, m + at, false, to + at);
          } else {
            k.mul_scale(head, r, m + at, in + at, to_gate + at);  // dy n / silu(z)
            cpu::multiply(head, gate + at, m + at);
            cpu::rms_norm_gradient(k, head, r, in + at, m + at, false, to + at);
          }
        }
        if (gate_first) {
          k.mul_scale(n, T{1}, to, in, to_gate);
          cpu::multiply(n, gate, to);
        }
        cpu::multiply(n, slope, to_gate);
      }
    });
    if (!dweight) {
      return;
    }
    // gate_first has a weight per channel; otherwise all heads share one, and a head is a row of the sum
    i64 const rows = gate_first ? x.tokens() : x.tokens() * heads;
    cpu::add_column_sums(ctx.backend(), rows, gate_first ? n : head, memory.workers, dweight.as<T>(),
                         [&](i64 row, i64 first, i64 count, T* out, T* gate) {
                           i64 const t = gate_first ? row : row / heads;
                           i64 const at = gate_first ? first : row % heads * head + first;
                           k.silu(count, z.row<T>(t) + at, gate);
                           k.mul_scale(count, T{1}, x.row<T>(t) + at, gate, out);
                           cpu::multiply(count, dy.row<T>(t) + at, out);
                           for (i64 i = 0; i < count; ++i) {
                             out[i] *= memory.inverse[t * heads + (at + i) / head];
                           }
                         });
  }
};

JET_NAMESPACE_END
