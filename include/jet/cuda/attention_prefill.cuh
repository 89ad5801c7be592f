/// \file
/// Attention of sequences that have two tokens or more in a call: tiles of keys with an online softmax (arXiv
/// 2205.14135, 2307.08691). A block takes a tile of rows, a row being one query head of one token; the query heads
/// of a kv head are packed side by side, so that short calls fill the tile and keys are shared.
///
/// Tiles of keys begin at multiples of their size in absolute positions, and keys that a row does not see add
/// nothing: the result of a row has the same bits however the sequence is cut into calls (of two tokens or more).
#pragma once

#include <algorithm>
#include <cstdint>

#include <cuda_runtime.h>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/attention_rows.cuh>
#include <jet/cuda/copy_async.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/mma.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/vector.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

inline constexpr int prefill_sequences = 2048;  // sequences of a launch

/// A block's part of a call: rows [first_row, first_row + tile) of a sequence and kv head, row = token * group +
/// query head of the group. They see positions [low, high).
struct PrefillTile {
  AttentionSequence s;
  int kv_head;
  int first_row, rows;  // rows: of the whole sequence
  int low, high;
};

/// Tiles of `tile` rows of a sequence, all kv heads.
JET_HD constexpr int prefill_tiles(i64 tokens, int group, int kv_heads, int tile) {
  return tokens < 2 ? 0 : static_cast<int>((tokens * group + tile - 1) / tile * kv_heads);
}

/// First position that the token at `position` sees.
__device__ inline int prefill_low(AttentionCall const& call, AttentionSequence const& s, int position) {
  int const oldest = call.capacity == 0 ? s.position : 0;
  return call.window == 0 ? oldest : max(oldest, position - call.window + 1);
}

/// Finds the part of block `item`; the last rows, which see most, first.
__device__ inline PrefillTile prefill_tile(AttentionCall const& call, int first_sequence, int sequences,
                                           int const* first_item, int item, int tile) {
  int const sequence = find_sequence(first_item, sequences, item);
  int const local = item - first_item[sequence];
  int const tiles = (first_item[sequence + 1] - first_item[sequence]) / call.kv_heads;
  PrefillTile t;
  t.s = attention_sequence(call, first_sequence + sequence);
  t.kv_head = local % call.kv_heads;
  t.first_row = (tiles - 1 - local / call.kv_heads) * tile;
  t.rows = t.s.tokens * call.group;
  t.low = prefill_low(call, t.s, t.s.position + t.first_row / call.group);
  t.high = t.s.position + (min(t.first_row + tile, t.rows) - 1) / call.group + 1;
  return t;
}

/// The key and the value of a position, of the tile's kv head, and how many positions follow at the same strides.
template <class KV> struct PrefillRun {
  KV const* key;
  KV const* value;
  i64 key_stride, value_stride;
  int count;
  f16 const *key_scale, *value_scale;  // of fp8; those of the next position are kv_heads on
};
template <class KV>
__device__ PrefillRun<KV> prefill_run(AttentionCall const& call, PrefillTile const& t, int head, int position) {
  bool const staged = call.staged_key != nullptr;
  if (staged && position >= t.s.position) {
    i64 const stride = call.kv_heads * head;
    i64 const at = (t.s.begin + position - t.s.position) * stride + t.kv_head * head;
    return {static_cast<KV const*>(call.staged_key) + at,
            static_cast<KV const*>(call.staged_value) + at,
            stride,
            stride,
            t.high - position,
            call.staged_key_scale + (t.s.begin + position - t.s.position) * call.kv_heads + t.kv_head,
            call.staged_value_scale + (t.s.begin + position - t.s.position) * call.kv_heads + t.kv_head};
  }
  int const row = cache_row(call, t.s, position);
  int const column = t.kv_head * head;
  int const left = t.s.pages == nullptr ? call.capacity - row : call.page_size - row % call.page_size;
  return {static_cast<KV const*>(call.key.data) + cache_offset(call, t.s, call.key, row) + column,
          static_cast<KV const*>(call.value.data) + cache_offset(call, t.s, call.value, row) + column,
          call.key.row_stride,
          call.value.row_stride,
          staged ? min(left, t.s.position - position) : left,
          call.key.scale + scale_offset(call, t.s, call.key, row) + t.kv_head,
          call.value.scale + scale_offset(call, t.s, call.value, row) + t.kv_head};
}

