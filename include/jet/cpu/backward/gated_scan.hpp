/// \file
/// Backward of the scan on the CPU. A task is one head of one sequence; its chunks of 64 go in reverse, each from
/// the state that the forward saved at its start. With the letters of cpu/scan.hpp, dO and dS' the gradients
/// of the chunk's outputs and of the state after it, M = stril(K K^T * D), P = scale tril(Q K^T * D):
///   recomputed: (I + M diag(beta)) E = V - diag(e^gamma) K S ;  U = diag(beta) E
///   dU = P^T dO + diag(e^(gamma_C - gamma)) K dS' ;  (I + diag(beta) M)^T X = dU ;  dV = diag(beta) X
///   dbeta_i = x_i . e_i ;  N = scale tril(dO U^T) * D ;  Y = stril(dV U^T) * D
///   dQ = N K + scale diag(e^gamma) dO S^T
///   dK_write = N^T Q + diag(e^(gamma_C - gamma)) U dS'^T - Y^T K ;  dK_read = -diag(e^gamma) dV S^T - Y K
///   dS = e^gamma_C dS' + scale Q^T diag(e^gamma) dO - K^T diag(e^gamma) dV
///   dgamma_i = q_i . dq_i + k_i . dk_read_i - k_i . dk_write_i (+ <S', dS'> for the last)
///   dg_j = sum_i>=j dgamma_i
/// (Gated DeltaNet, arXiv 2412.06464; the adjoint solve X replaces the derivative of the inverse). An additive
/// update has E = V, X = dU and neither Y nor dK_read. With a decay per channel all decays multiply element by
/// element, and the products with a C x C matrix go token by token, as the recurrence does.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include <jet/core/saved.hpp>
#include <jet/cpu/rows.hpp>
#include <jet/cpu/scan.hpp>
#include <jet/op/gated_scan.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

/// One head of one chunk: gradients of its rows, with their strides.
template <class T> struct ScanGradientRows {
  T const* d_o;
  T* q;
  T* k;
  T* v;
  T* g;     // null: no decay
  T* beta;  // null: beta is 1
  i64 o_stride, q_stride, k_stride, v_stride, g_stride, beta_stride;
};

/// Scratch of a worker.
template <class T, op::ScanShape C> struct ScanBackwardScratch {
  ScanScratch<T, C, false> forward;
  T* d_state;  // [head_k, head_v]
  T* e;        // [n, head_v] each
  T* u;
  T* x;         // dU, then X
  T* weighted;  // dV
  T* decayed;   // [n, head_k] each
  T* write;
  T* read;
  T* m;  // [n, n] each; this one is -M
  T* p;
  T* dn;
  T* y;
  T* since;          // [n, decays]: e^gamma
  T* rest;           // [n, decays]: e^(gamma_C - gamma)
  T* state_product;  // [head_k]: <S', dS'> by row
  T* sum;            // [head_k]

  template <class F> void fields(F const& f) {
    constexpr i64 n = scan_chunk;
    forward.fields(f);
    f(d_state, C.head_k * C.head_v);
    for (T** const rows : {&e, &u, &x, &weighted}) {
      f(*rows, n * C.head_v);
    }
    for (T** const rows : {&decayed, &write, &read}) {
      f(*rows, n * C.head_k);
    }
    for (T** const square : {&m, &p, &dn, &y}) {
      f(*square, n * n);
    }
    f(since, n * scan_decays<C>);
    f(rest, n * scan_decays<C>);
    f(state_product, C.head_k);
    f(sum, C.head_k);
  }
};

/// Forms m.since and m.rest. gamma [n] are the sums of decays per head; m.forward.step holds e^g per channel.
template <op::ScanShape C, class T>
void scan_decays_of(KernelTable<T> const& k, i64 n, double const* gamma, ScanBackwardScratch<T, C> const& m) {
  if constexpr (C.decay == op::Decay::head) {
    for (i64 i = 0; i < n; ++i) {
      m.since[i] = static_cast<T>(gamma[i]);
      m.rest[i] = static_cast<T>(gamma[n - 1] - gamma[i]);
    }
    k.exp(n, m.since, m.since);
    k.exp(n, m.rest, m.rest);
  } else if constexpr (C.decay == op::Decay::channel) {
    constexpr i64 dk = C.head_k;
    T const* const step = m.forward.step;
    std::copy_n(step, dk, m.since);
    std::fill_n(m.rest + (n - 1) * dk, dk, T{1});
    for (i64 i = 1; i < n; ++i) {
      k.mul_scale(dk, T{1}, m.since + (i - 1) * dk, step + i * dk, m.since + i * dk);
      i64 const j = n - 1 - i;
      k.mul_scale(dk, T{1}, m.rest + (j + 1) * dk, step + (j + 1) * dk, m.rest + j * dk);
    }
  }
}

