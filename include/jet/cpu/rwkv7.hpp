/// \file
/// RWKV-7's operations on the CPU.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include <jet/cpu/gated_scan.hpp>
#include <jet/cpu/rows.hpp>
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

namespace cpu {

/// Beside ScanRows, whose beta is not used: the rows of a and b.
template <class T> struct GeneralDeltaRows : ScanRows<T> {
  T const* a;
  T const* b;
  i64 a_stride, b_stride;
};

/// Token by token.
template <op::ScanShape C, class T>
void general_delta_recurrent(KernelTable<T> const& k, GeneralDeltaRows<T> const& r, i64 tokens, T scale, T* state,
                             ScanScratch<T, C> const& m) {
  constexpr i64 dk = C.head_k;
  constexpr i64 dv = C.head_v;
  for (i64 t = 0; t < tokens; ++t) {
    T const* const removal = r.a + t * r.a_stride;
    T const* const replacement = r.b + t * r.b_stride;
    T const* const write = r.k + t * r.k_stride;
    T const* const read = r.q + t * r.q_stride;
    T const* const value = r.v + t * r.v_stride;
    T* const out = r.o + t * r.o_stride;
    k.exp(dk, r.g + t * r.g_stride, m.decay);
    std::fill_n(m.u, dv, T{0});
    for (i64 i = 0; i < dk; ++i) {
      k.axpy(dv, removal[i], state + i * dv, m.u);
    }
    std::fill_n(out, dv, T{0});
    for (i64 i = 0; i < dk; ++i) {
      T* const row = state + i * dv;
      k.scale(dv, m.decay[i], row, row);
      k.axpy(dv, replacement[i], m.u, row);
      k.axpy(dv, write[i], value, row);
      k.axpy(dv, scale * read[i], row, out);
    }
  }
}

/// One chunk of n <= 64 tokens. With gamma the cumulative log decays, S the state at the chunk's start and D_ij =
/// e^(gamma_i - gamma_j) element by element, all lower triangles (a meets the state before its own decay, so rows
/// of a are one token later than those of D):
///   (I - tril(A B^T * D)) P = diag(e^gamma) A S + tril(A K^T * D) V
///   O  = scale (diag(e^gamma) Q S + tril(Q K^T * D) V + tril(Q B^T * D) P)
///   S' = e^gamma_C S + (diag(e^(gamma_C - gamma)) K)^T V + (diag(e^(gamma_C - gamma)) B)^T P
template <op::ScanShape C, class T>
void general_delta_chunk(KernelTable<T> const& k, GeneralDeltaRows<T> const& r, i64 n, T scale, T* state,
                         ScanScratch<T, C> const& m) {
  constexpr i64 dk = C.head_k;
  constexpr i64 dv = C.head_v;
  T* const gamma = m.gamma;
  scan_sums<C>(r, n, gamma);
  GemmNn<T> g;
  auto const clear_from = [&](T* matrix, i64 diagonal) {
    for (i64 i = 0; i < n; ++i) {
      std::fill(matrix + i * scan_chunk + std::min(n, i + diagonal), matrix + i * scan_chunk + n, T{0});
    }
  };
  auto const times = [&](i64 rows, T const* left, T const* values, i64 stride, T* to, i64 to_stride, T keep) {
    g = {rows, dv, n, left, scan_chunk, 1, values, stride, to, to_stride, T{1}, keep};
    k.gemm_nn[0](g);
  };

  // P, by forward substitution over blocks of rows
  T const* const next_a = r.a + r.a_stride;
  std::copy_n(r.a, dk, m.left);
  scan_decayed<C>(k, n - 1, T{1}, next_a, r.a_stride, gamma, m.left + dk);
  g = {n, dv, dk, m.left, dk, 1, state, dv, m.u, dv, T{1}, T{0}};
  k.gemm_nn[0](g);
  scan_product<C>(k, n - 1, T{1}, next_a, r.a_stride, r.k, r.k_stride, gamma, m.anchored, m.p + scan_chunk);
  clear_from(m.p, 0);
  times(n, m.p, r.v, r.v_stride, m.u, dv, T{1});
  scan_product<C>(k, n - 1, T{1}, next_a, r.a_stride, r.b, r.b_stride, gamma, m.anchored, m.a + scan_chunk);
  for (i64 i0 = 0; i0 < n; i0 += scan_block) {
    i64 const rows = std::min(scan_block, n - i0);
    if (i0 > 0) {
      g = {rows, dv, i0, m.a + i0 * scan_chunk, scan_chunk, 1, m.u, dv, m.u + i0 * dv, dv, T{1}, T{1}};
      k.gemm_nn[0](g);
    }
    for (i64 i = i0 + 1; i < i0 + rows; ++i) {
      for (i64 j = i0; j < i; ++j) {
        k.axpy(dv, m.a[i * scan_chunk + j], m.u + j * dv, m.u + i * dv);
      }
    }
  }

  // O
  scan_decayed<C>(k, n, scale, r.q, r.q_stride, gamma, m.left);
  g = {n, dv, dk, m.left, dk, 1, state, dv, r.o, r.o_stride, T{1}, T{0}};
  k.gemm_nn[0](g);
  scan_product<C>(k, n, scale, r.q, r.q_stride, r.k, r.k_stride, gamma, m.anchored, m.p);
  clear_from(m.p, 1);
  times(n, m.p, r.v, r.v_stride, r.o, r.o_stride, T{1});
  scan_product<C>(k, n, scale, r.q, r.q_stride, r.b, r.b_stride, gamma, m.anchored, m.p);
  clear_from(m.p, 1);
  times(n, m.p, m.u, dv, r.o, r.o_stride, T{1});

  // S'
  T const* const last = gamma + (n - 1) * dk;
  for (i64 d = 0; d < dk; ++d) {
    k.scale(dv, std::exp(last[d]), state + d * dv, state + d * dv);
  }
  for (i64 i = 0; i < n; ++i) {  // the last row last
    for (i64 d = 0; d < dk; ++d) {
      gamma[i * dk + d] = last[d] - gamma[i * dk + d];
    }
  }
  scan_decayed<C>(k, n, T{1}, r.k, r.k_stride, gamma, m.right);
  g = {dk, dv, n, m.right, 1, dk, r.v, r.v_stride, state, dv, T{1}, T{1}};
  k.gemm_nn[0](g);
  scan_decayed<C>(k, n, T{1}, r.b, r.b_stride, gamma, m.right);
  g = {dk, dv, n, m.right, 1, dk, m.u, dv, state, dv, T{1}, T{1}};
  k.gemm_nn[0](g);
}

}  // namespace cpu