/// Element offset of the query (or output) of row `row`.
__device__ inline i64 prefill_query(AttentionCall const& call, PrefillTile const& t, int head, int row,
                                    i64 stride) {
  int const token = row / call.group;
  return (t.s.begin + token) * stride + (t.kv_head * call.group + row - token * call.group) * head;
}

/// 2^x to two units in the last place; tiny results are zero.
__device__ inline float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Keys and values in bf16 or fp8, head a multiple of 16: products on the tensor cores in bf16, queries and weights
/// rounded to it, fp8 widened exactly; softmax and sums in fp32.
template <int Head, class KV> struct PrefillMma {
  static_assert(Head % 16 == 0);
  static constexpr bool f8 = is_f8<KV>;
  static constexpr int head = Head;
  static constexpr int warps = 4;
  static constexpr int threads = warps * warp_size;
  static constexpr int parts = Head <= 128 ? 2 : 1;  // of 16 rows, of each warp
  static constexpr int tile = warps * parts * 16;    // rows
  static constexpr int keys = Head <= 128 ? 64 : 32;
  static constexpr int blocks_each = 2;                // of a multiprocessor
  static constexpr int chunks = Head / 8;              // 16-byte chunks of a row
  static constexpr int row_bytes = (chunks + 1) * 16;  // an odd number of chunks: no bank conflicts
  static constexpr int query_bytes = tile * row_bytes;
  static constexpr int key_bytes = keys * row_bytes;
  static constexpr int stage_bytes = 2 * key_bytes;                // keys, then values
  static constexpr int scales_at = query_bytes + 2 * stage_bytes;  // of the stages' keys, then values, as floats
  static constexpr int shared_bytes = scales_at + (f8 ? 4 * keys * 4 : 0);

  /// Queues the copies of keys and values of positions [first, first + keys) into a stage; fp8 is there when it
  /// returns.
  static __device__ void load(AttentionCall const& call, PrefillTile const& t, int first, unsigned char* memory,
                              int stage, int thread) {
    int const begin = max(first, t.low);
    auto const run = prefill_run<KV>(call, t, Head, begin);
    if (run.count >= min(first + keys, t.high) - begin) {
      load_rows(t, first, memory, stage, thread, [&](int position) {
        int const n = position - begin;
        return PrefillRun<KV>{run.key + n * run.key_stride,      run.value + n * run.value_stride,   0, 0, 0,
                              run.key_scale + n * call.kv_heads, run.value_scale + n * call.kv_heads};
      });
    } else {
      load_rows(t, first, memory, stage, thread,
                [&](int position) { return prefill_run<KV>(call, t, Head, position); });
    }
  }
  template <class At>
  static __device__ void load_rows(PrefillTile const& t, int first, unsigned char* memory, int stage, int thread,
                                   At const& at) {
    unsigned char* const to = memory + query_bytes + stage * stage_bytes;
    if constexpr (f8) {
      for (int index = thread; index < keys * chunks / 2; index += threads) {
        int const row = index / (chunks / 2);
        int const chunk = index % (chunks / 2);
        int const position = first + row;
        uint4 key{};
        uint4 value{};
        if (position >= t.low && position < t.high) {
          auto const from = at(position);
          key = *reinterpret_cast<uint4 const*>(from.key + chunk * 16);
          value = *reinterpret_cast<uint4 const*>(from.value + chunk * 16);
        }
        widen(key, to + row * row_bytes + chunk * 32);
        widen(value, to + key_bytes + row * row_bytes + chunk * 32);
      }
      auto* const scales = reinterpret_cast<float*>(memory + scales_at) + stage * 2 * keys;
      for (int row = thread; row < keys; row += threads) {
        int const position = first + row;
        bool const valid = position >= t.low && position < t.high;
        auto const from = at(valid ? position : max(first, t.low));
        scales[row] = valid ? static_cast<float>(*from.key_scale) : 0.0f;
        scales[keys + row] = valid ? static_cast<float>(*from.value_scale) : 0.0f;
      }
    } else {
      std::uint32_t const base = shared_address(to);
      JET_UNROLL
      for (int i = 0; i < keys * chunks / threads; ++i) {
        int const index = thread + i * threads;
        int const row = index / chunks;
        int const chunk = index % chunks;
        int const position = first + row;
        bool const valid = position >= t.low && position < t.high;
        auto const from = at(valid ? position : max(first, t.low));
        std::uint32_t const address = base + static_cast<std::uint32_t>(row * row_bytes + chunk * 16);
        copy_async(address, from.key + chunk * 8, valid);
        copy_async(address + key_bytes, from.value + chunk * 8, valid);
      }
    }
  }
  /// Sixteen numbers in fp8 as bf16.
  static __device__ void widen(uint4 const& x, unsigned char* to) {
    auto* const at = reinterpret_cast<uint4*>(to);
    at[0] = {f8_pair_01(x.x), f8_pair_23(x.x), f8_pair_01(x.y), f8_pair_23(x.y)};
    at[1] = {f8_pair_01(x.z), f8_pair_23(x.z), f8_pair_01(x.w), f8_pair_23(x.w)};
  }

  static __device__ void attend(AttentionCall const& call, PrefillTile const& t, unsigned char* memory) {
    static_assert(keys * chunks % threads == 0);
    int const thread = static_cast<int>(threadIdx.x);
    int const lane = thread % warp_size;
    int const first_row = thread / warp_size * (parts * 16);  // of this warp, in the tile
    int const pair = lane % 4 * 2;
    std::uint32_t const queries = shared_address(memory);
    std::uint32_t const stages = queries + query_bytes;

    int const first_tile = t.low / keys;
    int const last_tile = (t.high + keys - 1) / keys;
    load(call, t, first_tile * keys, memory, 0, thread);
    commit_copies();
    for (int i = thread; i < tile * chunks; i += threads) {
      int const row = i / chunks;
      int const chunk = i % chunks;
      uint4 packed{};
      if (t.first_row + row < t.rows) {
        float const* const from =
            call.q + prefill_query(call, t, Head, t.first_row + row, call.q_stride) + chunk * 8;
        float4 const a = *reinterpret_cast<float4 const*>(from);
        float4 const b = *reinterpret_cast<float4 const*>(from + 4);
        packed = {pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w)};
      }
      *reinterpret_cast<uint4*>(memory + row * row_bytes + chunk * 16) = packed;
    }

    // Of this lane's rows, [part][half], the half being 8 rows on.
    float top[parts][2];
    float sum[parts][2];
    JET_UNROLL
    for (int m = 0; m < parts; ++m) {
      top[m][0] = top[m][1] = -INFINITY;
      sum[m][0] = sum[m][1] = 0;
    }
    int const warp_first = min(t.first_row + first_row, t.rows - 1);
    int const warp_last = min(t.first_row + first_row + parts * 16, t.rows) - 1;
    // Positions that all rows of the warp see: [all_low, all_high); that any sees: [any_low, any_high).
    int const any_low = prefill_low(call, t.s, t.s.position + warp_first / call.group);
    int const all_low = prefill_low(call, t.s, t.s.position + max(warp_first, warp_last) / call.group);
    int const all_high = t.s.position + warp_first / call.group + 1;
    int const any_high =  // none, if the warp has no rows
        t.first_row + first_row < t.rows ? t.s.position + warp_last / call.group + 1 : 0;

    float out[parts][Head / 8][4]{};
    std::uint32_t const query_lane =
        queries + static_cast<std::uint32_t>((first_row + lane % 16) * row_bytes + lane / 16 * 16);
    std::uint32_t const key_lane =
        static_cast<std::uint32_t>((lane % 8 + lane / 16 * 8) * row_bytes + lane / 8 % 2 * 16);
    std::uint32_t const value_lane = static_cast<std::uint32_t>(key_bytes + lane % 16 * row_bytes + lane / 16 * 16);
    for (int j = first_tile; j < last_tile; ++j) {
      int const first = j * keys;
      wait_copies<0>();
      __syncthreads();  // the tile is there, and nobody reads the other stage any more
      if (j + 1 < last_tile) {
        load(call, t, first + keys, memory, (j + 1 - first_tile) % 2, thread);
        commit_copies();
      }
      if (first >= any_high || first + keys <= any_low) {
        continue;  // nothing here is seen by this warp's rows
      }
      std::uint32_t const at = stages + static_cast<std::uint32_t>((j - first_tile) % 2 * 2 * key_bytes);
      float s[parts][keys / 8][4]{};
      JET_UNROLL
      for (int d = 0; d < Head / 16; ++d) {
        std::uint32_t q[parts][4];
        JET_UNROLL
        for (int m = 0; m < parts; ++m) {
          load_matrices(q[m], query_lane + static_cast<std::uint32_t>(m * 16 * row_bytes + d * 32));
        }
        JET_UNROLL
        for (int n = 0; n < keys / 16; ++n) {
          std::uint32_t k[4];
          load_matrices(k, at + key_lane + static_cast<std::uint32_t>(n * 16 * row_bytes + d * 32));
          JET_UNROLL
          for (int m = 0; m < parts; ++m) {
            mma_bf16(s[m][2 * n], q[m], k[0], k[1]);
            mma_bf16(s[m][2 * n + 1], q[m], k[2], k[3]);
          }
        }
      }
      [[maybe_unused]] auto const* const scales =
          reinterpret_cast<float const*>(memory + scales_at) + (j - first_tile) % 2 * 2 * keys + pair;
      if constexpr (f8) {
        JET_UNROLL
        for (int n = 0; n < keys / 8; ++n) {
          float2 const scale = *reinterpret_cast<float2 const*>(scales + n * 8);
          JET_UNROLL
          for (int m = 0; m < parts; ++m) {
            s[m][n][0] *= scale.x;
            s[m][n][1] *= scale.y;
            s[m][n][2] *= scale.x;
            s[m][n][3] *= scale.y;
          }
        }
      }
      bool const masked = first < all_low || first + keys > all_high;
      JET_UNROLL
      for (int m = 0; m < parts; ++m) {
        JET_UNROLL
        for (int h = 0; h < 2; ++h) {
          float largest = top[m][h];
          if (masked) {
            int const row = min(t.first_row + first_row + m * 16 + h * 8 + lane / 4, t.rows - 1);
            int const position = t.s.position + row / call.group;
            int const low = prefill_low(call, t.s, position) - first - pair;
            int const high = position + 1 - first - pair;
            JET_UNROLL
            for (int n = 0; n < keys / 8; ++n) {
              JET_UNROLL
              for (int e = 0; e < 2; ++e) {
                bool const seen = n * 8 + e >= low && n * 8 + e < high;
                s[m][n][2 * h + e] = seen ? s[m][n][2 * h + e] : -INFINITY;
              }
            }
          }
          JET_UNROLL
          for (int n = 0; n < keys / 8; ++n) {
            largest = fmaxf(largest, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
          }
          largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
          largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
          float const reference = largest == -INFINITY ? 0.0f : largest * call.scale;
          float const keep = fast_exp2(fmaf(top[m][h], call.scale, -reference));
          top[m][h] = largest;
          float total = 0;
          JET_UNROLL
          for (int n = 0; n < keys / 8; ++n) {
            JET_UNROLL
            for (int e = 0; e < 2; ++e) {
              float const weight = fast_exp2(fmaf(s[m][n][2 * h + e], call.scale, -reference));
              s[m][n][2 * h + e] = weight;
              total += weight;
            }
          }
          sum[m][h] = sum[m][h] * keep + total;
          JET_UNROLL
          for (int n = 0; n < Head / 8; ++n) {
            out[m][n][2 * h] *= keep;
            out[m][n][2 * h + 1] *= keep;
          }
        }
      }
      if constexpr (f8) {
        JET_UNROLL
        for (int n = 0; n < keys / 8; ++n) {
          float2 const scale = *reinterpret_cast<float2 const*>(scales + keys + n * 8);
          JET_UNROLL
          for (int m = 0; m < parts; ++m) {
            s[m][n][0] *= scale.x;
            s[m][n][1] *= scale.y;
            s[m][n][2] *= scale.x;
            s[m][n][3] *= scale.y;
          }
        }
      }
      JET_UNROLL
      for (int n = 0; n < keys / 16; ++n) {
        std::uint32_t w[parts][4];
        JET_UNROLL
        for (int m = 0; m < parts; ++m) {
          w[m][0] = pack_bf16(s[m][2 * n][0], s[m][2 * n][1]);
          w[m][1] = pack_bf16(s[m][2 * n][2], s[m][2 * n][3]);
          w[m][2] = pack_bf16(s[m][2 * n + 1][0], s[m][2 * n + 1][1]);
          w[m][3] = pack_bf16(s[m][2 * n + 1][2], s[m][2 * n + 1][3]);
        }
        JET_UNROLL
        for (int d = 0; d < Head / 16; ++d) {
          std::uint32_t v[4];
          load_matrices_transposed(v, at + value_lane + static_cast<std::uint32_t>(n * 16 * row_bytes + d * 32));
          JET_UNROLL
          for (int m = 0; m < parts; ++m) {
            mma_bf16(out[m][2 * d], w[m], v[0], v[1]);
            mma_bf16(out[m][2 * d + 1], w[m], v[2], v[3]);
          }
        }
      }
    }
    JET_UNROLL
    for (int m = 0; m < parts; ++m) {
      JET_UNROLL
      for (int h = 0; h < 2; ++h) {
        float total = sum[m][h];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        float const scale = 1.0f / total;
        int const row = t.first_row + first_row + m * 16 + h * 8 + lane / 4;
        if (row >= t.rows) {
          continue;
        }
        i64 const to = prefill_query(call, t, Head, row, call.o_stride) + pair;
        JET_UNROLL
        for (int n = 0; n < Head / 8; ++n) {
          float const a = out[m][n][2 * h] * scale;
          float const b = out[m][n][2 * h + 1] * scale;
          if (call.o_bf16) {
            *reinterpret_cast<std::uint32_t*>(static_cast<bf16*>(call.o) + to + n * 8) = pack_bf16(a, b);
          } else {
            *reinterpret_cast<float2*>(static_cast<float*>(call.o) + to + n * 8) = make_float2(a, b);
          }
        }
      }
    }
  }
};

