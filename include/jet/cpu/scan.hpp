/// \file
/// The scan of the linear-attention family on the CPU, written once: its decay
/// (none, per head, per channel) and its update (additive, delta, generalised
/// delta) are compile-time parameters. A task is one head of one sequence. Many
/// tokens go through chunks of 64 (matrix products; Gated DeltaNet, arXiv
/// 2412.06464, section 3.3; vector decays as in GLA, 2312.06635, section 4.3),
/// few through the recurrence.
///
/// Inside a chunk, with gamma the cumulative log decay, D_ij = e^(gamma_i -
/// gamma_j) (element by element where it is a vector) and S the state at the
/// chunk's start:
///   U  = V' + R S + tril(R Y^T * D) W        R reads the state, Y is written
///   to it with the values W O  = scale (diag(e^gamma) Q S + tril(Q Y^T * D) W)
///   S' = e^gamma_C S + (diag(e^(gamma_C - gamma)) Y)^T W
/// additive: W = diag(beta) V, Y = K, no R.  delta: W = U, V' = diag(beta) V, Y
/// = K, R = -diag(beta) K e^gamma. generalised delta: V' = 0, R = A, which
/// meets the state before its own decay; a token writes twice, its rows of Y
/// and W are k, b and v, u. U is solved for in blocks of rows, and so are the C
/// x C matrices formed: nothing above their diagonals is.
///
/// Only decays e^(difference) <= 1 are ever formed. Per head, cumulative sums
/// are double: after a few strong gates
/// (-100) float has lost the small ones. Per channel there are no sums: every
/// decay is a product of the steps e^g, as in the recurrence, rows of Y being
/// multiplied on from block to block.
#pragma once

#include <algorithm>
#include <cmath>

#include <jet/cpu/rows.hpp>
#include <jet/op/gated_scan.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

inline constexpr i64 scan_chunk = saved_chunk;
inline constexpr i64 scan_few = 16;  // up to this many tokens the recurrence is used

/// Rows of a block of the triangular solve.
template <op::ScanShape C> inline constexpr i64 scan_block = C.decay == op::Decay::channel ? 8 : 16;

/// Decays of one token and head: 0, 1 or head_k.
template <op::ScanShape C>
inline constexpr i64 scan_decays = C.decay == op::Decay::channel ? C.head_k
                                   : C.decay == op::Decay::head  ? 1
                                                                 : 0;

/// The scale of the query.
template <class T, op::ScanShape C> T scan_scale() {
  return static_cast<T>(C.scale != 0 ? C.scale : 1.0 / std::sqrt(static_cast<double>(C.head_k)));
}

/// One head of one sequence: rows of the inputs with their strides. a and b of
/// the generalised delta rule only, which has no beta.
template <class T> struct ScanRows {
  T const* q;
  T const* k;
  T const* v;
  T const* g;     // null: no decay
  T const* beta;  // null: 1
  T* o;
  i64 q_stride, k_stride, v_stride, g_stride, beta_stride, o_stride;
  T const* a = nullptr;
  T const* b = nullptr;
  i64 a_stride = 0, b_stride = 0;
};

/// Numbers that a struct of pointers carves out of one piece of memory:
/// fields(f) of the struct calls f(pointer, count) for each.
template <class S, class T> void carve(S& fields, T* memory) {
  fields.fields([&](T*& field, i64 count) {
    field = memory;
    memory += (count + 15) / 16 * 16;
  });
}
template <class T, class S> i64 carved(S fields) {
  i64 total = 0;
  fields.fields([&](T*&, i64 count) { total += (count + 15) / 16 * 16; });
  return total;
}

