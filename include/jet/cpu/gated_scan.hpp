/// \file
/// The scan of the linear-attention family on the CPU. A task is one head of one sequence. Many tokens go through
/// chunks of 64 (matrix products; Gated DeltaNet, arXiv 2412.06464, section 3.3; vector decays as in GLA,
/// 2312.06635, section 4.3), few through the recurrence. Decay and update are the op's compile-time parameters;
/// everything else is shared by the whole family.
///
/// With gamma the cumulative log decay inside a chunk, S the state at its start:
///   (I + A) U = diag(beta) (V - diag(e^gamma) K S),  A = diag(beta) stril(K K^T * D),  D_ij = e^(gamma_i -
///   gamma_j) O = scale (diag(e^gamma) Q S + tril(Q K^T * D) U) S' = e^gamma_C S + (diag(e^(gamma_C - gamma)) K)^T
///   U
/// An additive update has U = diag(beta) V. With a decay per channel, e^gamma multiplies element by element and the
/// two C x C products are formed in blocks of 16 rows around an anchor, so that no exponent is positive.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include <jet/cpu/rows.hpp>
#include <jet/op/gated_scan.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

inline constexpr i64 scan_chunk = saved_chunk;
inline constexpr i64 scan_block = 16;  // of the triangular solve and of vector decays
inline constexpr i64 scan_few = 16;    // up to this many tokens the recurrence is used

/// Type of cumulative log decays. Only differences of them matter, and after a few strong gates (-100) float has
/// lost the small ones; one sum per token is cheap enough in double.
template <class T, op::ScanShape C> using ScanSum = std::conditional_t<C.decay == op::Decay::head, double, T>;

/// One head of one sequence: rows of q, k, v, g, beta, o with their strides.
template <class T> struct ScanRows {
  T const* q;
  T const* k;
  T const* v;
  T const* g;     // null: no decay
  T const* beta;  // null: 1
  T* o;
  i64 q_stride, k_stride, v_stride, g_stride, beta_stride, o_stride;
};

/// Scratch of a worker.
template <class T, op::ScanShape C> struct ScanScratch {
  static constexpr i64 n = scan_chunk;
  static constexpr i64 decay_n = C.decay == op::Decay::channel ? n * C.head_k : 0;
  static constexpr i64 size = C.head_k * C.head_v + n * C.head_v + 2 * n * C.head_k + 2 * n * n + decay_n +
                              C.head_k + 2 * scan_block * C.head_k + n * C.head_k;
  T* state;     // [head_k, head_v], when the slot's dtype is another
  T* u;         // [n, head_v]
  T* left;      // [n, head_k] decayed queries or keys
  T* right;     // [n, head_k]
  T* a;         // [n, n]
  T* p;         // [n, n]
  T* gamma;     // [n, head_k] cumulative log decays, vector decays only
  T* decay;     // [head_k] multipliers of one step
  T* anchored;  // [block + n, head_k] and [block, head_k], vector decays only

  explicit ScanScratch(T* m) {
    auto take = [&](i64 count) {
      T* const at = m;
      m += count;
      return at;
    };
    state = take(C.head_k * C.head_v);
    u = take(n * C.head_v);
    left = take(n * C.head_k);
    right = take(n * C.head_k);
    a = take(n * n);
    p = take(n * n);
    gamma = take(decay_n);
    decay = take(C.head_k);
    anchored = take(2 * scan_block * C.head_k + n * C.head_k);
  }
};