/// Any head and any storage, in plain fp32. A warp has eight rows; a lane has one of 32 keys for the scores, then
/// some columns for the values.
template <int Head, class KV> struct PrefillPlain {
  static constexpr int head = Head;
  static constexpr int warps = 4;
  static constexpr int threads = warps * warp_size;
  static constexpr int each_rows = 8;
  static constexpr int tile = warps * each_rows;
  static constexpr int keys = warp_size;
  static constexpr int blocks_each = 1;
  static constexpr int width = (Head + 3) / 4 * 4;                     // of a row, padded with zeros
  static constexpr int key_stride = width + (width / 4 % 2 == 0) * 4;  // an odd number of 16-byte chunks
  static constexpr int each = (Head + warp_size - 1) / warp_size;      // columns of a lane: lane, lane + 32, ...
  static constexpr int shared_bytes = (tile * width + keys * key_stride + keys * width) * 4;

  static __device__ void attend(AttentionCall const& call, PrefillTile const& t, unsigned char* memory) {
    int const thread = static_cast<int>(threadIdx.x);
    int const lane = thread % warp_size;
    int const first_row = thread / warp_size * each_rows;
    auto* const queries = reinterpret_cast<float*>(memory);
    float* const key_rows = queries + tile * width;
    float* const value_rows = key_rows + keys * key_stride;
    for (int i = thread; i < tile * width; i += threads) {
      int const row = t.first_row + i / width;
      int const column = i % width;
      queries[i] = row < t.rows && column < Head
                       ? call.q[prefill_query(call, t, Head, row, call.q_stride) + column] * call.scale
                       : 0.0f;
    }
    float top[each_rows];
    float sum[each_rows];
    float out[each_rows][each]{};
    int row_low[each_rows];
    int row_high[each_rows];
    JET_UNROLL
    for (int r = 0; r < each_rows; ++r) {
      int const position = t.s.position + min(t.first_row + first_row + r, t.rows - 1) / call.group;
      row_low[r] = prefill_low(call, t.s, position);
      row_high[r] = position + 1;
      top[r] = -INFINITY;
      sum[r] = 0;
    }
    for (int first = t.low / keys * keys; first < t.high; first += keys) {
      __syncthreads();
      for (int i = thread; i < keys * width; i += threads) {
        int const row = i / width;
        int const column = i % width;
        int const position = first + row;
        float key = 0;
        float value = 0;
        if (position >= t.low && position < t.high && column < Head) {
          auto const from = prefill_run<KV>(call, t, Head, position);
          key = static_cast<float>(from.key[column]);
          value = static_cast<float>(from.value[column]);
          if constexpr (is_f8<KV>) {
            key *= static_cast<float>(*from.key_scale);
            value *= static_cast<float>(*from.value_scale);
          }
        }
        key_rows[row * key_stride + column] = key;
        value_rows[row * width + column] = value;
      }
      __syncthreads();
      float s[each_rows]{};
      for (int d = 0; d < width; d += 4) {
        float4 const k = *reinterpret_cast<float4 const*>(key_rows + lane * key_stride + d);
        JET_UNROLL
        for (int r = 0; r < each_rows; ++r) {
          float4 const q = *reinterpret_cast<float4 const*>(queries + (first_row + r) * width + d);
          s[r] = fmaf(q.x, k.x, fmaf(q.y, k.y, fmaf(q.z, k.z, fmaf(q.w, k.w, s[r]))));
        }
      }
      JET_UNROLL
      for (int r = 0; r < each_rows; ++r) {
        int const position = first + lane;
        float const x = position >= row_low[r] && position < row_high[r] ? s[r] : -INFINITY;
        float largest = fmaxf(top[r], x);
        for (int offset = warp_size / 2; offset > 0; offset /= 2) {
          largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
        }
        float const reference = largest == -INFINITY ? 0.0f : largest;
        float const keep = exp2f(top[r] - reference);
        top[r] = largest;
        s[r] = exp2f(x - reference);
        sum[r] = sum[r] * keep + s[r];  // of this lane's keys
        JET_UNROLL
        for (int c = 0; c < each; ++c) {
          out[r][c] *= keep;
        }
      }
      for (int j = 0; j < keys; ++j) {
        float v[each];
        JET_UNROLL
        for (int c = 0; c < each; ++c) {
          int const column = lane + c * warp_size;
          v[c] = column < Head ? value_rows[j * width + column] : 0.0f;
        }
        JET_UNROLL
        for (int r = 0; r < each_rows; ++r) {
          float const weight = __shfl_sync(0xffffffffu, s[r], j);
          JET_UNROLL
          for (int c = 0; c < each; ++c) {
            out[r][c] = fmaf(weight, v[c], out[r][c]);
          }
        }
      }
    }
    JET_UNROLL
    for (int r = 0; r < each_rows; ++r) {
      float const scale = 1.0f / warp_sum(sum[r]);
      int const row = t.first_row + first_row + r;
      if (row >= t.rows) {
        continue;
      }
      i64 const to = prefill_query(call, t, Head, row, call.o_stride);
      JET_UNROLL
      for (int c = 0; c < each; ++c) {
        int const column = lane + c * warp_size;
        if (column < Head) {
          if (call.o_bf16) {
            static_cast<bf16*>(call.o)[to + column] = bf16(out[r][c] * scale);
          } else {
            static_cast<float*>(call.o)[to + column] = out[r][c] * scale;
          }
        }
      }
    }
  }
};