/// Scratch of a worker.
template <class T, op::ScanShape C, bool general> struct ScanScratch {
  static constexpr i64 n = scan_chunk;
  static constexpr i64 writes = general ? 2 : 1;
  T* state;    // [head_k, head_v], when the slot's dtype is another
  T* w;        // [n * writes, head_v]
  T* y;        // [n * writes, head_k], decayed up to the block at hand
  T* reads;    // [n, head_k] R, with vector decays since the block's start
  T* queries;  // [n, head_k] scale Q, likewise
  T* left;     // [n, head_k] one of them, with the decays since the chunk's start
  T* m;        // [block, n * writes] tril(R Y^T * D)
  T* p;        // [block, n * writes]
  T* decay;    // [max(n, head_k)] decays of one row
  T* step;     // [n, head_k] vector decays only: e^g
  T* inside;   // [n, head_k] vector decays only: their products since the block's
               // start

  template <class F> void fields(F const& f) {
    constexpr i64 vectors = C.decay == op::Decay::channel ? n * C.head_k : 0;
    f(state, C.head_k * C.head_v);
    f(w, n * writes * C.head_v);
    f(y, n * writes * C.head_k);
    f(reads, n * C.head_k);
    f(queries, n * C.head_k);
    f(left, n * C.head_k);
    f(m, scan_block<C> * n * writes);
    f(p, scan_block<C> * n * writes);
    f(decay, std::max(n, C.head_k));
    f(step, vectors);
    f(inside, vectors);
  }
};

/// Token by token.
template <op::ScanShape C, bool general, class T>
void scan_recurrent(KernelTable<T> const& k, ScanRows<T> const& r, i64 tokens, T scale, T* state,
                    ScanScratch<T, C, general> const& m) {
  constexpr i64 dk = C.head_k;
  constexpr i64 dv = C.head_v;
  ScanStep<T> step;
  step.head_k = dk;
  step.head_v = dv;
  step.state = state;
  step.decay = m.decay;
  step.decay_channel = C.decay == op::Decay::channel;
  step.delta = C.update == op::Update::delta;
  step.scale = scale;
  step.u = m.w;
  m.decay[0] = 1;
  for (i64 t = 0; t < tokens; ++t) {
    T const* const q = r.q + t * r.q_stride;
    T const* const key = r.k + t * r.k_stride;
    T const* const value = r.v + t * r.v_stride;
    T* const o = r.o + t * r.o_stride;
    if constexpr (C.decay == op::Decay::head) {
      m.decay[0] = std::exp(r.g[t * r.g_stride]);
    } else if constexpr (C.decay == op::Decay::channel) {
      k.exp(dk, r.g + t * r.g_stride, m.decay);
    }
    if constexpr (general) {
      // p and o from the old state at once: o = scale (S^T (e^g q) + (q b) p +
      // (q k) v)
      T const* const b = r.b + t * r.b_stride;
      std::copy_n(r.a + t * r.a_stride, dk, m.left);
      k.mul_scale(dk, scale, q, m.decay, m.left + dk);
      k.gemm_nn[0]({2, dv, dk, m.left, dk, 1, state, dv, m.w, dv, T{1}, T{0}});
      std::copy_n(m.w + dv, dv, o);
      std::copy_n(value, dv, m.w + dv);
      k.axpy(dv, scale * k.dot(dk, q, b), m.w, o);
      k.axpy(dv, scale * k.dot(dk, q, key), value, o);
      std::copy_n(b, dk, m.y);
      std::copy_n(key, dk, m.y + dk);
      for (i64 i = 0; i < dk; ++i) {
        k.scale(dv, m.decay[i], state + i * dv, state + i * dv);
      }
      k.gemm_nn[0]({dk, dv, 2, m.y, 1, dk, m.w, dv, state, dv, T{1}, T{1}});
    } else {
      step.q = q;
      step.k = key;
      step.v = value;
      step.beta = r.beta != nullptr ? r.beta[t * r.beta_stride] : T{1};
      step.o = o;
      k.scan_step(step);
    }
  }
}

/// to[i, :] = e^(gamma_i) x[i, :] of a chunk, where rows of x have the decays
/// since their block's start. Returns where that lies: x itself without decays.
/// Uses up m.decay.
template <op::ScanShape C, bool general, class T>
T const* scan_from_start(KernelTable<T> const& k, i64 n, T const* x, double const* gamma,
                         ScanScratch<T, C, general> const& m) {
  constexpr i64 dk = C.head_k;
  if constexpr (C.decay == op::Decay::none) {
    return x;
  } else if constexpr (C.decay == op::Decay::head) {
    for (i64 i = 0; i < n; ++i) {
      m.decay[i] = static_cast<T>(gamma[i]);
    }
    k.exp(n, m.decay, m.decay);
    for (i64 i = 0; i < n; ++i) {
      k.scale(dk, m.decay[i], x + i * dk, m.left + i * dk);
    }
  } else {
    constexpr i64 block = scan_block<C>;
    std::fill_n(m.decay, dk, T{1});
    for (i64 i = 0; i < n; ++i) {
      k.mul_scale(dk, T{1}, x + i * dk, m.decay, m.left + i * dk);
      if (i % block == block - 1) {
        k.mul_scale(dk, T{1}, m.inside + i * dk, m.decay, m.decay);
      }
    }
  }
  return m.left;
}