/// Zeroes what lies above the diagonal, and the diagonal itself if `strict`; with a decay per head multiplies by D.
template <op::ScanShape C, class T>
void scan_lower(KernelTable<T> const& k, i64 n, bool strict, double const* gamma, T* row_of_d, T* a) {
  for (i64 i = 0; i < n; ++i) {
    T* const row = a + i * scan_chunk;
    if constexpr (C.decay == op::Decay::head) {
      for (i64 j = 0; j <= i; ++j) {
        row_of_d[j] = static_cast<T>(gamma[i] - gamma[j]);
      }
      k.exp(i + 1, row_of_d, row_of_d);
      k.mul_scale(i + 1, T{1}, row, row_of_d, row);
    }
    std::fill(row + i + (strict ? 0 : 1), row + n, T{0});
  }
}

/// out_i += factor sum_j<=i a_ij rows_j e^(gamma_i - gamma_j); the decay is in `a` already unless it is per
/// channel.
template <op::ScanShape C, class T>
void scan_left(KernelTable<T> const& k, i64 n, T factor, T const* a, T const* rows, i64 stride,
               ScanScratch<T, C, false> const& m, T* out, i64 out_stride) {
  constexpr i64 dk = C.head_k;
  if constexpr (C.decay != op::Decay::channel) {
    k.gemm_nn[0]({n, dk, n, a, scan_chunk, 1, rows, stride, out, out_stride, factor, T{1}});
  } else {
    for (i64 i = 0; i < n; ++i) {
      for (i64 j = 0; j < i; ++j) {
        k.mul_scale(dk, T{1}, m.left + j * dk, m.step + i * dk, m.left + j * dk);
      }
      std::copy_n(rows + i * stride, dk, m.left + i * dk);
      T* const to = out + i * out_stride;
      k.gemm_nn[0]({1, dk, i + 1, a + i * scan_chunk, scan_chunk, 1, m.left, dk, to, out_stride, factor, T{1}});
    }
  }
}

/// out_j += factor sum_i>=j a_ij rows_i e^(gamma_i - gamma_j)
template <op::ScanShape C, class T>
void scan_right(KernelTable<T> const& k, i64 n, T factor, T const* a, T const* rows, i64 stride,
                ScanScratch<T, C, false> const& m, T* out, i64 out_stride) {
  constexpr i64 dk = C.head_k;
  if constexpr (C.decay != op::Decay::channel) {
    k.gemm_nn[0]({n, dk, n, a, 1, scan_chunk, rows, stride, out, out_stride, factor, T{1}});
  } else {
    for (i64 j = n - 1; j >= 0; --j) {
      for (i64 i = j + 1; i < n; ++i) {
        k.mul_scale(dk, T{1}, m.left + i * dk, m.step + (j + 1) * dk, m.left + i * dk);
      }
      std::copy_n(rows + j * stride, dk, m.left + j * dk);
      T* const to = out + j * out_stride;
      k.gemm_nn[0](
          {1, dk, n - j, a + j * scan_chunk + j, 1, scan_chunk, m.left + j * dk, dk, to, out_stride, factor, T{1}});
    }
  }
}

/// to_i = factor decays_i rows_i; `to` may be `rows`.
template <op::ScanShape C, class T>
void scan_decayed(KernelTable<T> const& k, i64 n, T factor, T const* rows, i64 stride, T const* decays, T* to,
                  i64 to_stride) {
  for (i64 i = 0; i < n; ++i) {
    if constexpr (C.decay == op::Decay::channel) {
      k.mul_scale(C.head_k, factor, rows + i * stride, decays + i * C.head_k, to + i * to_stride);
    } else {
      k.scale(C.head_k, C.decay == op::Decay::head ? factor * decays[i] : factor, rows + i * stride,
              to + i * to_stride);
    }
  }
}

/// out = a b^T over head_v columns: [n, rows of b].
template <op::ScanShape C, class T>
void scan_outer(KernelTable<T> const& k, i64 n, i64 columns, T const* a, i64 a_stride, T const* b, i64 b_stride,
                T* out, i64 out_stride) {
  GemmNt<T> g;
  g.m = n;
  g.n = columns;
  g.k = C.head_v;
  g.a = a;
  g.lda = a_stride;
  g.b = b;
  g.ldb = b_stride;
  g.c = out;
  g.ldc = out_stride;
  k.gemm_nt[0][0][0](g);
}