/// Token by token.
template <op::ScanShape C, class T>
void scan_recurrent(KernelTable<T> const& k, ScanRows<T> const& r, i64 tokens, T scale, T* state,
                    ScanScratch<T, C> const& m) {
  ScanStep<T> step;
  step.head_k = C.head_k;
  step.head_v = C.head_v;
  step.state = state;
  step.decay = m.decay;
  step.decay_channel = C.decay == op::Decay::channel;
  step.delta = C.update == op::Update::delta;
  step.scale = scale;
  step.u = m.u;
  m.decay[0] = 1;
  for (i64 t = 0; t < tokens; ++t) {
    if constexpr (C.decay == op::Decay::head) {
      m.decay[0] = std::exp(r.g[t * r.g_stride]);
    } else if constexpr (C.decay == op::Decay::channel) {
      k.exp(C.head_k, r.g + t * r.g_stride, m.decay);
    }
    step.q = r.q + t * r.q_stride;
    step.k = r.k + t * r.k_stride;
    step.v = r.v + t * r.v_stride;
    step.beta = r.beta != nullptr ? r.beta[t * r.beta_stride] : T{1};
    step.o = r.o + t * r.o_stride;
    k.scan_step(step);
  }
}

/// Decays of one token: 0, 1 or head_k.
template <op::ScanShape C>
inline constexpr i64 scan_decays = C.decay == op::Decay::channel ? C.head_k
                                   : C.decay == op::Decay::head  ? 1
                                                                 : 0;

/// gamma[i, :] = sum of g over rows up to i.
template <op::ScanShape C, class T> void scan_sums(ScanRows<T> const& r, i64 n, ScanSum<T, C>* gamma) {
  constexpr i64 decays = scan_decays<C>;
  for (i64 d = 0; d < decays; ++d) {
    ScanSum<T, C> sum = 0;
    for (i64 i = 0; i < n; ++i) {
      sum += r.g[i * r.g_stride + d];
      gamma[i * decays + d] = sum;
    }
  }
}

/// The scale of the query.
template <class T, op::ScanShape C> T scan_scale() {
  return static_cast<T>(C.scale != 0 ? C.scale : 1.0 / std::sqrt(static_cast<double>(C.head_k)));
}

/// to[i, :] = factor_i * e^(gamma_i) from[i, :], with gamma per row or per element.
template <op::ScanShape C, class T>
void scan_decayed(KernelTable<T> const& k, i64 n, T factor, T const* from, i64 stride, ScanSum<T, C> const* gamma,
                  T* to) {
  for (i64 i = 0; i < n; ++i) {
    T* const row = to + i * C.head_k;
    if constexpr (C.decay == op::Decay::none) {
      k.scale(C.head_k, factor, from + i * stride, row);
    } else if constexpr (C.decay == op::Decay::head) {
      k.scale(C.head_k, factor * std::exp(static_cast<T>(gamma[i])), from + i * stride, row);
    } else {
      k.exp(C.head_k, gamma + i * C.head_k, row);
      k.mul_scale(C.head_k, factor, from + i * stride, row, row);
    }
  }
}

