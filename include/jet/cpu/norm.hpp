/// \file
/// Norms on the CPU: one row at a time, statistics at the accumulation type.
#pragma once

#include <cmath>

#include <jet/cpu/rows.hpp>
#include <jet/op/norm.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

/// y = w * x / sqrt(mean(x^2) + eps)
template <class T> void rms_norm_row(KernelTable<T> const& k, i64 n, T eps, T const* x, T const* w, T* y) {
  T const r = T{1} / std::sqrt(k.sum_squares(n, x) / static_cast<T>(n) + eps);
  k.mul_scale(n, r, x, w, y);
}

/// Row t of y = norm of row t of x, of any storage type; buffer holds two rows.
template <class T>
void rms_norm_row(KernelTable<T> const& k, T eps, T const* w, View const& x, View const& y, i64 t, T* buffer) {
  i64 const n = x.width();
  T const* in = load_row(k, x.dtype, x.row_bytes(t), n, buffer);
  T* const out = row_target(y.dtype, y.row_bytes(t), buffer + n);
  rms_norm_row(k, n, eps, in, w, out);
  store_row(k, y.dtype, out, n, y.row_bytes(t));
}

/// Row t of x += row t of delta, of any storage types; buffer holds two rows.
template <class T> void add_row(KernelTable<T> const& k, View const& delta, View const& x, i64 t, T* buffer) {
  i64 const n = x.width();
  T const* d = load_row(k, delta.dtype, delta.row_bytes(t), n, buffer);
  T const* in = load_row(k, x.dtype, x.row_bytes(t), n, buffer + n);
  T* const sum = row_target(x.dtype, x.row_bytes(t), buffer + n);
  k.add(n, in, d, sum);
  store_row(k, x.dtype, sum, n, x.row_bytes(t));
}

}  // namespace cpu

template <> struct Kernel<op::RmsNorm, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::RmsNorm const&, Slot const&, View const& x, View const&) {
    return cpu::worker_scratch(ctx, 2 * x.width());
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::RmsNorm const& op, S const& memory, Slot const& weight, View const& x,
                  View const& y) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const n = x.width();
    cpu::parallel_rows(ctx.backend(), x.tokens(), n, [&](i64 first, i64 last, int worker) {
      T* const buffer = memory.of(worker);
      for (i64 t = first; t < last; ++t) {
        cpu::rms_norm_row(k, static_cast<T>(op.eps), weight.as<T>(), x, y, t, buffer);
      }
    });
  }
};

template <> struct Kernel<op::LayerNorm, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::LayerNorm const&, Slot const&, Slot const&, View const& x, View const&) {
    return cpu::worker_scratch(ctx, 2 * x.width());
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::LayerNorm const& op, S const& memory, Slot const& weight, Slot const& bias,
                  View const& x, View const& y) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const n = x.width();
    T const* const w = weight.as<T>();
    T const* const b = bias.as<T>();
    cpu::parallel_rows(ctx.backend(), x.tokens(), n, [&](i64 first, i64 last, int worker) {
      for (i64 t = first; t < last; ++t) {
        T* const buffer = memory.of(worker);
        T const* const in = cpu::load_row(k, x.dtype, x.row_bytes(t), n, buffer);
        T mean = 0;
        for (i64 i = 0; i < n; ++i) {
          mean += in[i];
        }
        mean /= static_cast<T>(n);
        for (i64 i = 0; i < n; ++i) {
          buffer[i] = in[i] - mean;
        }
        T const r = T{1} / std::sqrt(k.sum_squares(n, buffer) / static_cast<T>(n) + static_cast<T>(op.eps));
        T* const out = cpu::row_target(y.dtype, y.row_bytes(t), buffer + n);
        for (i64 i = 0; i < n; ++i) {
          out[i] = buffer[i] * r * w[i] + b[i];
        }
        cpu::store_row(k, y.dtype, out, n, y.row_bytes(t));
      }
    });
  }
};