template <op::ScanShape C> struct Kernel<op::GeneralDeltaScan<C>, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::GeneralDeltaScan<C> const&, View const&, View const&, View const&,
                      View const&, View const&, View const&, Slot const&, View const&) {
    return cpu::worker_scratch(ctx, cpu::ScanScratch<cpu::scalar_of<B>, C>::size);
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::GeneralDeltaScan<C> const&, S const& memory, View const& q, View const& k,
                  View const& v, View const& a, View const& b, View const& g, Slot const& state, View const& o) {
    using T = cpu::scalar_of<B>;
    constexpr i64 dk = C.head_k;
    constexpr i64 dv = C.head_v;
    auto const& table = ctx.backend().kernels();
    T const scale = cpu::scan_scale<T, C>();
    ctx.backend().parallel(ctx.seqs() * C.heads, [&](i64 task, int worker) {
      Sequence const seq = ctx.sequence(task / C.heads);
      i64 const h = task % C.heads;
      if (!seq.active() || seq.tokens == 0) {
        return;
      }
      cpu::ScanScratch<T, C> const m(memory.of(worker));
      T* s = m.state;
      char* slot = nullptr;
      if (state) {
        slot = static_cast<char*>(state.data) +
               (seq.slot * state.stride[0] + h * state.stride[1]) * size_of(state.dtype);
        s = cpu::load_state(state.dtype, slot, dk * dv, m.state);
      } else {
        std::fill_n(s, dk * dv, T{0});
      }
      for (i64 first = 0; first < seq.tokens; first += cpu::scan_chunk) {
        i64 const n = std::min(cpu::scan_chunk, seq.tokens - first);
        auto const at = [&](View const& x, i64 width) { return x.row<T>(seq.begin + first) + h * width; };
        cpu::GeneralDeltaRows<T> const rows{{at(q, dk), at(k, dk), at(v, dv), at(g, dk), nullptr, at(o, dv),
                                             q.stride[0], k.stride[0], v.stride[0], g.stride[0], 0, o.stride[0]},
                                            at(a, dk),
                                            at(b, dk),
                                            a.stride[0],
                                            b.stride[0]};
        if (n <= cpu::scan_few) {
          cpu::general_delta_recurrent<C>(table, rows, n, scale, s, m);
        } else {
          cpu::general_delta_chunk<C>(table, rows, n, scale, s, m);
        }
      }
      if (state) {
        cpu::store_state(state.dtype, s, dk * dv, slot);
      }
    });
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