/// One block of rows i0 ... i0 + rows - 1 of tril(R Y^T * D) and tril(Q Y^T *
/// D), the former without its diagonal. What lies right of a row's last element
/// is zero in the latter, undefined in the former. With vector decays, rows of
/// Y before the block come decayed up to its start and leave decayed up to its
/// end.
template <op::ScanShape C, bool general, class T>
void scan_scores(KernelTable<T> const& k, ScanRows<T> const& r, i64 i0, i64 rows, T scale, double const* gamma,
                 ScanScratch<T, C, general> const& m) {
  constexpr i64 dk = C.head_k;
  constexpr i64 writes = general ? 2 : 1;
  constexpr i64 stride = scan_chunk * writes;
  constexpr bool solves = general || C.update == op::Update::delta;
  constexpr bool vectors = C.decay == op::Decay::channel;
  i64 const before = i0 * writes;
  i64 const upto = (i0 + rows) * writes;

  GemmNt<T> g;
  g.m = rows;
  g.n = vectors ? before : upto;
  g.k = dk;
  g.lda = dk;
  g.b = m.y;
  g.ldb = dk;
  g.ldc = stride;
  if constexpr (solves) {
    g.a = m.reads + i0 * dk;
    g.c = m.m;
    k.gemm_nt[0][0][0](g);
  }
  g.a = m.queries + i0 * dk;
  g.c = m.p;
  k.gemm_nt[0][0][0](g);

  for (i64 i = 0; i < rows; ++i) {
    T* const read = m.m + i * stride;
    T* const query = m.p + i * stride;
    if constexpr (C.decay == op::Decay::head) {
      i64 const count = i0 + i + 1;
      for (i64 j = 0; j < count; ++j) {
        m.decay[j] = static_cast<T>(gamma[i0 + i] - gamma[j]);
      }
      k.exp(count, m.decay, m.decay);
      if constexpr (solves) {
        k.mul_scale(count, T{1}, read, m.decay, read);
      }
      k.mul_scale(count, T{1}, query, m.decay, query);
    } else if constexpr (vectors) {  // inside the block, token by token
      i64 const t = i0 + i;
      T* const y = m.y + before * dk;
      g.m = 1;
      g.b = y;
      if constexpr (general) {
        g.n = i * writes;
        g.a = r.a + t * r.a_stride;
        g.c = read + before;
        g.alpha = 1;
        k.gemm_nt[0][0][0](g);
      }
      for (i64 j = 0; j < i * writes; ++j) {
        k.mul_scale(dk, T{1}, y + j * dk, m.step + t * dk, y + j * dk);
      }
      if constexpr (solves && !general) {
        g.n = i;
        g.a = r.k + t * r.k_stride;
        g.c = read + before;
        g.alpha = r.beta != nullptr ? -r.beta[t * r.beta_stride] : T{-1};
        k.gemm_nt[0][0][0](g);
      }
      g.n = (i + 1) * writes;
      g.a = r.q + t * r.q_stride;
      g.c = query + before;
      g.alpha = scale;
      k.gemm_nt[0][0][0](g);
    }
    std::fill(query + before + (i + 1) * writes, query + upto, T{0});
  }
  if constexpr (vectors) {
    T const* const whole = m.inside + (i0 + rows - 1) * dk;
    for (i64 j = 0; j < before; ++j) {
      k.mul_scale(dk, T{1}, m.y + j * dk, whole, m.y + j * dk);
    }
  }
}

