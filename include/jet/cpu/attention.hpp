/// \file
/// Attention on the CPU: tiles of keys with an online softmax. A task is a block of queries of one kv head; the
/// queries of its group go together, so that keys and values are read once, and a tile's keys are transposed, so
/// that scores are a product of the same form as weighted values. With few queries the keys are read as they lie,
/// split into pieces of fixed length, merged afterwards: the result depends on the position, never on the number of
/// threads.
///
/// With bf16 activations, keys and values, where products of bf16 pairs are an instruction and a call has many
/// queries, these and the exponentials of their scores, as inputs of products, are rounded to bf16; the latter are
/// summed as rounded.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include <jet/cpu/rows.hpp>
#include <jet/op/attention.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

inline constexpr i64 attention_rows = 64;     // query rows (tokens times group) that a tile of keys is shared by
inline constexpr i64 attention_keys = 64;     // keys of such a tile
inline constexpr i64 attention_block = 96;    // query rows of a task
inline constexpr i64 attention_tile = 128;    // keys that a block's scores are formed with at once
inline constexpr i64 attention_split = 1024;  // keys of a piece when there are few queries
inline constexpr i64 attention_few = 1;       // tokens of a sequence that count as few

/// Element offset of position p in a cache [slots, capacity, ...]: row p mod capacity of the sequence's slot (a
/// ring, or all of it); with a page table, axis 0 is pages and the page of position p is looked up. Rings are never
/// paged.
inline i64 cache_row(Slot const& cache, BatchView const& batch, Sequence const& seq, bool windowed, i64 p) {
  i64 unit = seq.slot;
  if (batch.pages != nullptr && !windowed) {
    unit = batch.pages[seq.index * batch.max_pages + p / batch.page_size];
  }
  return unit * cache.stride[0] + p % cache.extent[1] * cache.stride[1];
}

/// Keys or values: rows of the cache for positions before the call, rows of the call after.
struct KeyValueRows {
  Slot const* cache;
  View fresh;  // (tokens, kv_heads * head) at the kv dtype
  BatchView const* batch;
  Sequence seq;
  bool windowed;

  /// The address of position p and how many positions follow at the same stride (elements).
  struct Run {
    char const* data;
    i64 stride;
    i64 count;
  };
  Run at(i64 p, i64 kv_head, i64 head) const {
    i64 const column = kv_head * head;
    if (p >= seq.position) {
      i64 const t = p - seq.position;
      return {static_cast<char const*>(fresh.row_bytes(seq.begin + t)) + column * size_of(fresh.dtype),
              fresh.stride[0], seq.tokens - t};
    }
    i64 const element = cache_row(*cache, *batch, seq, windowed, p) + column;
    i64 const capacity = cache->extent[1];
    return {static_cast<char const*>(cache->data) + element * size_of(cache->dtype), cache->stride[1],
            std::min(capacity - p % capacity, seq.position - p)};
  }
};

/// Fetches `count` rows of `bytes` bytes towards the second-level cache: the rows of one kv head lie far apart, and
/// the processor does not guess the next ones.
inline void prefetch_rows(KeyValueRows::Run const& run, i64 count, i64 bytes, DType type) {
  i64 const step = run.stride * size_of(type);
  for (i64 r = 0; r < std::min(count, run.count); ++r) {
    for (i64 at = 0; at < bytes; at += 64) {
      __builtin_prefetch(run.data + r * step + at, 0, 2);
    }
  }
}

/// What one pass over keys leaves for a set of query rows: running maximum, sum of exponentials, weighted values.
template <class T> struct AttentionPartial {
  T* max;  // [rows]
  T* sum;  // [rows]
  T* out;  // [rows, head]
};

/// The keys of a tile, from position `at`, that row r (token first + r / group) sees: [begin, end) of n.
struct VisibleKeys {
  i64 begin, end;
  static VisibleKeys of(Sequence const& seq, i64 window, i64 token, i64 at, i64 n) {
    i64 const position = seq.position + token;
    i64 const begin = std::clamp<i64>(window > 0 ? position - window + 1 - at : 0, 0, n);
    return {begin, std::clamp<i64>(position + 1 - at, begin, n)};
  }
};

/// The running maximum, sum and weighted values of row r, before a tile whose largest score is `largest`, are
/// brought to the new maximum.
template <class T>
void raise_max(KernelTable<T> const& k, AttentionPartial<T> const& p, i64 r, i64 head, T largest) {
  if (!(largest > p.max[r])) {
    return;
  }
  if (p.sum[r] != T{0}) {
    T const keep = std::exp(p.max[r] - largest);
    p.sum[r] *= keep;
    k.scale(head, keep, p.out + r * head, p.out + r * head);
  }
  p.max[r] = largest;
}

