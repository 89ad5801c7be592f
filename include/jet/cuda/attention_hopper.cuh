/// \file
/// The prefill of attention on Hopper's tensor cores (sm_90a): arXiv 2407.08608 with the query heads of a kv head
/// packed into the rows of a tile. Keys and values are in bf16, heads are multiples of 32 up to 256.
///
/// A block is one warpgroup that brings data and two that compute, and takes tiles of 128 rows (a row is one query
/// head of one token) until none are left, the longest of a sequence first. Of the first warpgroup, one warp queues
/// copies of keys and values, the others round the next tile's queries. A computing warpgroup has 64 rows: scores
/// of a tile of keys are under way while the tile before is weighted into the sums, and while it has only softmax
/// to do, the other has the tensor cores.
///
/// As in attention_prefill.cuh, tiles of keys begin at multiples of their size in absolute positions, and keys that
/// a row does not see change none of its bits: the result does not depend on how a sequence is cut into calls, nor
/// on what stands beside it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/attention_prefill.cuh>
#include <jet/cuda/attention_rows.cuh>
#include <jet/cuda/copy_async.cuh>
#include <jet/cuda/copy_bulk.cuh>
#include <jet/cuda/error.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/runs_wgmma.cuh>
#include <jet/cuda/tensor_map.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/cuda/wgmma.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Where a call's keys and values lie, for the copy engine: dimensions column, row, unit. A tile of the cache's
/// maps has `rows` rows: a tile of keys, or a page if that is smaller; 0: neither fits, rows are copied one by one.
struct PrefillMaps {
  CUtensorMap key, value;                // of the cache
  CUtensorMap staged_key, staged_value;  // of the call's rows, if they stand apart
  int rows;
};