/// Lays out a chunk of n <= 64 tokens: its decays, and the rows of R, scale Q, Y and the W that is known
/// beforehand. gamma [n] is formed for decays per head.
template <op::ScanShape C, bool general, class T>
void scan_lay_out(KernelTable<T> const& k, ScanRows<T> const& r, i64 n, T scale, double* gamma,
                  ScanScratch<T, C, general> const& m) {
  constexpr i64 dk = C.head_k;
  constexpr i64 dv = C.head_v;
  constexpr i64 block = scan_block<C>;
  constexpr i64 writes = general ? 2 : 1;
  constexpr bool delta = !general && C.update == op::Update::delta;
  constexpr bool vectors = C.decay == op::Decay::channel;
  auto const beta = [&](i64 i) { return r.beta != nullptr ? r.beta[i * r.beta_stride] : T{1}; };

  double sum = 0;
  for (i64 i = 0; i < n; ++i) {
    T* const inside = m.inside + i * dk;
    if constexpr (C.decay == op::Decay::head) {
      sum += static_cast<double>(r.g[i * r.g_stride]);
      gamma[i] = sum;
    } else if constexpr (vectors) {
      T* const step = m.step + i * dk;
      k.exp(dk, r.g + i * r.g_stride, step);
      if (i % block == 0) {
        std::copy_n(step, dk, inside);
      } else {
        k.mul_scale(dk, T{1}, inside - dk, step, inside);
      }
    }
    auto const since_start = [&](T factor, T const* x, T const* decay, T* to) {
      if (decay != nullptr) {
        k.mul_scale(dk, factor, x, decay, to);
      } else {
        k.scale(dk, factor, x, to);
      }
    };
    since_start(scale, r.q + i * r.q_stride, vectors ? inside : nullptr, m.queries + i * dk);
    std::copy_n(r.k + i * r.k_stride, dk, m.y + i * writes * dk);
    if constexpr (general) {
      std::copy_n(r.b + i * r.b_stride, dk, m.y + (i * writes + 1) * dk);
      std::copy_n(r.v + i * r.v_stride, dv, m.w + i * writes * dv);
      since_start(T{1}, r.a + i * r.a_stride, i % block == 0 ? nullptr : inside - dk, m.reads + i * dk);
    } else {
      k.scale(dv, beta(i), r.v + i * r.v_stride, m.w + i * dv);
      if constexpr (delta) {
        since_start(-beta(i), r.k + i * r.k_stride, vectors ? inside : nullptr, m.reads + i * dk);
      }
    }
  }
}

/// One chunk of n <= 64 tokens.
template <op::ScanShape C, bool general, class T>
void scan_one_chunk(KernelTable<T> const& k, ScanRows<T> const& r, i64 n, T scale, T* state,
                    ScanScratch<T, C, general> const& m) {
  constexpr i64 dk = C.head_k;
  constexpr i64 dv = C.head_v;
  constexpr i64 block = scan_block<C>;
  constexpr i64 writes = general ? 2 : 1;
  constexpr bool delta = !general && C.update == op::Update::delta;
  constexpr bool vectors = C.decay == op::Decay::channel;

  double gamma[scan_chunk] = {};
  scan_lay_out<C, general>(k, r, n, scale, gamma, m);

  // what the state at the chunk's start gives
  T* const u = m.w + (writes - 1) * dv;
  if constexpr (general || delta) {
    T const* const left = scan_from_start<C, general>(k, n, m.reads, gamma, m);
    k.gemm_nn[0]({n, dv, dk, left, dk, 1, state, dv, u, writes * dv, T{1}, general ? T{0} : T{1}});
  }
  T const* const left = scan_from_start<C, general>(k, n, m.queries, gamma, m);
  k.gemm_nn[0]({n, dv, dk, left, dk, 1, state, dv, r.o, r.o_stride, T{1}, T{0}});
  if constexpr (vectors) {  // m.decay holds that of the whole blocks
    if (n % block != 0) {
      k.mul_scale(dk, T{1}, m.inside + (n - 1) * dk, m.decay, m.decay);
    }
    for (i64 d = 0; d < dk; ++d) {
      k.scale(dv, m.decay[d], state + d * dv, state + d * dv);
    }
  }

  // what the chunk itself gives: U by forward substitution over blocks of rows,
  // then the outputs
  constexpr i64 stride = scan_chunk * writes;
  for (i64 i0 = 0; i0 < n; i0 += block) {
    i64 const rows = std::min(block, n - i0);
    i64 const before = i0 * writes;
    scan_scores<C, general>(k, r, i0, rows, scale, gamma, m);
    if constexpr (general || delta) {
      if (i0 > 0) {
        k.gemm_nn[0]({rows, dv, before, m.m, stride, 1, m.w, dv, u + before * dv, writes * dv, T{1}, T{1}});
      }
      for (i64 i = 0; i < rows; ++i) {
        for (i64 j = before; j < before + i * writes; ++j) {
          k.axpy(dv, m.m[i * stride + j], m.w + j * dv, u + (before + i * writes) * dv);
        }
      }
    }
    k.gemm_nn[0](
        {rows, dv, before + rows * writes, m.p, stride, 1, m.w, dv, r.o + i0 * r.o_stride, r.o_stride, T{1}, T{1}});
  }

  // the state at its end
  T keep = 1;
  if constexpr (C.decay == op::Decay::head) {
    keep = std::exp(static_cast<T>(gamma[n - 1]));
    for (i64 i = 0; i < n; ++i) {
      m.decay[i] = static_cast<T>(gamma[n - 1] - gamma[i]);
    }
    k.exp(n, m.decay, m.decay);
    for (i64 i = 0; i < n; ++i) {
      k.scale(dk, m.decay[i], m.y + i * dk, m.y + i * dk);
    }
  }
  k.gemm_nn[0]({dk, dv, writes * n, m.y, 1, dk, m.w, dv, state, dv, T{1}, keep});
}