template <class T> void clear(AttentionPartial<T> const& p, i64 rows, i64 head) {
  std::fill_n(p.max, rows, -std::numeric_limits<T>::infinity());
  std::fill_n(p.sum, rows, T{0});
  std::fill_n(p.out, rows * head, T{0});
}

/// A block of queries that attend() takes: row r is token first + r / group of the sequence.
struct AttentionBlockOf {
  i64 rows, group, first;
  i64 low, high;  // positions
  i64 kv_head, head, window;
};

/// Tiles of keys for a block of rows. `q` [rows, head], scaled: T, or bf16 when `pairs`; `scores` has room for
/// [rows, attention_tile], `packed` for [head, attention_tile].
template <class T>
void attend_block(KernelTable<T> const& k, KeyValueRows const& keys, KeyValueRows const& values,
                  AttentionBlockOf const& block, bool pairs, T const* q, T* scores, T* packed,
                  AttentionPartial<T> const& p) {
  constexpr i64 tile = attention_tile;
  i64 const rows = block.rows, head = block.head;
  clear(p, rows, head);
  int const key_type = storage_index(keys.fresh.dtype);
  auto* const weights = static_cast<bf16*>(static_cast<void*>(scores));  // of pairs, at the start of each row
  auto* const packed_pairs = static_cast<bf16*>(static_cast<void*>(packed));
  for (i64 at = block.low; at < block.high;) {
    auto const key_run = keys.at(at, block.kv_head, head);
    auto const value_run = values.at(at, block.kv_head, head);
    i64 const n = std::min({tile, block.high - at, key_run.count, value_run.count});
    if (pairs) {
      k.transpose[0](n, head / 2, key_run.data, key_run.stride / 2, packed, tile);
      GemmPairs<T> s;
      s.m = rows, s.n = n, s.pairs = head / 2;
      s.a = static_cast<bf16 const*>(static_cast<void const*>(q)), s.lda = head;
      s.b = packed_pairs, s.ldb = tile;
      s.c = scores, s.ldc = tile;
      k.gemm_pairs(s);
    } else {
      k.transpose[key_type](n, head, key_run.data, key_run.stride, packed, tile);
      GemmNn<T> s;
      s.m = rows, s.n = n, s.k = head;
      s.a = q, s.a_row = head;
      s.b = packed, s.ldb = tile;
      s.c = scores, s.ldc = tile;
      k.gemm_nn[0](s);
    }
    for (i64 r = 0; r < rows; ++r) {
      T* const row = scores + r * tile;
      bf16* const weight = weights + 2 * r * tile;
      auto const [begin, end] = VisibleKeys::of(keys.seq, block.window, block.first + r / block.group, at, n);
      if (begin < end) {
        raise_max(k, p, r, head, k.max(end - begin, row + begin));
        p.sum[r] += pairs ? k.exp_sum_bf16(end - begin, p.max[r], row + begin, weight + begin)
                          : k.exp_sum(end - begin, p.max[r], row + begin, row + begin);
      }
      if (pairs) {
        std::fill(weight, weight + begin, bf16{});
        std::fill(weight + end, weight + n + n % 2, bf16{});
      } else {
        std::fill(row, row + begin, T{0});
        std::fill(row + end, row + n, T{0});
      }
    }
    if (pairs) {
      auto const* const v = static_cast<bf16 const*>(static_cast<void const*>(value_run.data));
      for (i64 i = 0; i < n; i += 2) {  // an odd last row beside itself, with a weight of zero
        k.interleave(head, v + i * value_run.stride, v + std::min(i + 1, n - 1) * value_run.stride,
                     packed_pairs + i * head);
      }
      GemmPairs<T> o;
      o.m = rows, o.n = head, o.pairs = (n + 1) / 2;
      o.a = weights, o.lda = 2 * tile;
      o.b = packed_pairs, o.ldb = head;
      o.c = p.out, o.ldc = head;
      o.accumulate = true;
      k.gemm_pairs(o);
    } else {
      GemmNn<T> o;
      o.m = rows, o.n = head, o.k = n;
      o.a = scores, o.a_row = tile;
      o.b = value_run.data, o.ldb = value_run.stride;
      o.c = p.out, o.ldc = head;
      o.beta = 1;
      if (values.fresh.dtype == dtype_of<T>) {
        k.gemm_nn[0](o);
      } else {
        auto const* const v = static_cast<bf16 const*>(static_cast<void const*>(value_run.data));
        for (i64 i = 0; i < n; ++i) {
          k.from_bf16(head, v + i * value_run.stride, packed + i * head);
        }
        o.b = packed, o.ldb = head;
        k.gemm_nn[0](o);
      }
    }
    at += n;
  }
}