template <> struct Kernel<op::Add, tag::cpu> {
  template <class B> static auto scratch(Context<B>& ctx, op::Add const&, View const& delta, View const&) {
    return cpu::worker_scratch(ctx, 2 * delta.width());
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::Add const&, S const& memory, View const& delta, View const& x) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const n = x.width();
    cpu::parallel_rows(ctx.backend(), x.tokens(), n, [&](i64 first, i64 last, int worker) {
      T* const buffer = memory.of(worker);
      for (i64 t = first; t < last; ++t) {
        cpu::add_row(k, delta, x, t, buffer);
      }
    });
  }
};

template <> struct Kernel<op::AddRmsNorm, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::AddRmsNorm const&, Slot const&, View const& delta, View const&,
                      View const&) {
    return cpu::worker_scratch(ctx, 2 * delta.width());
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::AddRmsNorm const& op, S const& memory, Slot const& weight, View const& delta,
                  View const& x, View const& y) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const n = x.width();
    cpu::parallel_rows(ctx.backend(), x.tokens(), n, [&](i64 first, i64 last, int worker) {
      T* const buffer = memory.of(worker);
      for (i64 t = first; t < last; ++t) {
        cpu::add_row(k, delta, x, t, buffer);
        // the norm sees the stored sum, so that adding and normalising in two steps gives the same bits
        cpu::rms_norm_row(k, static_cast<T>(op.eps), weight.as<T>(), x, y, t, buffer);
      }
    });
  }
};

template <> struct Kernel<op::HeadNorm, tag::cpu> {
  template <class B> static void run(Context<B>& ctx, op::HeadNorm const& op, Slot const& weight, View const& x) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    cpu::parallel_rows(ctx.backend(), x.tokens(), x.width(), [&](i64 first, i64 last, int) {
      for (i64 t = first; t < last; ++t) {
        for (i64 h = 0; h < op.heads; ++h) {
          T* row = x.row<T>(t) + h * op.head;
          cpu::rms_norm_row(k, op.head, static_cast<T>(op.eps), row, weight.as<T>(), row);
        }
      }
    });
  }
};

template <> struct Kernel<op::L2Norm, tag::cpu> {
  template <class B> static void run(Context<B>& ctx, op::L2Norm const& op, View const& x) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    cpu::parallel_rows(ctx.backend(), x.tokens(), x.width(), [&](i64 first, i64 last, int) {
      for (i64 t = first; t < last; ++t) {
        T* row = x.row<T>(t);
        if (op.silu) {
          k.silu(op.heads * op.head, row, row);
        }
        for (i64 h = 0; h < op.heads; ++h, row += op.head) {
          k.scale(op.head, T{1} / std::sqrt(k.sum_squares(op.head, row) + static_cast<T>(op.eps)), row, row);
        }
      }
    });
  }
};

template <> struct Kernel<op::GatedRmsNorm, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::GatedRmsNorm const& op, Slot const&, View const&, View const&,
                      View const&) {
    return cpu::worker_scratch(ctx, 2 * op.heads * op.head);
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::GatedRmsNorm const& op, S const& memory, Slot const& weight, View const& x,
                  View const& z, View const& y) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const n = op.heads * op.head;
    T const eps = static_cast<T>(op.eps);
    cpu::parallel_rows(ctx.backend(), x.tokens(), n, [&](i64 first, i64 last, int worker) {
      T* const buffer = memory.of(worker);
      for (i64 t = first; t < last; ++t) {
        T* const out = cpu::row_target(y.dtype, y.row_bytes(t), buffer + n);
        T const* in = x.row<T>(t);
        if (op.gate_first) {
          k.silu_mul(n, z.row<T>(t), in, buffer);
          in = buffer;
        }
        for (i64 h = 0; h < op.heads; ++h) {
          T const* w = weight.as<T>() + (op.gate_first ? h * op.head : 0);
          cpu::rms_norm_row(k, op.head, eps, in + h * op.head, w, out + h * op.head);
        }
        if (!op.gate_first) {
          k.silu_mul(n, z.row<T>(t), out, out);
        }
        cpu::store_row(k, y.dtype, out, n, y.row_bytes(t));
      }
    });
  }
};

JET_NAMESPACE_END