/// The arguments of a scan as the ops have them; what an op lacks is null.
struct ScanViews {
  View q, k, v, g, beta, o;
  View a{}, b{};
  View states{};  // (chunks, heads, head_k, head_v): the state at the start of
                  // every chunk
};

template <op::ScanShape C, bool general, class B> auto scan_scratch(Context<B>& ctx) {
  using T = scalar_of<B>;
  return worker_scratch(ctx, carved<T>(ScanScratch<T, C, general>{}));
}

/// Every head of every sequence, from its state and into it.
template <op::ScanShape C, bool general, class B, class S>
void scan(Context<B>& ctx, S const& memory, ScanViews const& x, Slot const& state) {
  using T = scalar_of<B>;
  constexpr i64 dk = C.head_k;
  constexpr i64 dv = C.head_v;
  auto const& table = ctx.backend().kernels();
  T const scale = scan_scale<T, C>();
  ctx.backend().parallel(ctx.seqs() * C.heads, [&](i64 task, int worker) {
    Sequence const seq = ctx.sequence(task / C.heads);
    i64 const h = task % C.heads;
    if (!seq.active() || seq.tokens == 0) {
      return;
    }
    ScanScratch<T, C, general> m;
    carve(m, memory.of(worker));
    T* s = m.state;
    char* slot = nullptr;
    if (state) {
      slot = static_cast<char*>(state.data) +
             (seq.slot * state.stride[0] + h * state.stride[1]) * size_of(state.dtype);
      s = load_state(state.dtype, slot, dk * dv, m.state);
    } else {
      std::fill_n(s, dk * dv, T{0});
    }
    i64 const step = seq.tokens <= scan_few ? seq.tokens : scan_chunk;
    for (i64 first = 0; first < seq.tokens; first += step) {
      i64 const n = std::min(step, seq.tokens - first);
      if (x.states) {
        i64 const chunk = first_saved_chunk(ctx.batch(), seq.index) + first / scan_chunk;
        std::copy_n(s, dk * dv, x.states.row<T>(chunk) + h * dk * dv);
      }
      auto const at = [&](View const& view, i64 width) {
        return view ? view.row<T>(seq.begin + first) + h * width : nullptr;
      };
      ScanRows<T> const rows{at(x.q, dk),   at(x.k, dk),   at(x.v, dv),      at(x.g, scan_decays<C>),
                             at(x.beta, 1), at(x.o, dv),   x.q.stride[0],    x.k.stride[0],
                             x.v.stride[0], x.g.stride[0], x.beta.stride[0], x.o.stride[0],
                             at(x.a, dk),   at(x.b, dk),   x.a.stride[0],    x.b.stride[0]};
      if (n <= scan_few) {
        scan_recurrent<C, general>(table, rows, n, scale, s, m);
      } else {
        scan_one_chunk<C, general>(table, rows, n, scale, s, m);
      }
    }
    if (state) {
      store_state(state.dtype, s, dk * dv, slot);
    }
  });
}

}  // namespace cpu
JET_NAMESPACE_END