/// Attends few query rows [rows, head] (scaled; row r is token r / group) over positions [low, high).
template <class T>
void attend(KernelTable<T> const& k, KeyValueRows const& keys, KeyValueRows const& values, i64 kv_head, i64 head,
            i64 window, T const* q, i64 rows, i64 group, i64 low, i64 high, T* scores,
            AttentionPartial<T> const& p) {
  clear(p, rows, head);
  i64 tile = attention_keys;  // 64 to 512 keys, a power of two: pages of 512 cut no tile
  while (2 * tile * std::max<i64>(rows, 8) <= attention_rows * attention_keys) {
    tile *= 2;
  }
  int const key_type = storage_index(keys.fresh.dtype);
  int const value_type = storage_index(values.fresh.dtype);
  for (i64 at = low; at < high;) {
    auto const key_run = keys.at(at, kv_head, head);
    auto const value_run = values.at(at, kv_head, head);
    i64 const n = std::min({tile, high - at, key_run.count, value_run.count});
    GemmNt<T> s;
    s.m = rows;
    s.n = n;
    s.k = head;
    s.a = q;
    s.lda = head;
    s.b = key_run.data;
    s.ldb = key_run.stride;
    s.c = scores;
    s.ldc = tile;
    k.gemm_nt[0][key_type][0](s);
    for (i64 r = 0; r < rows; ++r) {
      T* const row = scores + r * tile;
      auto const [begin, end] = VisibleKeys::of(keys.seq, window, r / group, at, n);
      std::fill(row, row + begin, T{0});
      std::fill(row + end, row + n, T{0});
      if (begin < end) {
        raise_max(k, p, r, head, k.max(end - begin, row + begin));
        p.sum[r] += k.exp_sum(end - begin, p.max[r], row + begin, row + begin);
      }
    }
    if (at + n < high) {
      prefetch_rows(keys.at(at + n, kv_head, head), std::min<i64>(32, high - at - n),
                    head * size_of(keys.fresh.dtype), keys.fresh.dtype);
    }
    GemmNn<T> o;
    o.m = rows;
    o.n = head;
    o.k = n;
    o.a = scores;
    o.a_row = tile;
    o.b = value_run.data;
    o.ldb = value_run.stride;
    o.c = p.out;
    o.ldc = head;
    o.beta = 1;
    k.gemm_nn[value_type](o);
    at += n;
  }
}

}  // namespace cpu