/// out[i, j] = factor sum_d x[i, d] y[j, d] e^(gamma_id - gamma_jd) for j <= i; what lies above is left undefined.
template <op::ScanShape C, class T>
void scan_product(KernelTable<T> const& k, i64 n, T factor, T const* x, i64 x_stride, T const* y, i64 y_stride,
                  ScanSum<T, C> const* gamma, T* anchored, T* out) {
  GemmNt<T> g;
  g.k = C.head_k;
  g.alpha = factor;
  g.ldc = scan_chunk;
  if constexpr (C.decay != op::Decay::channel) {
    g.m = n;
    g.n = n;
    g.a = x;
    g.lda = x_stride;
    g.b = y;
    g.ldb = y_stride;
    g.c = out;
    k.gemm_nt[0][0][0](g);
    if constexpr (C.decay == op::Decay::head) {
      for (i64 i = 0; i < n; ++i) {
        T* const row = out + i * scan_chunk;
        for (i64 j = 0; j <= i; ++j) {
          row[j] *= std::exp(static_cast<T>(gamma[i] - gamma[j]));
        }
      }
    }
  } else {
    T* const xs = anchored;                          // [block, head_k]
    T* const ys = anchored + scan_block * C.head_k;  // [n, head_k]
    for (i64 i0 = 0; i0 < n; i0 += scan_block) {
      i64 const rows = std::min(scan_block, n - i0);
      if (i0 > 0) {  // everything left of the diagonal block, around the last row before it
        T const* anchor = gamma + (i0 - 1) * C.head_k;
        for (i64 i = 0; i < rows; ++i) {
          for (i64 d = 0; d < C.head_k; ++d) {
            xs[i * C.head_k + d] =
                x[(i0 + i) * x_stride + d] * std::exp(gamma[(i0 + i) * C.head_k + d] - anchor[d]);
          }
        }
        for (i64 j = 0; j < i0; ++j) {
          for (i64 d = 0; d < C.head_k; ++d) {
            ys[j * C.head_k + d] = y[j * y_stride + d] * std::exp(anchor[d] - gamma[j * C.head_k + d]);
          }
        }
        g.m = rows;
        g.n = i0;
        g.a = xs;
        g.lda = C.head_k;
        g.b = ys;
        g.ldb = C.head_k;
        g.c = out + i0 * scan_chunk;
        k.gemm_nt[0][0][0](g);
      }
      for (i64 i = i0; i < i0 + rows; ++i) {
        for (i64 j = i0; j <= i; ++j) {
          T sum = 0;
          for (i64 d = 0; d < C.head_k; ++d) {
            sum += x[i * x_stride + d] * y[j * y_stride + d] *
                   std::exp(gamma[i * C.head_k + d] - gamma[j * C.head_k + d]);
          }
          out[i * scan_chunk + j] = factor * sum;
        }
      }
    }
  }
}

/// One chunk of n <= 64 tokens.
template <op::ScanShape C, class T>
void scan_one_chunk(KernelTable<T> const& k, ScanRows<T> const& r, i64 n, T scale, T* state,
                    ScanScratch<T, C> const& m) {
  constexpr i64 dk = C.head_k;
  constexpr i64 dv = C.head_v;
  constexpr i64 decays = scan_decays<C>;
  auto const beta = [&](i64 i) { return r.beta != nullptr ? r.beta[i * r.beta_stride] : T{1}; };

  ScanSum<T, C> sums[scan_chunk] = {};
  ScanSum<T, C>* gamma = sums;
  if constexpr (C.decay == op::Decay::channel) {
    gamma = m.gamma;
  }
  scan_sums<C>(r, n, gamma);

  GemmNn<T> g;
  // U = diag(beta) (V - diag(e^gamma) K S)
  for (i64 i = 0; i < n; ++i) {
    k.scale(dv, beta(i), r.v + i * r.v_stride, m.u + i * dv);
  }
  if constexpr (C.update == op::Update::delta) {
    scan_decayed<C>(k, n, T{1}, r.k, r.k_stride, gamma, m.left);
    for (i64 i = 0; i < n; ++i) {
      k.scale(dk, beta(i), m.left + i * dk, m.left + i * dk);
    }
    g = {n, dv, dk, m.left, dk, 1, state, dv, m.u, dv, T{-1}, T{1}};
    k.gemm_nn[0](g);
    // (I + A) U = ..., by forward substitution over blocks of rows
    scan_product<C>(k, n, T{1}, r.k, r.k_stride, r.k, r.k_stride, gamma, m.anchored, m.a);
    for (i64 i = 0; i < n; ++i) {
      k.scale(i, beta(i), m.a + i * scan_chunk, m.a + i * scan_chunk);
    }
    for (i64 i0 = 0; i0 < n; i0 += scan_block) {
      i64 const rows = std::min(scan_block, n - i0);
      if (i0 > 0) {
        g = {rows, dv, i0, m.a + i0 * scan_chunk, scan_chunk, 1, m.u, dv, m.u + i0 * dv, dv, T{-1}, T{1}};
        k.gemm_nn[0](g);
      }
      for (i64 i = i0 + 1; i < i0 + rows; ++i) {
        for (i64 j = i0; j < i; ++j) {
          k.axpy(dv, -m.a[i * scan_chunk + j], m.u + j * dv, m.u + i * dv);
        }
      }
    }
  }

  // O = scale (diag(e^gamma) Q S + tril(Q K^T * D) U)
  scan_product<C>(k, n, scale, r.q, r.q_stride, r.k, r.k_stride, gamma, m.anchored, m.p);
  for (i64 i = 0; i < n; ++i) {
    std::fill(m.p + i * scan_chunk + i + 1, m.p + i * scan_chunk + n, T{0});
  }
  scan_decayed<C>(k, n, scale, r.q, r.q_stride, gamma, m.left);
  g = {n, dv, dk, m.left, dk, 1, state, dv, r.o, r.o_stride, T{1}, T{0}};
  k.gemm_nn[0](g);
  g = {n, dv, n, m.p, scan_chunk, 1, m.u, dv, r.o, r.o_stride, T{1}, T{1}};
  k.gemm_nn[0](g);

  // S' = e^gamma_C S + (diag(e^(gamma_C - gamma)) K)^T U
  T keep = 1;
  if constexpr (C.decay == op::Decay::none) {
    scan_decayed<C>(k, n, T{1}, r.k, r.k_stride, gamma, m.right);
  } else {
    ScanSum<T, C> const* last = gamma + (n - 1) * decays;
    if constexpr (C.decay == op::Decay::head) {
      keep = std::exp(static_cast<T>(last[0]));
    } else {
      for (i64 d = 0; d < dk; ++d) {
        k.scale(dv, std::exp(last[d]), state + d * dv, state + d * dv);
      }
    }
    for (i64 i = 0; i < n; ++i) {  // the last row last
      for (i64 d = 0; d < decays; ++d) {
        gamma[i * decays + d] = last[d] - gamma[i * decays + d];
      }
    }
    scan_decayed<C>(k, n, T{1}, r.k, r.k_stride, gamma, m.right);
  }
  g = {dk, dv, n, m.right, 1, dk, m.u, dv, state, dv, T{1}, keep};
  k.gemm_nn[0](g);
}

}  // namespace cpu