/// One chunk of n <= 64 tokens. `state` is that at its start; m.d_state is the gradient of the state after it, and
/// becomes that of the state before it.
template <op::ScanShape C, class T>
void scan_chunk_backward(KernelTable<T> const& k, ScanRows<T> const& r, ScanGradientRows<T> const& d, i64 n,
                         T scale, T const* state, ScanBackwardScratch<T, C> const& m) {
  constexpr i64 dk = C.head_k;
  constexpr i64 dv = C.head_v;
  constexpr i64 decays = scan_decays<C>;
  constexpr i64 block = scan_block<C>;
  constexpr bool delta = C.update == op::Update::delta;
  auto const beta = [&](i64 i) { return r.beta != nullptr ? r.beta[i * r.beta_stride] : T{1}; };

  // what the forward forms, with beta left to the solves below
  double gamma[scan_chunk] = {};
  ScanRows<T> plain = r;
  plain.beta = nullptr;
  scan_lay_out<C, false>(k, plain, n, scale, gamma, m.forward);
  scan_decays_of<C>(k, n, gamma, m);
  for (i64 i0 = 0; i0 < n; i0 += block) {
    auto to = m.forward;
    to.m = m.m + i0 * scan_chunk;
    to.p = m.p + i0 * scan_chunk;
    i64 const rows = std::min(block, n - i0);
    scan_scores<C, false>(k, plain, i0, rows, scale, gamma, to);
    for (i64 i = i0; i < i0 + rows; ++i) {
      std::fill(m.m + i * scan_chunk + i, m.m + i * scan_chunk + n, T{0});
      std::fill(m.p + i * scan_chunk + i + 1, m.p + i * scan_chunk + n, T{0});
    }
  }
  auto const decayed = [&](T factor, T const* rows, i64 stride, T const* decays) {
    scan_decayed<C>(k, n, factor, rows, stride, decays, m.decayed, dk);
  };
  auto const lower = [&](bool strict, T* a) { scan_lower<C>(k, n, strict, gamma, m.forward.decay, a); };

  // E and U, by forward substitution over blocks of rows
  for (i64 i = 0; i < n; ++i) {
    std::copy_n(r.v + i * r.v_stride, dv, m.e + i * dv);
  }
  if constexpr (delta) {
    decayed(T{1}, r.k, r.k_stride, m.since);
    k.gemm_nn[0]({n, dv, dk, m.decayed, dk, 1, state, dv, m.e, dv, T{-1}, T{1}});
  }
  for (i64 i0 = 0; i0 < n; i0 += block) {
    i64 const rows = std::min(block, n - i0);
    if (delta && i0 > 0) {
      k.gemm_nn[0]({rows, dv, i0, m.m + i0 * scan_chunk, scan_chunk, 1, m.u, dv, m.e + i0 * dv, dv, T{1}, T{1}});
    }
    for (i64 i = i0; i < i0 + rows; ++i) {
      for (i64 j = i0; delta && j < i; ++j) {
        k.axpy(dv, m.m[i * scan_chunk + j], m.u + j * dv, m.e + i * dv);
      }
      k.scale(dv, beta(i), m.e + i * dv, m.u + i * dv);
    }
  }

  // dU
  k.gemm_nn[0]({n, dv, n, m.p, 1, scan_chunk, d.d_o, d.o_stride, m.x, dv, T{1}, T{0}});
  decayed(T{1}, r.k, r.k_stride, m.rest);
  k.gemm_nn[0]({n, dv, dk, m.decayed, dk, 1, m.d_state, dv, m.x, dv, T{1}, T{1}});

  // X and dV, by backward substitution
  for (i64 i0 = (n - 1) / block * block; i0 >= 0; i0 -= block) {
    i64 const after = std::min(n, i0 + block);
    if (delta && after < n) {
      k.gemm_nn[0]({after - i0, dv, n - after, m.m + after * scan_chunk + i0, 1, scan_chunk,
                    m.weighted + after * dv, dv, m.x + i0 * dv, dv, T{1}, T{1}});
    }
    for (i64 i = after - 1; i >= i0; --i) {
      for (i64 j = i + 1; delta && j < after; ++j) {
        k.axpy(dv, m.m[j * scan_chunk + i], m.weighted + j * dv, m.x + i * dv);
      }
      k.scale(dv, beta(i), m.x + i * dv, m.weighted + i * dv);
    }
  }
  for (i64 i = 0; i < n; ++i) {
    std::copy_n(m.weighted + i * dv, dv, d.v + i * d.v_stride);
    if (d.beta != nullptr) {
      d.beta[i * d.beta_stride] = k.dot(dv, m.x + i * dv, m.e + i * dv);
    }
  }

  // dQ
  scan_outer<C>(k, n, n, d.d_o, d.o_stride, m.u, dv, m.dn, scan_chunk);
  lower(false, m.dn);
  scan_outer<C>(k, n, dk, d.d_o, d.o_stride, state, dv, d.q, d.q_stride);
  scan_decayed<C>(k, n, scale, d.q, d.q_stride, m.since, d.q, d.q_stride);
  scan_left<C>(k, n, scale, m.dn, r.k, r.k_stride, m.forward, d.q, d.q_stride);

  // dK as what is written, and as what the state is read with
  scan_outer<C>(k, n, dk, m.u, dv, m.d_state, dv, m.write, dk);
  scan_decayed<C>(k, n, T{1}, m.write, dk, m.rest, m.write, dk);
  for (i64 c = 0; decays > 0 && c < dk; ++c) {  // <S', dS'> row by row, while `write` holds U dS'^T alone
    T const last = m.since[(n - 1) * decays + (decays > 1 ? c : 0)];
    T product = last * k.dot(dv, state + c * dv, m.d_state + c * dv);
    for (i64 i = 0; i < n; ++i) {
      product += r.k[i * r.k_stride + c] * m.write[i * dk + c];
    }
    m.state_product[c] = product;
  }
  scan_right<C>(k, n, scale, m.dn, r.q, r.q_stride, m.forward, m.write, dk);
  if constexpr (delta) {
    scan_outer<C>(k, n, n, m.weighted, dv, m.u, dv, m.y, scan_chunk);
    lower(true, m.y);
    scan_right<C>(k, n, T{-1}, m.y, r.k, r.k_stride, m.forward, m.write, dk);
    scan_outer<C>(k, n, dk, m.weighted, dv, state, dv, m.read, dk);
    scan_decayed<C>(k, n, T{-1}, m.read, dk, m.since, m.read, dk);
    scan_left<C>(k, n, T{-1}, m.y, r.k, r.k_stride, m.forward, m.read, dk);
  } else {
    std::fill_n(m.read, n * dk, T{0});
  }

  // dg, summed from the last token on, and dK
  if constexpr (C.decay == op::Decay::head) {
    double total = 0;
    for (i64 c = 0; c < dk; ++c) {
      total += static_cast<double>(m.state_product[c]);
    }
    for (i64 i = n - 1; i >= 0; --i) {
      total += static_cast<double>(k.dot(dk, r.q + i * r.q_stride, d.q + i * d.q_stride)) +
               static_cast<double>(k.dot(dk, r.k + i * r.k_stride, m.read + i * dk)) -
               static_cast<double>(k.dot(dk, r.k + i * r.k_stride, m.write + i * dk));
      d.g[i * d.g_stride] = static_cast<T>(total);
    }
  } else if constexpr (C.decay == op::Decay::channel) {
    std::copy_n(m.state_product, dk, m.sum);
    for (i64 i = n - 1; i >= 0; --i) {
      for (i64 c = 0; c < dk; ++c) {
        m.sum[c] += r.q[i * r.q_stride + c] * d.q[i * d.q_stride + c] +
                    r.k[i * r.k_stride + c] * (m.read[i * dk + c] - m.write[i * dk + c]);
        d.g[i * d.g_stride + c] = m.sum[c];
      }
    }
  }
  for (i64 i = 0; i < n; ++i) {
    k.add(dk, m.write + i * dk, m.read + i * dk, d.k + i * d.k_stride);
  }

  // dS
  T keep = 1;
  if constexpr (C.decay == op::Decay::head) {
    keep = m.since[n - 1];
  } else if constexpr (C.decay == op::Decay::channel) {
    for (i64 c = 0; c < dk; ++c) {
      k.scale(dv, m.since[(n - 1) * dk + c], m.d_state + c * dv, m.d_state + c * dv);
    }
  }
  decayed(scale, r.q, r.q_stride, m.since);
  k.gemm_nn[0]({dk, dv, n, m.decayed, 1, dk, d.d_o, d.o_stride, m.d_state, dv, T{1}, keep});
  if constexpr (delta) {
    decayed(T{1}, r.k, r.k_stride, m.since);
    k.gemm_nn[0]({dk, dv, n, m.decayed, 1, dk, m.weighted, dv, m.d_state, dv, T{-1}, T{1}});
  }
}

}  // namespace cpu