template <op::AttentionShape C> struct Kernel<op::Attention<C>, tag::cpu> {
  static constexpr i64 group = C.heads / C.kv_heads;
  static constexpr i64 block = std::max<i64>(1, cpu::attention_block / group);  // tokens of a task
  static constexpr i64 rows = block * group;
  static constexpr i64 scores_size =
      std::max<i64>(cpu::attention_tile * rows, cpu::attention_keys* cpu::attention_rows);
  static constexpr i64 packed_size = C.head * cpu::attention_tile;

  template <class T> struct Memory {
    View key, value;                // the call's keys and values at the kv dtype
    cpu::WorkerScratch<T> workers;  // q, scores, packed, partial
    T* pieces = nullptr;            // partials of split sequences: [task][max, sum, out]
  };
  static constexpr i64 partial_size(i64 r) { return r * (C.head + 2); }
  template <class T> static cpu::AttentionPartial<T> partial(T* memory, i64 r) {
    return {memory, memory + r, memory + 2 * r};
  }

  static bool few(Sequence const& seq) {
    return seq.active() && seq.tokens > 0 && seq.tokens <= std::min(block, cpu::attention_few);
  }
  /// First and one past the last position that tokens [first, first + count) see.
  static i64 low(Sequence const& seq, i64 first) {
    return C.window > 0 ? std::max<i64>(0, seq.position + first - C.window + 1) : 0;
  }
  static i64 pieces(Sequence const& seq) {
    i64 const from = low(seq, 0) / cpu::attention_split;
    i64 const to = (seq.position + seq.tokens + cpu::attention_split - 1) / cpu::attention_split;
    return to - from;
  }

  template <class B>
  static Memory<cpu::scalar_of<B>> scratch(Context<B>& ctx, op::Attention<C> const&, View const& q, View const& k,
                                           View const& v, Slot const&, Slot const&, View const&, View const& = {}) {
    using T = cpu::scalar_of<B>;
    constexpr DType kv = B::precision.kv_dtype();
    Memory<T> m;
    m.key = kv == k.dtype ? k : ctx.scratch(q.tokens(), C.kv_heads * C.head, kv);
    m.value = kv == v.dtype ? v : ctx.scratch(q.tokens(), C.kv_heads * C.head, kv);
    m.workers = cpu::worker_scratch(ctx, rows * C.head + scores_size + packed_size + partial_size(rows));
    i64 partials = 0;
    for (i64 i = 0; i < ctx.seqs(); ++i) {
      Sequence const seq = ctx.sequence(i);
      partials += few(seq) ? pieces(seq) * C.kv_heads * partial_size(seq.tokens * group) : 0;
    }
    m.pieces = static_cast<T*>(ctx.scratch_bytes(partials * static_cast<i64>(sizeof(T))));
    return m;
  }

  template <class B, class M>
  static void run(Context<B>& ctx, op::Attention<C> const&, M const& memory, View const& q, View const& k,
                  View const& v, Slot const& key_cache, Slot const& value_cache, View const& o,
                  View const& lse = {}) {
    using T = cpu::scalar_of<B>;
    auto const& table = ctx.backend().kernels();
    if (memory.key.data != k.data) {
      cpu::parallel_rows(ctx.backend(), k.tokens(), 2 * k.width(), [&](i64 first, i64 last, int) {
        for (i64 t = first; t < last; ++t) {
          cpu::store_row(table, memory.key.dtype, k.row<T>(t), k.width(), memory.key.row_bytes(t));
          cpu::store_row(table, memory.value.dtype, v.row<T>(t), v.width(), memory.value.row_bytes(t));
        }
      });
    }
    auto const rows_of = [&](Sequence const& seq) {
      return std::pair{cpu::KeyValueRows{&key_cache, memory.key, &ctx.batch(), seq, C.window > 0},
                       cpu::KeyValueRows{&value_cache, memory.value, &ctx.batch(), seq, C.window > 0}};
    };
    // Rows of bf16 are transposed as rows of pairs.
    bool const pairs = B::precision.act == DType::bf16 && table.gemm_pairs != nullptr &&
                       memory.key.dtype == DType::bf16 && C.head % 2 == 0 && memory.key.stride[0] % 2 == 0 &&
                       (!key_cache || key_cache.stride[1] % 2 == 0);
    auto const load_queries = [&](Sequence const& seq, i64 first, i64 count, i64 kv_head, T* to) {
      T const scale = static_cast<T>(1.0 / std::sqrt(static_cast<double>(C.head)));
      for (i64 r = 0; r < count * group; ++r) {
        T const* from = q.row<T>(seq.begin + first + r / group) + (kv_head * group + r % group) * C.head;
        table.scale(C.head, scale, from, to + r * C.head);
      }
    };
    auto const store_out = [&](Sequence const& seq, i64 first, i64 r, i64 kv_head, T max, T sum, T* from) {
      table.scale(C.head, T{1} / sum, from, from);
      if (lse) {
        lse.row<T>(seq.begin + first + r / group)[kv_head * group + r % group] = max + std::log(sum);
      }
      View const to = o.columns((kv_head * group + r % group) * C.head, C.head);
      cpu::store_row(table, o.dtype, from, C.head, to.row_bytes(seq.begin + first + r / group));
    };

    // Sequences with many tokens: a task is a block of queries over all its keys.
    i64 blocks = 0;
    i64 piece_tasks = 0;
    for (i64 i = 0; i < ctx.seqs(); ++i) {
      Sequence const seq = ctx.sequence(i);
      if (few(seq)) {
        piece_tasks += pieces(seq) * C.kv_heads;
      } else if (seq.active()) {
        blocks += (seq.tokens + block - 1) / block * C.kv_heads;
      }
    }
    ctx.backend().parallel(blocks + piece_tasks, [&](i64 task, int worker) {
      T* const queries = memory.workers.of(worker);
      T* const scores = queries + rows * C.head;
      T* const packed = scores + scores_size;
      T* piece_at = memory.pieces;
      for (i64 i = 0; i < ctx.seqs(); ++i) {
        Sequence const seq = ctx.sequence(i);
        if (!seq.active() || seq.tokens == 0) {
          continue;
        }
        auto const [keys, values] = rows_of(seq);
        if (few(seq)) {
          i64 const n = pieces(seq) * C.kv_heads;
          i64 const size = partial_size(seq.tokens * group);
          if (task < n) {
            i64 const kv_head = task / pieces(seq);
            i64 const begin = (low(seq, 0) / cpu::attention_split + task % pieces(seq)) * cpu::attention_split;
            i64 const end = std::min(begin + cpu::attention_split, seq.position + seq.tokens);
            load_queries(seq, 0, seq.tokens, kv_head, queries);
            cpu::attend(table, keys, values, kv_head, C.head, C.window, queries, seq.tokens * group, group,
                        std::max(begin, low(seq, 0)), end, scores,
                        partial(piece_at + task * size, seq.tokens * group));
            return;
          }
          task -= n;
          piece_at += n * size;
        } else {
          i64 const per_head = (seq.tokens + block - 1) / block;
          if (task < per_head * C.kv_heads) {
            i64 const kv_head = task % C.kv_heads;
            i64 const first = (per_head - 1 - task / C.kv_heads) * block;  // the longest first
            i64 const count = std::min(block, seq.tokens - first);
            auto const p = partial(packed + packed_size, count * group);
            load_queries(seq, first, count, kv_head, queries);
            bool const as_pairs = pairs && seq.tokens * group >= cpu::attention_block;
            if (as_pairs) {
              table.to_bf16(count * group * C.head, queries, static_cast<bf16*>(static_cast<void*>(queries)));
            }
            cpu::attend_block(table, keys, values,
                              {count * group, group, first, low(seq, first), seq.position + first + count, kv_head,
                               C.head, C.window},
                              as_pairs, queries, scores, packed, p);
            for (i64 r = 0; r < count * group; ++r) {
              store_out(seq, first, r, kv_head, p.max[r], p.sum[r], p.out + r * C.head);
            }
            return;
          }
          task -= per_head * C.kv_heads;
        }
      }
    });

    T* piece_at = memory.pieces;
    for (i64 i = 0; i < ctx.seqs(); ++i) {
      Sequence const seq = ctx.sequence(i);
      if (!seq.active() || seq.tokens == 0) {
        continue;
      }
      if (few(seq)) {
        i64 const r_count = seq.tokens * group;
        i64 const size = partial_size(r_count);
        for (i64 kv_head = 0; kv_head < C.kv_heads; ++kv_head) {
          T* const base = piece_at + kv_head * pieces(seq) * size;
          for (i64 r = 0; r < r_count; ++r) {
            merge(table, base, pieces(seq), size, r_count, r);
            auto const p = partial(base, r_count);
            store_out(seq, 0, r, kv_head, p.max[r], p.sum[r], p.out + r * C.head);
          }
        }
        piece_at += pieces(seq) * C.kv_heads * size;
      }
      keep(ctx.batch(), seq, memory.key, key_cache);
      keep(ctx.batch(), seq, memory.value, value_cache);
    }
  }

 private:
  /// Folds row r of all pieces into the first.
  template <class T>
  static void merge(cpu::KernelTable<T> const& table, T* base, i64 count, i64 size, i64 r_count, i64 r) {
    auto const into = partial(base, r_count);
    for (i64 i = 1; i < count; ++i) {
      auto const from = partial(base + i * size, r_count);
      if (from.sum[r] == T{0}) {
        continue;  // saw no key
      }
      T const top = std::max(into.max[r], from.max[r]);
      T const a = into.sum[r] == T{0} ? T{0} : std::exp(into.max[r] - top);
      T const b = std::exp(from.max[r] - top);
      into.max[r] = top;
      into.sum[r] = a * into.sum[r] + b * from.sum[r];
      table.scale(C.head, a, into.out + r * C.head, into.out + r * C.head);
      table.axpy(C.head, b, from.out + r * C.head, into.out + r * C.head);
    }
  }

  /// Writes the call's newest rows into the cache: position p at row p mod capacity, or through the page table.
  static void keep(BatchView const& batch, Sequence const& seq, View const& fresh, Slot const& cache) {
    if (!cache) {
      return;
    }
    bool const paged = batch.pages != nullptr && C.window == 0;
    i64 const skip = paged ? 0 : std::max<i64>(0, seq.tokens - cache.extent[1]);
    auto const bytes = static_cast<std::size_t>(fresh.width() * size_of(fresh.dtype));
    for (i64 t = skip; t < seq.tokens; ++t) {
      i64 const element = cpu::cache_row(cache, batch, seq, C.window > 0, seq.position + t);
      std::memcpy(static_cast<char*>(cache.data) + element * size_of(cache.dtype), fresh.row_bytes(seq.begin + t),
                  bytes);
    }
  }
};

JET_NAMESPACE_END