template <op::ScanShape C> struct Kernel<op::GatedScan<C>, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::GatedScan<C> const&, View const&, View const&, View const&, View const&,
                      View const&, Slot const&, View const&, View const& = {}) {
    return cpu::worker_scratch(ctx, cpu::ScanScratch<cpu::scalar_of<B>, C>::size);
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::GatedScan<C> const&, S const& memory, View const& q, View const& k,
                  View const& v, View const& g, View const& beta, Slot const& state, View const& o,
                  View const& states = {}) {
    using T = cpu::scalar_of<B>;
    constexpr i64 dk = C.head_k;
    constexpr i64 dv = C.head_v;
    constexpr i64 decays = C.decay == op::Decay::channel ? dk : 1;
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
      auto const at = [&](View const& x, i64 width, i64 first) {
        return x ? x.row<T>(seq.begin + first) + h * width : nullptr;
      };
      i64 const step = seq.tokens <= cpu::scan_few ? seq.tokens : cpu::scan_chunk;
      for (i64 first = 0; first < seq.tokens; first += step) {
        i64 const n = std::min(step, seq.tokens - first);
        if (states) {
          i64 const chunk = first_saved_chunk(ctx.batch(), seq.index) + first / cpu::scan_chunk;
          std::copy_n(s, dk * dv, states.row<T>(chunk) + h * dk * dv);
        }
        cpu::ScanRows<T> const rows{at(q, dk, first),   at(k, dk, first), at(v, dv, first), at(g, decays, first),
                                    at(beta, 1, first), at(o, dv, first), q.stride[0],      k.stride[0],
                                    v.stride[0],        g.stride[0],      beta.stride[0],   o.stride[0]};
        if (n <= cpu::scan_few) {
          cpu::scan_recurrent<C>(table, rows, n, scale, s, m);
        } else {
          cpu::scan_one_chunk<C>(table, rows, n, scale, s, m);
        }
      }
      if (state) {
        cpu::store_state(state.dtype, s, dk * dv, slot);
      }
    });
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