template <int Head> struct PrefillWgmma {
  static_assert(Head % 32 == 0 && Head <= 256);
  static constexpr int head = Head;
  static constexpr int groups = 2;  // of four warps that compute, 64 rows each
  static constexpr int tile = groups * 64;
  static constexpr int keys = Head <= 128 ? 128 : 64;
  static constexpr int stages = 2;
  static constexpr int items = 2;                      // known ahead
  static constexpr int buffers = Head <= 128 ? 2 : 1;  // of queries; one: the computing warps bring their own
  static constexpr int group_threads = 4 * warp_size;
  static constexpr int threads = (groups + 1) * group_threads;
  static constexpr int query_threads = 3 * warp_size;
  static constexpr int loading_registers = buffers > 1 ? 56 : 40;
  static constexpr int computing_registers = buffers > 1 ? 224 : 232;

  // Tiles in shared memory are panels of 64 columns, or of 32 where the head has no multiple of 64.
  static constexpr Swizzle swizzle = Head % 64 == 0 ? Swizzle::bytes128 : Swizzle::bytes64;
  static constexpr int row_bytes = Head % 64 == 0 ? 128 : 64;
  static constexpr int panels = Head * 2 / row_bytes;
  static constexpr int block_bytes = 8 * row_bytes;
  static constexpr int query_bytes = tile * Head * 2;
  static constexpr int stage_bytes = keys * Head * 2;

  /// What is in shared memory beside tiles.
  struct Control {
    std::uint64_t key_full[stages], key_empty[stages], value_full[stages], value_empty[stages];
    std::uint64_t query_full[items], query_empty[items], item_full[items];
    std::uint64_t landed;     // of the copy engine, where rows are put right before the tile is given on
    PrefillTile item[items];  // no rows: there are no more
    int next[2];
  };
  static constexpr int keys_at = buffers * query_bytes;
  static constexpr int values_at = keys_at + stages * stage_bytes;
  static constexpr int control_at = values_at + stages * stage_bytes;
  static constexpr int table_at = control_at + static_cast<int>((sizeof(Control) + 15) / 16 * 16);
  static constexpr int alignment = 1024;
  static constexpr int shared_bytes = table_at + alignment;  // and the table of tiles

  // turn_barrier + i and group_barrier + i: of computing warpgroup i
  enum Barrier : int { query_barrier = 1, turn_barrier = 2, group_barrier = 4 };

  static __device__ Control& control(unsigned char* memory) {
    return *reinterpret_cast<Control*>(memory + control_at);
  }
  static __device__ void prepare(unsigned char* memory) {
    Control& c = control(memory);
    for (int i = 0; i < stages; ++i) {
      barrier_init(&c.key_full[i]);
      barrier_init(&c.value_full[i]);
      barrier_init(&c.key_empty[i], groups * 4);
      barrier_init(&c.value_empty[i], groups * 4);
    }
    for (int i = 0; i < items; ++i) {
      barrier_init(&c.query_full[i], query_threads);
      barrier_init(&c.query_empty[i], groups * 4 + 1);
      barrier_init(&c.item_full[i]);
    }
    barrier_init(&c.landed);
  }

  /// `threads` threads together: rows [first, first + rows) of a tile's queries, rounded to bf16. Visible to the
  /// tensor cores after a barrier.
  static __device__ void bring_queries(AttentionCall const& call, PrefillTile const& t, unsigned char* to,
                                       int first, int rows, int thread, int threads) {
    constexpr int pieces = Head / 8;
    constexpr int panel_pieces = row_bytes / 16;
#pragma unroll(buffers > 1 ? 4 : 1)
    for (int i = thread; i < rows * pieces; i += threads) {
      int const row = first + i / pieces;
      int const piece = i % pieces;
      uint4 packed{};
      if (t.first_row + row < t.rows) {
        float const* const from =
            call.q + prefill_query(call, t, Head, t.first_row + row, call.q_stride) + piece * 8;
        float4 const a = *reinterpret_cast<float4 const*>(from);
        float4 const b = *reinterpret_cast<float4 const*>(from + 4);
        packed = {pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w)};
      }
      *reinterpret_cast<uint4*>(to + piece / panel_pieces * (tile * row_bytes) +
                                swizzled<row_bytes>(row, piece % panel_pieces)) = packed;
    }
    async_proxy_fence();
  }

  /// All warps but the first, before they part: the queries of the block's first item.
  static __device__ void bring_first_queries(AttentionCall const& call, int first_sequence, int sequences,
                                             int const* first_item, unsigned char* memory) {
    int const item = static_cast<int>(blockIdx.x);
    if (item < first_item[sequences]) {
      bring_queries(call, prefill_tile(call, first_sequence, sequences, first_item, item, tile), memory, 0, tile,
                    static_cast<int>(threadIdx.x) - warp_size, threads - warp_size);
    }
    named_sync(query_barrier, threads - warp_size);
  }

  /// Three warps: take items, and bring their queries.
  static __device__ void bring_items(AttentionCall const& call, int first_sequence, int sequences,
                                     int const* first_item, unsigned char* memory) {
    Control& c = control(memory);
    int const thread = static_cast<int>(threadIdx.x) - warp_size;
    int const all = first_item[sequences];
    int item = static_cast<int>(blockIdx.x);
    for (int n = 0;; ++n) {
      int const place = n % items;
      if (n >= items) {
        barrier_wait(&c.query_empty[place], (n / items - 1) & 1);
      }
      if (n > 0) {
        if (thread == 0) {
          c.next[n % 2] =
              static_cast<int>(gridDim.x) + atomicAdd(call.next_item + first_sequence / prefill_sequences, 1);
        }
        named_sync(query_barrier, query_threads);
        item = c.next[n % 2];
      }
      bool const more = item < all;
      PrefillTile t{};
      if (more) {
        t = prefill_tile(call, first_sequence, sequences, first_item, item, tile);
      }
      if (thread == 0) {
        c.item[place] = t;
        barrier_arrive(&c.item_full[place]);
      }
      if (more && n > 0 && buffers > 1) {
        bring_queries(call, t, memory + n % buffers * query_bytes, 0, tile, thread, query_threads);
      }
      barrier_arrive(&c.query_full[place]);
      if (!more) {
        return;
      }
    }
  }

  /// One warp: brings tile j of the keys (or values) to stage memory; `full` is complete when it is there.
  template <bool Values>
  static __device__ void bring_tile(AttentionCall const& call, PrefillMaps const& maps, PrefillTile const& t, int j,
                                    unsigned char* to, std::uint64_t* full, std::uint64_t* landed, int& landings) {
    int const lane = static_cast<int>(threadIdx.x) % warp_size;
    int const first = j * keys;
    int const end = min(first + keys, t.s.position + t.s.tokens);
    int const column = t.kv_head * Head;
    CUtensorMap const* map = nullptr;
    int map_rows = keys;
    int row = 0;
    int unit = 0;
    bool const staged = call.staged_key != nullptr;
    if (staged && first >= t.s.position) {
      map = Values ? &maps.staged_value : &maps.staged_key;
      row = static_cast<int>(t.s.begin) + first - t.s.position;
    } else if (maps.rows > 0 && !(staged && end > t.s.position)) {
      map_rows = maps.rows;
      unit = t.s.slot;
      row = cache_row(call, t.s, first);
      if (t.s.pages != nullptr || row + end - first <= call.capacity) {
        map = Values ? &maps.value : &maps.key;
      }
    }
    if (map != nullptr) {
      // Rows after the sequence's end may hold anything, also what is not a number: as values they count as
      // zero.
      bool const whole = !Values || end == first + keys;
      std::uint64_t* const barrier = whole ? full : landed;
      if (lane == 0) {
        int const boxes = (end - first + map_rows - 1) / map_rows;
        barrier_expect(barrier, boxes * map_rows * Head * 2);
        for (int b = 0; b < boxes; ++b) {
          if (t.s.pages != nullptr && map_rows == maps.rows && !(staged && first >= t.s.position)) {
            int const position = first + b * map_rows;
            int const page = position / call.page_size;
            unit = t.s.pages[page];
            row = position - page * call.page_size;
          }
          JET_UNROLL
          for (int p = 0; p < panels; ++p) {
            copy_tile(to + p * (keys * row_bytes) + b * map_rows * row_bytes, *map, barrier,
                      column + p * (row_bytes / 2), row, unit);
          }
        }
      }
      if (!whole) {
        barrier_wait(landed, landings & 1);
        ++landings;
        int const rows = first + keys - end;
        for (int i = lane; i < rows * panels * (row_bytes / 16); i += warp_size) {
          int const r = i / (panels * (row_bytes / 16));
          int const piece = i % (panels * (row_bytes / 16));
          *reinterpret_cast<uint4*>(to + piece / (row_bytes / 16) * (keys * row_bytes) +
                                    (end - first + r) * row_bytes + piece % (row_bytes / 16) * 16) = uint4{};
        }
        async_proxy_fence();
        __syncwarp();
        if (lane == 0) {
          barrier_arrive(full);
        }
      }
      return;
    }
    constexpr int pieces = Head / 8;
    constexpr int panel_pieces = row_bytes / 16;
    std::uint32_t const base = shared_address(to);
    for (int i = lane; i < keys * pieces; i += warp_size) {
      int const r = i / pieces;
      int const piece = i % pieces;
      bool const valid = first + r >= t.low && first + r < end;
      auto const from = prefill_run<bf16>(call, t, Head, valid ? first + r : max(first, t.low));
      copy_async(base + static_cast<std::uint32_t>(piece / panel_pieces * (keys * row_bytes) +
                                                   swizzled<row_bytes>(r, piece % panel_pieces)),
                 (Values ? from.value : from.key) + piece * 8, valid);
    }
    commit_copies();
    wait_copies<0>();
    async_proxy_fence();
    __syncwarp();
    if (lane == 0) {
      barrier_arrive(full);
    }
  }

  /// One warp: brings the keys and values of all items.
  static __device__ void bring_keys(AttentionCall const& call, PrefillMaps const& maps, unsigned char* memory) {
    Control& c = control(memory);
    int const lane = static_cast<int>(threadIdx.x) % warp_size;
    int key_count = 0;
    int value_count = 0;
    int landings = 0;
    for (int n = 0;; ++n) {
      int const place = n % items;
      barrier_wait(&c.item_full[place], n / items & 1);
      PrefillTile const t = c.item[place];
      if (t.rows == 0) {
        return;
      }
      auto const key = [&](int j) {
        int const stage = key_count % stages;
        if (key_count >= stages) {
          barrier_wait(&c.key_empty[stage], (key_count / stages - 1) & 1);
        }
        bring_tile<false>(call, maps, t, j, memory + keys_at + stage * stage_bytes, &c.key_full[stage], &c.landed,
                          landings);
        ++key_count;
      };
      auto const value = [&](int j) {
        int const stage = value_count % stages;
        if (value_count >= stages) {
          barrier_wait(&c.value_empty[stage], (value_count / stages - 1) & 1);
        }
        bring_tile<true>(call, maps, t, j, memory + values_at + stage * stage_bytes, &c.value_full[stage],
                         &c.landed, landings);
        ++value_count;
      };
      int const first_tile = t.low / keys;
      int const last_tile = (t.high - 1) / keys;
      key(last_tile);
      for (int j = last_tile; j > first_tile; --j) {
        key(j - 1);
        value(j);
      }
      value(first_tile);
      __syncwarp();
      if (lane == 0) {
        barrier_arrive(&c.query_empty[place]);
      }
    }
  }

  /// What a thread keeps of its two rows, 8 apart.
  struct Rows {
    int low[2], high[2];  // they see positions [low, high) of its columns
    float top[2], sum[2], keep[2];
  };

  /// Scores to weights: s becomes exp(s - largest so far), keep what earlier sums are worth beside it.
  template <bool Masked> static __device__ void weigh(float (&s)[keys / 2], Rows& rows, int first, float scale) {
    JET_UNROLL
    for (int h = 0; h < 2; ++h) {
      if constexpr (Masked) {
        int const low = rows.low[h] - first;
        int const high = rows.high[h] - first;
        JET_UNROLL
        for (int n = 0; n < keys / 8; ++n) {
          JET_UNROLL
          for (int e = 0; e < 2; ++e) {
            float& x = s[4 * n + 2 * h + e];
            x = n * 8 + e >= low && n * 8 + e < high ? x : -INFINITY;
          }
        }
      }
      float most[4];
      JET_UNROLL
      for (int n = 0; n < keys / 8; ++n) {
        float const x = fmaxf(s[4 * n + 2 * h], s[4 * n + 2 * h + 1]);
        most[n % 4] = n < 4 ? x : fmaxf(most[n % 4], x);
      }
      float largest = fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3]));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      largest = fmaxf(largest, rows.top[h]);
      float const finite = largest == -INFINITY ? 0.0f : largest;
      rows.keep[h] = fast_exp2((rows.top[h] - finite) * scale);  // exactly 1 where the largest is what it was
      rows.top[h] = largest;
      float const reference = finite * scale;
      float total[4];
      JET_UNROLL
      for (int n = 0; n < keys / 8; ++n) {
        float& a = s[4 * n + 2 * h];
        float& b = s[4 * n + 2 * h + 1];
        a = fast_exp2(fmaf(a, scale, -reference));
        b = fast_exp2(fmaf(b, scale, -reference));
        total[n % 4] = n < 4 ? a + b : total[n % 4] + (a + b);
      }
      rows.sum[h] = fmaf(rows.sum[h], rows.keep[h], (total[0] + total[1]) + (total[2] + total[3]));
    }
  }
  static __device__ void round_weights(std::uint32_t (&p)[keys / 16][4], float const (&s)[keys / 2]) {
    JET_UNROLL
    for (int i = 0; i < keys / 16; ++i) {
      JET_UNROLL
      for (int r = 0; r < 4; ++r) {
        p[i][r] = pack_bf16(s[8 * i + 2 * r], s[8 * i + 2 * r + 1]);
      }
    }
  }
  static __device__ void hold(std::uint32_t (&p)[keys / 16][4]) {
    JET_UNROLL
    for (int i = 0; i < keys / 16; ++i) {
      JET_UNROLL
      for (int r = 0; r < 4; ++r) {
        asm volatile("" : "+r"(p[i][r])::"memory");
      }
    }
  }
  static __device__ void scores(float (&s)[keys / 2], std::uint64_t query, std::uint64_t key) {
    JET_UNROLL
    for (int k = 0; k < Head / 16; ++k) {
      int const panel = k * 32 / row_bytes;
      int const within = k * 32 % row_bytes;
      wgmma<__nv_bfloat16, keys>(s, wgmma_advance(query, panel * tile * row_bytes + within),
                                 wgmma_advance(key, panel * keys * row_bytes + within), k > 0);
    }
    wgmma_commit();
  }
  static __device__ void weighted(float (&o)[Head / 2], std::uint32_t const (&p)[keys / 16][4],
                                  std::uint64_t value) {
    JET_UNROLL
    for (int i = 0; i < keys / 16; ++i) {
      wgmma<__nv_bfloat16, Head, true>(o, p[i], wgmma_advance(value, i * 2 * block_bytes));
    }
    wgmma_commit();
  }

  /// A warpgroup computes its 64 rows of all items.
  static __device__ void attend(AttentionCall const& call, unsigned char* memory, int group) {
    Control& c = control(memory);
    int const thread = static_cast<int>(threadIdx.x) % group_threads;
    int const lane = thread % warp_size;
    int const own_row = group * 64 + thread / warp_size * 16 + lane / 4;  // and 8 on
    int const pair = lane % 4 * 2;
    std::uint64_t const queries = wgmma_rows<swizzle>(
        shared_address(memory) + static_cast<std::uint32_t>(group * 64 * row_bytes), block_bytes);
    std::uint64_t const key_tiles = wgmma_rows<swizzle>(shared_address(memory + keys_at), block_bytes);
    std::uint64_t const value_tiles =
        wgmma_columns<swizzle>(shared_address(memory + values_at), block_bytes, keys * row_bytes);
    // Rows of the output begin at multiples of 16 bytes.
    bool const wide = call.o_bf16 && reinterpret_cast<std::uintptr_t>(call.o) % 16 == 0 && call.o_stride % 8 == 0;
    int count = 0;  // tiles of keys before this one
    auto const release = [&](std::uint64_t* barrier) {
      if (lane == 0) {
        barrier_arrive(barrier);
      }
    };
    for (int n = 0;; ++n) {
      int const place = n % items;
      barrier_wait(&c.query_full[place], n / items & 1);
      PrefillTile const& t = c.item[place];
      if (t.rows == 0) {
        return;
      }
      if constexpr (buffers == 1) {
        bring_queries(call, t, memory, group * 64, 64, thread, group_threads);
        named_sync(group_barrier + group, group_threads);
      }
      std::uint64_t const query = wgmma_advance(queries, n % buffers * query_bytes);
      Rows rows;
      JET_UNROLL
      for (int h = 0; h < 2; ++h) {
        int const row = min(t.first_row + own_row + 8 * h, t.rows - 1);
        int const position = t.s.position + row / call.group;
        rows.low[h] = prefill_low(call, t.s, position) - pair;
        rows.high[h] = position + 1 - pair;
        rows.top[h] = -INFINITY;
        rows.sum[h] = 0;
      }
      int const first_tile = t.low / keys;
      int const last_tile = (t.high - 1) / keys;
      // Tiles [free_first, free_end) are seen whole by all 64 rows.
      int const last_row = min(t.first_row + group * 64 + 63, t.rows - 1);
      int const first_row = min(t.first_row + group * 64, t.rows - 1);
      int const free_first = (prefill_low(call, t.s, t.s.position + last_row / call.group) + keys - 1) / keys;
      int const free_end = (t.s.position + first_row / call.group + 1) / keys;
      float o[Head / 2];
      JET_UNROLL
      for (int i = 0; i < Head / 2; ++i) {
        o[i] = 0;
      }
      float s[keys / 2];
      std::uint32_t p[keys / 16][4];
      if (group == 1) {
        named_arrive(turn_barrier, 2 * group_threads);
      }

      barrier_wait(&c.key_full[count % stages], count / stages & 1);
      wgmma_fence();
      scores(s, query, wgmma_advance(key_tiles, count % stages * stage_bytes));
      wgmma_wait<0>();
      wgmma_hold(s);
      release(&c.key_empty[count % stages]);
      if (last_tile >= free_end || last_tile < free_first) {
        weigh<true>(s, rows, last_tile * keys, call.scale);
      } else {
        weigh<false>(s, rows, last_tile * keys, call.scale);
      }
      round_weights(p, s);

      auto const step = [&]<bool Masked>(int j) {
        int const stage = (count + 1) % stages;
        int const before = count % stages;
        barrier_wait(&c.key_full[stage], (count + 1) / stages & 1);
        wgmma_hold(o);
        hold(p);
        named_sync(turn_barrier + group, 2 * group_threads);
        wgmma_fence();
        scores(s, query, wgmma_advance(key_tiles, stage * stage_bytes));
        barrier_wait(&c.value_full[before], count / stages & 1);
        wgmma_fence();
        weighted(o, p, wgmma_advance(value_tiles, before * stage_bytes));
        if (group == 0 || j > first_tile) {
          named_arrive(turn_barrier + 1 - group, 2 * group_threads);
        }
        wgmma_wait<1>();
        wgmma_hold(s);
        release(&c.key_empty[stage]);
        weigh<Masked>(s, rows, j * keys, call.scale);
        wgmma_wait<0>();
        wgmma_hold(o);
        hold(p);
        release(&c.value_empty[before]);
        JET_UNROLL
        for (int i = 0; i < Head / 2; ++i) {
          o[i] *= rows.keep[i / 2 % 2];
        }
        round_weights(p, s);
        ++count;
      };
      int j = last_tile - 1;
      for (; j >= max(first_tile, free_end); --j) {
        step.template operator()<true>(j);
      }
      for (; j >= max(first_tile, free_first); --j) {
        step.template operator()<false>(j);
      }
      for (; j >= first_tile; --j) {
        step.template operator()<true>(j);
      }
      if (group == 0 && last_tile == first_tile) {
        named_sync(turn_barrier, 2 * group_threads);  // takes the turn that nobody needed
      }
      barrier_wait(&c.value_full[count % stages], count / stages & 1);
      wgmma_hold(o);
      hold(p);
      wgmma_fence();
      weighted(o, p, wgmma_advance(value_tiles, count % stages * stage_bytes));
      wgmma_wait<0>();
      wgmma_hold(o);
      release(&c.value_empty[count % stages]);
      ++count;

      JET_UNROLL
      for (int h = 0; h < 2; ++h) {
        float total = rows.sum[h];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        float const scale = 1.0f / total;
        int const row = t.first_row + own_row + 8 * h;
        bool const exists = row < t.rows;
        i64 const to = prefill_query(call, t, Head, min(row, t.rows - 1), call.o_stride);
        if (!wide) {
          JET_UNROLL
          for (int i = 0; i < Head / 8; ++i) {
            float const a = o[4 * i + 2 * h] * scale;
            float const b = o[4 * i + 2 * h + 1] * scale;
            i64 const at = to + pair + i * 8;
            if (exists && call.o_bf16) {
              *reinterpret_cast<std::uint32_t*>(static_cast<bf16*>(call.o) + at) = pack_bf16(a, b);
            } else if (exists) {
              *reinterpret_cast<float2*>(static_cast<float*>(call.o) + at) = make_float2(a, b);
            }
          }
          continue;
        }
        // Four lanes have two columns each of four times eight: they exchange them, and each has one eight.
        JET_UNROLL
        for (int i = 0; i < Head / 8; i += 4) {
          std::uint32_t w[4];
          JET_UNROLL
          for (int e = 0; e < 4; ++e) {
            w[e] = pack_bf16(o[4 * (i + e) + 2 * h] * scale, o[4 * (i + e) + 2 * h + 1] * scale);
          }
          bool const odd = lane % 2 != 0;
          JET_UNROLL
          for (int e = 0; e < 4; e += 2) {
            std::uint32_t const got = __shfl_xor_sync(0xffffffffu, odd ? w[e] : w[e + 1], 1);
            w[e] = odd ? got : w[e];
            w[e + 1] = odd ? w[e + 1] : got;
          }
          bool const upper = lane % 4 >= 2;
          JET_UNROLL
          for (int e = 0; e < 2; ++e) {
            std::uint32_t const got = __shfl_xor_sync(0xffffffffu, upper ? w[e] : w[e + 2], 2);
            w[e] = upper ? got : w[e];
            w[e + 2] = upper ? w[e + 2] : got;
          }
          if (exists) {
            *reinterpret_cast<uint4*>(static_cast<bf16*>(call.o) + to + (i + lane % 4) * 8) = {w[0], w[1], w[2],
                                                                                               w[3]};
          }
        }
      }
      __syncwarp();
      release(&c.query_empty[place]);
    }
  }
};