template <op::ScanShape C> struct Kernel<op::Backward<op::GatedScan<C>>, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::Backward<op::GatedScan<C>> const&, View const&, View const&, View const&,
                      View const&, View const&, View const&, View const&, op::ScanGradient const&) {
    using T = cpu::scalar_of<B>;
    return cpu::worker_scratch(ctx, cpu::carved<T>(cpu::ScanBackwardScratch<T, C>{}));
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::Backward<op::GatedScan<C>> const&, S const& memory, View const& q,
                  View const& k, View const& v, View const& g, View const& beta, View const& states,
                  View const& d_o, op::ScanGradient const& to) {
    using T = cpu::scalar_of<B>;
    constexpr i64 dk = C.head_k;
    constexpr i64 dv = C.head_v;
    constexpr i64 decays = C.decay == op::Decay::channel ? dk : 1;
    auto const& table = ctx.backend().kernels();
    T const scale = cpu::scan_scale<T, C>();
    ctx.backend().parallel(ctx.seqs() * C.heads, [&](i64 task, int worker) {
      Sequence const seq = ctx.sequence(task / C.heads);
      i64 const h = task % C.heads;
      cpu::ScanBackwardScratch<T, C> m;
      cpu::carve(m, memory.of(worker));
      auto const state_of = [&](Slot const& slot) {
        return slot.as<T>() + seq.slot * slot.stride[0] + h * slot.stride[1];
      };
      if (to.state_end) {
        std::copy_n(state_of(to.state_end), dk * dv, m.d_state);
      } else {
        std::fill_n(m.d_state, dk * dv, T{0});
      }
      i64 const base = first_saved_chunk(ctx.batch(), seq.index);
      for (i64 chunk = saved_chunks(seq.tokens) - 1; chunk >= 0; --chunk) {
        i64 const first = chunk * cpu::scan_chunk;
        i64 const n = std::min(cpu::scan_chunk, seq.tokens - first);
        auto const at = [&](View const& x, i64 width) {
          return x ? x.row<T>(seq.begin + first) + h * width : nullptr;
        };
        cpu::ScanRows<T> const rows{at(q, dk),   at(k, dk),   at(v, dv),   at(g, decays), at(beta, 1),    nullptr,
                                    q.stride[0], k.stride[0], v.stride[0], g.stride[0],   beta.stride[0], 0};
        cpu::ScanGradientRows<T> const gradients{
            at(d_o, dv),   at(to.q, dk),   at(to.k, dk),   at(to.v, dv),   at(to.g, decays), at(to.beta, 1),
            d_o.stride[0], to.q.stride[0], to.k.stride[0], to.v.stride[0], to.g.stride[0],   to.beta.stride[0]};
        cpu::scan_chunk_backward<C>(table, rows, gradients, n, scale, states.row<T>(base + chunk) + h * dk * dv, m);
      }
      if (to.state_begin) {
        std::copy_n(m.d_state, dk * dv, state_of(to.state_begin));
      }
    });
  }
};