/// Sequences [first_sequence, first_sequence + sequences) of the call that have two tokens or more. One block for a
/// tile; blocks beyond the last do nothing. Shared memory: the path's, then the table of tiles.
template <class Path>
__global__ void __launch_bounds__(Path::threads, Path::blocks_each)
    attention_prefill_kernel(AttentionCall const call, int first_sequence, int sequences) {
  extern __shared__ __align__(16) unsigned char prefill_memory[];
  int* const first_item = reinterpret_cast<int*>(prefill_memory + Path::shared_bytes);
  count_items(sequences, first_item, [&](int i) {
    return prefill_tiles(attention_sequence(call, first_sequence + i).tokens, call.group, call.kv_heads,
                         Path::tile);
  });
  int const item = static_cast<int>(blockIdx.x);
  if (item >= first_item[sequences]) {
    return;
  }
  Path::attend(call, prefill_tile(call, first_sequence, sequences, first_item, item, Path::tile), prefill_memory);
}

/// Tiles of `Tile` rows of sequences [first, first + n) of the call. `lengths` gives their tokens on the host;
/// without it (`known` false) as many as any cut of the tokens into sequences needs.
template <int Tile, class Lengths>
i64 prefill_grid(AttentionCall const& call, int first, int n, bool known, Lengths const& lengths) {
  if (!known) {
    return (call.tokens * call.group / Tile + n) * call.kv_heads;
  }
  i64 tiles = 0;
  for (int i = first; i < first + n; ++i) {
    tiles += prefill_tiles(lengths(i), call.group, call.kv_heads, Tile);
  }
  return tiles;
}

/// Queues the kernel for the sequences of the call that have two tokens or more. `lengths` as in prefill_grid.
template <class Path, class Lengths>
void attention_prefill(cudaStream_t stream, AttentionCall const& call, bool known, Lengths const& lengths) {
  for (int first = 0; first < call.seqs; first += prefill_sequences) {
    int const n = std::min(call.seqs - first, prefill_sequences);
    launch("attention_prefill",
           Grid{prefill_grid<Path::tile>(call, first, n, known, lengths), Path::threads,
                Path::shared_bytes + (n + 1) * i64{sizeof(int)}},
           stream, &attention_prefill_kernel<Path>, call, first, n);
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