/// Sequences [first_sequence, first_sequence + sequences) of the call that have two tokens or more. Blocks take
/// tiles until none are left. Shared memory: the path's, then the table of tiles.
template <class Path>
__global__ void __launch_bounds__(Path::threads, 1)
    attention_wgmma_kernel(AttentionCall const __grid_constant__ call, PrefillMaps const __grid_constant__ maps,
                           int first_sequence, int sequences) {
  if constexpr (has_wgmma) {
    extern __shared__ __align__(1024) unsigned char wgmma_memory[];
    std::uint32_t const base = shared_address(wgmma_memory);
    unsigned char* const memory =
        wgmma_memory + ((base + Path::alignment - 1) / Path::alignment * Path::alignment - base);
    int* const first_item = reinterpret_cast<int*>(memory + Path::table_at);
    if (threadIdx.x == 0) {
      Path::prepare(memory);
    }
    count_items(sequences, first_item, [&](int i) {
      return prefill_tiles(attention_sequence(call, first_sequence + i).tokens, call.group, call.kv_heads,
                           Path::tile);
    });
    int const warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / warp_size, 0);
    if (Path::buffers > 1 && warp > 0) {
      Path::bring_first_queries(call, first_sequence, sequences, first_item, memory);
    }
    if (warp < 4) {
      fewer_registers<Path::loading_registers>();
      if (warp == 0) {
        Path::bring_keys(call, maps, memory);
      } else {
        Path::bring_items(call, first_sequence, sequences, first_item, memory);
      }
    } else {
      more_registers<Path::computing_registers>();
      Path::attend(call, memory, warp / 4 - 1);
    }
  }
}