template <> struct Kernel<op::Backward<op::DeltaGates>, tag::cpu> {
  template <class B>
  static void run(Context<B>& ctx, op::Backward<op::DeltaGates> const&, View const& a, View const& b,
                  Slot const& a_log, Slot const& dt_bias, View const& dg, View const& dbeta, View const& da,
                  View const& db, Slot const& da_log, Slot const& ddt_bias) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    // few numbers per token, and two sums over tokens: one task per head keeps their order
    ctx.backend().parallel(a.width(), [&](i64 h, int) {
      T const rate = -std::exp(a_log.as<T>()[h]);
      T a_log_sum = 0, dt_bias_sum = 0;
      for (i64 t = 0; t < a.tokens(); ++t) {
        T const logit = a.row<T>(t)[h] + dt_bias.as<T>()[h];
        T slope = 0, soft = 0, gate = 0;
        k.sigmoid(1, &logit, &slope);
        k.softplus(1, &logit, &soft);
        k.sigmoid(1, b.row<T>(t) + h, &gate);
        T const d = dg.row<T>(t)[h] * rate;
        a_log_sum += d * soft;
        dt_bias_sum += d * slope;
        da.row<T>(t)[h] = d * slope;
        db.row<T>(t)[h] = dbeta.row<T>(t)[h] * gate * (T{1} - gate);
      }
      if (da_log) {
        da_log.as<T>()[h] += a_log_sum;
      }
      if (ddt_bias) {
        ddt_bias.as<T>()[h] += dt_bias_sum;
      }
    });
  }
};

JET_NAMESPACE_END
