/// \file
/// Backward of attention on the CPU: probabilities again in tiles, from the log-sum-exp that the forward saved. Two
/// passes without any sum across tasks: tasks of the first are blocks of keys of one kv head (dk, dv), of the
/// second blocks of queries (dq). With p_ij = e^(s_ij - lse_i), delta_i = do_i . o_i:
///   dv_j = sum_i p_ij do_i ;  ds_ij = p_ij (do_i . v_j - delta_i) ;  dk_j = head^-1/2 sum_i ds_ij q_i ;
///   dq_i = head^-1/2 sum_j ds_ij k_j        (arXiv 2205.14135, appendix B.2)
#pragma once

#include <algorithm>
#include <cmath>

#include <jet/core/error.hpp>
#include <jet/cpu/attention.hpp>
#include <jet/cpu/rows.hpp>
#include <jet/op/attention.hpp>

JET_NAMESPACE_BEGIN

template <op::AttentionShape C> struct Kernel<op::Backward<op::Attention<C>>, tag::cpu> {
  static constexpr i64 group = C.heads / C.kv_heads;
  static constexpr i64 block = std::max<i64>(1, cpu::attention_rows / group);  // tokens of a block of queries
  static constexpr i64 rows = block * group;
  static constexpr i64 tile = cpu::attention_keys;

  template <class T> struct Memory {
    View key, value;  // the call's keys and values as the cache rounds them
    View delta;       // (tokens, heads)
    cpu::WorkerScratch<T> workers;
  };
  /// A block of queries and a tile of keys, in a worker's memory.
  template <class T> struct Tile {
    T *q, *d_o, *d_q;    // [rows, head]
    T *key, *value;      // [tile, head]
    T *d_key, *d_value;  // [tile, head]
    T *p, *ds;           // [rows, tile]
    static constexpr i64 size = 3 * rows * C.head + 4 * tile * C.head + 2 * rows * tile;
    explicit Tile(T* m)
        : q(m),
          d_o(q + rows * C.head),
          d_q(d_o + rows * C.head),
          key(d_q + rows * C.head),
          value(key + tile * C.head),
          d_key(value + tile * C.head),
          d_value(d_key + tile * C.head),
          p(d_value + tile * C.head),
          ds(p + rows * tile) {}
  };

  template <class B>
  static Memory<cpu::scalar_of<B>> scratch(Context<B>& ctx, op::Backward<op::Attention<C>> const&, View const& q,
                                           View const& k, View const& v, Slot const&, Slot const&, View const&,
                                           View const&, View const&, op::AttentionGradient const&) {
    using T = cpu::scalar_of<B>;
    constexpr DType kv = B::precision.kv_dtype();
    Memory<T> m;
    m.key = kv == k.dtype ? k : ctx.scratch(q.tokens(), C.kv_heads * C.head, kv);
    m.value = kv == v.dtype ? v : ctx.scratch(q.tokens(), C.kv_heads * C.head, kv);
    m.delta = ctx.accumulator(q.tokens(), C.heads);
    m.workers = cpu::worker_scratch(ctx, Tile<T>::size);
    return m;
  }

  template <class B, class M>
  static void run(Context<B>& ctx, op::Backward<op::Attention<C>> const&, M const& memory, View const& q,
                  View const& k, View const& v, Slot const& key_cache, Slot const& value_cache, View const& o,
                  View const& lse, View const& d_o, op::AttentionGradient const& to) {
    using T = cpu::scalar_of<B>;
    JET_CHECK(ctx.batch().pages == nullptr, "the backward of attention does not run on paged caches");
    auto const& table = ctx.backend().kernels();
    cpu::parallel_rows(ctx.backend(), q.tokens(), 2 * q.width(), [&](i64 first, i64 last, int worker) {
      for (i64 t = first; t < last; ++t) {
        if (memory.key.data != k.data) {
          cpu::store_row(table, memory.key.dtype, k.row<T>(t), k.width(), memory.key.row_bytes(t));
          cpu::store_row(table, memory.value.dtype, v.row<T>(t), v.width(), memory.value.row_bytes(t));
        }
        for (i64 h = 0; h < C.heads; ++h) {
          T const* out = cpu::load_row(table, o.dtype, o.columns(h * C.head, C.head).row_bytes(t), C.head,
                                       memory.workers.of(worker));
          memory.delta.template row<T>(t)[h] = table.dot(C.head, out, d_o.row<T>(t) + h * C.head);
        }
      }
    });
    Call<T, M> const call{table, memory, q, d_o, lse, key_cache, value_cache, ctx.batch()};
    i64 key_tasks = 0, query_tasks = 0;
    for (i64 i = 0; i < ctx.seqs(); ++i) {
      Sequence const seq = ctx.sequence(i);
      key_tasks += key_tiles(seq) * C.kv_heads;
      query_tasks += (seq.tokens + block - 1) / block * C.kv_heads;
      pass_through(seq, key_cache, value_cache, to);
    }
    ctx.backend().parallel(key_tasks + query_tasks, [&](i64 task, int worker) {
      Tile<T> const m(memory.workers.of(worker));
      for (i64 i = 0; i < ctx.seqs(); ++i) {
        Sequence const seq = ctx.sequence(i);
        i64 const keys = key_tiles(seq) * C.kv_heads;
        i64 const queries = (seq.tokens + block - 1) / block * C.kv_heads;
        if (task < keys) {
          key_task(call, seq, task % C.kv_heads, first_key(seq, 0) + task / C.kv_heads * tile, m, to);
          return;
        }
        task -= keys;
        if (task < queries) {
          query_task(call, seq, task % C.kv_heads, task / C.kv_heads * block, m, to);
          return;
        }
        task -= queries;
      }
    });
  }

 private:
  template <class T, class M> struct Call {
    cpu::KernelTable<T> const& table;
    M const& memory;
    View q, d_o, lse;
    Slot const& key_cache;
    Slot const& value_cache;
    BatchView const& batch;
  };

  /// The first position that token `first` sees.
  static i64 first_key(Sequence const& seq, i64 first) {
    return C.window > 0 ? std::max<i64>(0, seq.position + first - C.window + 1) : 0;
  }
  /// Tiles of positions that the call's tokens see.
  static i64 key_tiles(Sequence const& seq) {
    return seq.tokens == 0 ? 0 : (seq.position + seq.tokens - first_key(seq, 0) + tile - 1) / tile;
  }

  /// Rows [n, head] of positions [at, at + n) as T.
  template <class T>
  static void load_keys(cpu::KernelTable<T> const& table, cpu::KeyValueRows const& from, i64 at, i64 n, i64 kv_head,
                        T* to) {
    for (i64 done = 0; done < n;) {
      auto const run = from.at(at + done, kv_head, C.head);
      i64 const count = std::min(run.count, n - done);
      DType const type = from.fresh.dtype;
      for (i64 j = 0; j < count; ++j) {
        T* const row = to + (done + j) * C.head;
        T const* loaded = cpu::load_row(table, type, run.data + j * run.stride * size_of(type), C.head, row);
        if (loaded != row) {
          std::copy_n(loaded, C.head, row);
        }
      }
      done += count;
    }
  }
  template <class T, class M>
  static void load_tile(Call<T, M> const& c, Sequence const& seq, i64 kv_head, i64 at, i64 n, Tile<T> const& m) {
    bool const windowed = C.window > 0;
    load_keys(c.table, {&c.key_cache, c.memory.key, &c.batch, seq, windowed}, at, n, kv_head, m.key);
    load_keys(c.table, {&c.value_cache, c.memory.value, &c.batch, seq, windowed}, at, n, kv_head, m.value);
  }
  /// Scaled queries and gradients of tokens [first, first + count).
  template <class T, class M>
  static void load_queries(Call<T, M> const& c, Sequence const& seq, i64 kv_head, i64 first, i64 count,
                           Tile<T> const& m) {
    T const scale = static_cast<T>(1.0 / std::sqrt(static_cast<double>(C.head)));
    for (i64 r = 0; r < count * group; ++r) {
      i64 const t = seq.begin + first + r / group, column = (kv_head * group + r % group) * C.head;
      c.table.scale(C.head, scale, c.q.template row<T>(t) + column, m.q + r * C.head);
      std::copy_n(c.d_o.template row<T>(t) + column, C.head, m.d_o + r * C.head);
    }
  }

  /// p and ds of a block of queries and a tile of n positions from `at` on.
  template <class T, class M>
  static void probabilities(Call<T, M> const& c, Sequence const& seq, i64 kv_head, i64 first, i64 count, i64 at,
                            i64 n, Tile<T> const& m) {
    cpu::GemmNt<T> g;
    g.m = count * group;
    g.n = n;
    g.k = C.head;
    g.lda = C.head;
    g.ldb = C.head;
    g.ldc = tile;
    g.a = m.q;
    g.b = m.key;
    g.c = m.p;
    c.table.gemm_nt[0][0][0](g);
    g.a = m.d_o;
    g.b = m.value;
    g.c = m.ds;
    c.table.gemm_nt[0][0][0](g);
    for (i64 r = 0; r < count * group; ++r) {
      i64 const t = seq.begin + first + r / group, head = kv_head * group + r % group;
      i64 const position = seq.position + first + r / group;
      i64 const begin = std::clamp<i64>(C.window > 0 ? position - C.window + 1 - at : 0, 0, n);
      i64 const end = std::clamp<i64>(position + 1 - at, begin, n);
      T const lse = c.lse.template row<T>(t)[head];
      T const delta = c.memory.delta.template row<T>(t)[head];
      T* const p = m.p + r * tile;
      T* const ds = m.ds + r * tile;
      c.table.exp_sum(end - begin, lse, p + begin, p + begin);
      std::fill(p, p + begin, T{0});
      std::fill(p + end, p + n, T{0});
      for (i64 j = 0; j < n; ++j) {
        ds[j] = p[j] * (ds[j] - delta);
      }
    }
  }

  template <class T> static T* cache_gradient(Slot const& slot, Sequence const& seq, i64 position, i64 kv_head) {
    return slot.as<T>() + seq.slot * slot.stride[0] + position % slot.extent[1] * slot.stride[1] + kv_head * C.head;
  }
  /// True if the row of an old position is still that position's after the call.
  static bool survives(Slot const& cache, Sequence const& seq, i64 position) {
    return position >= seq.position + seq.tokens - cache.extent[1];
  }

  template <class T, class M>
  static void key_task(Call<T, M> const& c, Sequence const& seq, i64 kv_head, i64 at, Tile<T> const& m,
                       op::AttentionGradient const& to) {
    i64 const n = std::min(tile, seq.position + seq.tokens - at);
    if (at + n <= seq.position && !to.key_begin && !to.value_begin) {
      return;  // nobody asks for the gradients of these positions
    }
    load_tile(c, seq, kv_head, at, n, m);
    std::fill_n(m.d_key, n * C.head, T{0});
    std::fill_n(m.d_value, n * C.head, T{0});
    i64 const from = std::max<i64>(0, at - seq.position) / block * block;
    i64 const until = C.window > 0 ? std::min(seq.tokens, at + n - 1 + C.window - seq.position) : seq.tokens;
    for (i64 first = from; first < until; first += block) {
      i64 const count = std::min(block, seq.tokens - first);
      load_queries(c, seq, kv_head, first, count, m);
      probabilities(c, seq, kv_head, first, count, at, n, m);
      i64 const r = count * group;
      c.table.gemm_nn[0]({n, C.head, r, m.p, 1, tile, m.d_o, C.head, m.d_value, C.head, T{1}, T{1}});
      c.table.gemm_nn[0]({n, C.head, r, m.ds, 1, tile, m.q, C.head, m.d_key, C.head, T{1}, T{1}});
    }
    auto const store = [&](T const* from_rows, View const& fresh, Slot const& end, Slot const& begin) {
      for (i64 j = 0; j < n; ++j) {
        i64 const position = at + j;
        T const* const row = from_rows + j * C.head;
        if (position >= seq.position) {
          T* const out = fresh.row<T>(seq.begin + position - seq.position) + kv_head * C.head;
          std::copy_n(row, C.head, out);
          if (end && survives(end, seq, position)) {
            c.table.axpy(C.head, T{1}, cache_gradient<T>(end, seq, position, kv_head), out);
          }
        } else if (begin) {
          c.table.axpy(C.head, T{1}, row, cache_gradient<T>(begin, seq, position, kv_head));
        }
      }
    };
    store(m.d_key, to.k, to.key_end, to.key_begin);
    store(m.d_value, to.v, to.value_end, to.value_begin);
  }

  template <class T, class M>
  static void query_task(Call<T, M> const& c, Sequence const& seq, i64 kv_head, i64 first, Tile<T> const& m,
                         op::AttentionGradient const& to) {
    i64 const count = std::min(block, seq.tokens - first);
    i64 const r = count * group;
    T const scale = static_cast<T>(1.0 / std::sqrt(static_cast<double>(C.head)));
    load_queries(c, seq, kv_head, first, count, m);
    std::fill_n(m.d_q, r * C.head, T{0});
    i64 const end = seq.position + first + count;
    for (i64 at = first_key(seq, first); at < end; at += tile) {
      i64 const n = std::min(tile, end - at);
      load_tile(c, seq, kv_head, at, n, m);
      probabilities(c, seq, kv_head, first, count, at, n, m);
      c.table.gemm_nn[0]({r, C.head, n, m.ds, tile, 1, m.key, C.head, m.d_q, C.head, scale, T{1}});
    }
    for (i64 i = 0; i < r; ++i) {
      std::copy_n(m.d_q + i * C.head, C.head,
                  to.q.row<T>(seq.begin + first + i / group) + (kv_head * group + i % group) * C.head);
    }
  }

  /// Rows of old positions that the call leaves in the cache hand their gradient on; all others start at zero.
  static void pass_through(Sequence const& seq, Slot const& key_cache, Slot const& value_cache,
                           op::AttentionGradient const& to) {
    auto const pass = [&](Slot const& cache, Slot const& end, Slot const& begin) {
      if (!cache || !begin) {
        return;
      }
      auto const bytes = static_cast<std::size_t>(begin.stride[1] * size_of(begin.dtype));
      for (i64 p = std::max<i64>(0, seq.position - begin.extent[1]); p < seq.position; ++p) {
        i64 const row = seq.slot * begin.stride[0] + p % begin.extent[1] * begin.stride[1];
        auto* const out = static_cast<char*>(begin.data) + row * size_of(begin.dtype);
        if (end && survives(end, seq, p)) {
          std::memcpy(out, static_cast<char const*>(end.data) + row * size_of(end.dtype), bytes);
        } else {
          std::memset(out, 0, bytes);
        }
      }
    };
    pass(key_cache, to.key_end, to.key_begin);
    pass(value_cache, to.value_end, to.value_begin);
  }
};

JET_NAMESPACE_END
