/// \file
/// RWKV-7's operations on the CPU.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include <jet/cpu/rows.hpp>
#include <jet/cpu/scan.hpp>
#include <jet/cpu/short_conv.hpp>
#include <jet/op/rwkv7.hpp>

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::TokenShift, tag::cpu> {
  static constexpr i64 rows = cpu::conv_tokens + 2;
  template <class B, std::size_t N>
  static auto scratch(Context<B>& ctx, op::TokenShift const&, View const&, Slot const&, std::array<Slot, N> const&,
                      std::array<View, N> const&) {
    return cpu::worker_scratch(ctx, rows * cpu::conv_channels);
  }
  template <class B, class S, std::size_t N>
  static void run(Context<B>& ctx, op::TokenShift const&, S const& memory, View const& x, Slot const& state,
                  std::array<Slot, N> const& mix, std::array<View, N> const& y) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    constexpr i64 seen = 2;  // the token and the one before it
    cpu::conv_tiles(ctx, x.width(),
                    [&](Sequence const& seq, i64 first, i64 count, i64 channel, i64 width, int worker) {
                      T* const window = memory.of(worker);
                      T* const buffer = window + (rows - 1) * cpu::conv_channels;
                      cpu::conv_window(k, seq, seen, first, count, channel, width, x, state, window);
                      for (std::size_t n = 0; n < N; ++n) {
                        T const* const m = mix[n].template as<T>() + channel;
                        View const out = y[n].columns(channel, width);
                        for (i64 t = 0; t < count; ++t) {
                          T const* const before = window + t * width;
                          T const* const now = before + width;
                          void* const to = out.row_bytes(seq.begin + first + t);
                          T* const row = cpu::row_target(out.dtype, to, buffer);
                          for (i64 c = 0; c < width; ++c) {
                            row[c] = now[c] + (before[c] - now[c]) * m[c];
                          }
                          cpu::store_row(k, out.dtype, row, width, to);
                        }
                      }
                    });
    cpu::conv_keep(ctx, seen, x, state);
  }
};

template <> struct Kernel<op::Interpolate, tag::cpu> {
  template <class B>
  static void run(Context<B>& ctx, op::Interpolate const&, View const& target, View const& weight, View const& x) {
    using T = cpu::scalar_of<B>;
    i64 const n = x.width();
    cpu::parallel_rows(ctx.backend(), x.tokens(), n, [&](i64 first, i64 last, int) {
      for (i64 t = first; t < last; ++t) {
        T const* const to = target.row<T>(t);
        T const* const w = weight.row<T>(t);
        T* const row = x.row<T>(t);
        for (i64 i = 0; i < n; ++i) {
          row[i] += w[i] * (to[i] - row[i]);
        }
      }
    });
  }
};

template <> struct Kernel<op::Rwkv7Keys, tag::cpu> {
  template <class B>
  static void run(Context<B>& ctx, op::Rwkv7Keys const& op, Slot const& k_k, Slot const& k_a, View const& a,
                  View const& k, View const& removal, View const& replacement) {
    using T = cpu::scalar_of<B>;
    auto const& table = ctx.backend().kernels();
    i64 const n = op.heads * op.head;
    cpu::parallel_rows(ctx.backend(), k.tokens(), 4 * n, [&](i64 first, i64 last, int) {
      for (i64 t = first; t < last; ++t) {
        T* const key = k.row<T>(t);
        T const* const rate = a.row<T>(t);
        T* const out = removal.row<T>(t);
        T* const in = replacement.row<T>(t);
        table.mul_scale(n, T{1}, key, k_k.as<T>(), out);
        for (i64 h = 0; h < op.heads; ++h) {
          T* const head = out + h * op.head;
          T const norm = std::sqrt(table.sum_squares(op.head, head));
          table.scale(op.head, T{-1} / (norm < T(1e-12) ? T(1e-12) : norm), head, head);
        }
        for (i64 i = 0; i < n; ++i) {
          in[i] = -out[i] * rate[i];
          key[i] *= 1 + (rate[i] - 1) * k_a.as<T>()[i];
        }
      }
    });
  }
};

template <op::ScanShape C> struct Kernel<op::GeneralDeltaScan<C>, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::GeneralDeltaScan<C> const&, View const&, View const&, View const&,
                      View const&, View const&, View const&, Slot const&, View const&) {
    return cpu::scan_scratch<C, true>(ctx);
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::GeneralDeltaScan<C> const&, S const& memory, View const& q, View const& k,
                  View const& v, View const& a, View const& b, View const& g, Slot const& state, View const& o) {
    cpu::scan<C, true>(ctx, memory, {.q = q, .k = k, .v = v, .g = g, .beta = {}, .o = o, .a = a, .b = b}, state);
  }
};

template <> struct Kernel<op::Rwkv7Output, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::Rwkv7Output const& op, Slot const&, Slot const&, Slot const&,
                      View const&, View const&, View const&, View const&, View const&, View const&) {
    return cpu::worker_scratch(ctx, op.heads * op.head);
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::Rwkv7Output const& op, S const& memory, Slot const& weight, Slot const& bias,
                  Slot const& r_k, View const& o, View const& r, View const& k, View const& v, View const& g,
                  View const& y) {
    using T = cpu::scalar_of<B>;
    auto const& table = ctx.backend().kernels();
    i64 const n = op.heads * op.head;
    auto const count = static_cast<T>(op.head);
    auto const eps = static_cast<T>(op.eps);
    cpu::parallel_rows(ctx.backend(), o.tokens(), 4 * n, [&](i64 first, i64 last, int worker) {
      T* const buffer = memory.of(worker);
      for (i64 t = first; t < last; ++t) {
        T* const out = cpu::row_target(y.dtype, y.row_bytes(t), buffer);
        T const* const gate = g.row<T>(t);
        for (i64 h = 0; h < op.heads; ++h) {
          i64 const at = h * op.head;
          T const* const in = o.row<T>(t) + at;
          T const* const read = r.row<T>(t) + at;
          T const* const key = k.row<T>(t) + at;
          T const* const value = v.row<T>(t) + at;
          T const* const w = weight.as<T>() + at;
          T const* const add = bias.as<T>() + at;
          T sum = 0;
          T own = 0;
          for (i64 i = 0; i < op.head; ++i) {
            sum += in[i];
            own += read[i] * key[i] * r_k.as<T>()[at + i];
          }
          T const mean = sum / count;
          T* const to = out + at;
          for (i64 i = 0; i < op.head; ++i) {
            to[i] = in[i] - mean;
          }
          T const scale = T{1} / std::sqrt(table.sum_squares(op.head, to) / count + eps);
          for (i64 i = 0; i < op.head; ++i) {
            to[i] = (w[i] * (scale * to[i]) + add[i] + own * value[i]) * gate[at + i];
          }
        }
        cpu::store_row(table, y.dtype, out, n, y.row_bytes(t));
      }
    });
  }
};

JET_NAMESPACE_END