/// Queues the kernel for the sequences of the call that have two tokens or more, as attention_prefill does.
/// `units`: slots or pages of the cache, 0 without one.
template <class Path, class Lengths>
void attention_wgmma(cudaStream_t stream, int multiprocessors, AttentionCall const& call, i64 units, bool known,
                     Lengths const& lengths) {
  PrefillMaps maps{};
  i64 const width = i64{call.kv_heads} * Path::head;
  constexpr int columns = Path::row_bytes / 2;
  if (call.capacity > 0) {
    int const unit_rows = call.capacity;
    int const page = call.pages == nullptr ? Path::keys : call.page_size;
    maps.rows = page % Path::keys == 0 ? Path::keys : Path::keys % page == 0 && page % 8 == 0 ? page : 0;
    if (maps.rows > 0) {
      auto const map = [&](AttentionCache const& cache) {
        return tensor_map<3>(DType::bf16, cache.data,
                             {{{width, 0, columns},
                               {unit_rows, cache.row_stride * 2, maps.rows},
                               {units, cache.unit_stride * 2, 1}}},
                             Path::swizzle);
      };
      maps.key = map(call.key);
      maps.value = map(call.value);
    }
  }
  if (call.staged_key != nullptr) {
    auto const map = [&](void const* data) {
      return tensor_map<3>(
          DType::bf16, data,
          {{{width, 0, columns}, {call.tokens, width * 2, Path::keys}, {1, call.tokens * width * 2, 1}}},
          Path::swizzle);
    };
    maps.staged_key = map(call.staged_key);
    maps.staged_value = map(call.staged_value);
  }
  for (int first = 0; first < call.seqs; first += prefill_sequences) {
    int const n = std::min(call.seqs - first, prefill_sequences);
    i64 const tiles = prefill_grid<Path::tile>(call, first, n, known, lengths);
    launch(
        "attention_prefill",
        Grid{std::min<i64>(tiles, multiprocessors), Path::threads, Path::shared_bytes + (n + 1) * i64{sizeof(int)}},
        stream, &attention_wgmma_kernel<Path>, call, maps, first, n);
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
