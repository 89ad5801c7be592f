/// \file
/// Attention of sequences that have one token in a call (decode): the keys of a sequence are cut into pieces, each
/// read once for all query heads of its kv head; a second kernel merges them.
///
/// There are two ways to cut. Fixed: by the length of the sequence alone, and so is the order of every sum: a
/// sequence's result has the same bits in any batch. Even: the keys of all sequences are one list of which every
/// block gets the same share; no block waits for another's last piece, and few pieces need merging. Either way two
/// runs agree bit for bit. Lengths are read on the device; the launch depends on the number of sequences alone, so
/// that a captured graph serves every step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <type_traits>

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

inline constexpr int decode_rows = 8;         // query heads of one piece; larger groups are cut
inline constexpr int decode_tile = 16;        // keys that a warp takes at a time
inline constexpr int decode_piece = 256;      // keys of a piece at least, but for the rest
inline constexpr int decode_sequences = 512;  // sequences of a launch
inline constexpr int decode_fixed = 16;       // sequences of a call up to which the cut is always fixed

/// Pieces of a kv head at most when the cut is fixed: so many that those of all kv heads are a whole number for
/// each multiprocessor. Long sequences then leave none idle, whatever their number.
inline int decode_max_pieces(int kv_heads, int multiprocessors) {
  return std::clamp(multiprocessors / std::gcd(kv_heads, multiprocessors), 1, 160);
}
/// Pieces of `rows` keys when the cut is fixed.
JET_HD constexpr int decode_pieces(int rows, int max_pieces) {
  int const n = (rows + decode_piece - 1) / decode_piece;
  return n < max_pieces ? n : max_pieces;
}

/// A sequence, kv head and cut of its query heads: its pieces in the workspace, and its output.
struct DecodeUnit {
  int first_piece;
  int pieces;  // 0: nothing to do; 1: the output is written already
  int token;
  int head;  // the first query head
};

/// The workspace where pieces meet: sums [piece][rows][head], norms [piece][rows], units [unit].
struct DecodeMerge {
  float* sums;
  float2* norms;  // largest score, sum of powers
  DecodeUnit* units;
  int max_pieces;  // of a unit, when the cut is fixed
  bool fixed;
};

/// One piece of work: keys [first_tile, last_tile) * decode_tile of a kv head of a sequence, for `rows` query
/// heads.
struct DecodePiece {
  AttentionSequence s;
  int kv_head, head;  // head: the first query head
  int rows;           // query heads
  int first_tile, last_tile;
  int keys;         // rows of the cache that count, the new one included
  int new_row;      // where the call's own key goes
  bool store;       // whether this piece writes it
  int unit;         // of the launch
  int pieces;       // of the unit
  int first_piece;  // of the unit, in the workspace
  int piece;        // this one, counted from there
};

/// What a warp found: for each query head the largest score (times log2 e), the sum of powers and the weighted sum
/// of values, in shared memory: max [8], sum [8], out [8][stride].
template <int Head> struct DecodePartial {
  static constexpr int stride = Head + 8;  // the rows that a warp writes together lie in different banks
  static constexpr int floats = decode_rows * (stride + 2);
  static constexpr int bytes = (floats * 4 + 15) / 16 * 16;
  float* memory;
  __device__ float& max(int row) const { return memory[row]; }
  __device__ float& sum(int row) const { return memory[decode_rows + row]; }
  __device__ float& out(int row, int column) const { return memory[2 * decode_rows + row * stride + column]; }
};

/// Whether all rows below `keys` are visible to the query of a piece.
__device__ inline bool decode_sees_all(AttentionCall const& call) {
  return call.window == 0 || call.capacity <= call.window;
}
/// Whether row `row` of the cache is visible to the query of a piece.
__device__ inline bool decode_visible(AttentionCall const& call, DecodePiece const& p, int row) {
  if (decode_sees_all(call)) {
    return row < p.keys;
  }
  // A ring that keeps more than the window: the row holds the newest position of its residue.
  int const age = p.new_row - row + (row > p.new_row ? call.capacity : 0);
  return row < p.keys && age < call.window;
}

/// Keys and values in bf16 or fp8, head a multiple of 16 or 32: products on the tensor cores in bf16, to which fp8
/// is widened exactly; its scales multiply scores and weights. Rows 0 to 7 of the left factor are the query heads
/// rounded to bf16, rows 8 to 15 what the rounding lost; likewise for the weights of the values. So queries and
/// weights count with 16 bits of mantissa, at no cost: half of the factor would be empty.
///
/// A warp takes every `warps`-th tile of a piece and keeps a queue of copies of its own; the queue is filled for
/// the next piece before this one is folded.
template <int Head, class KV, int Warps, int Stages, int Blocks> struct DecodeMma {
  static_assert(Head % 16 == 0 && Stages >= 2);
  static_assert(std::is_same_v<KV, bf16> || (is_f8<KV> && Head % 32 == 0));
  static constexpr bool f8 = is_f8<KV>;
  static constexpr int head = Head;
  static constexpr int warps = Warps;
  static constexpr int blocks_each = Blocks;                          // of a multiprocessor
  static constexpr int in_chunk = 16 / static_cast<int>(sizeof(KV));  // numbers of 16 bytes
  static constexpr int chunks = Head / in_chunk;                      // of a row
  static constexpr int row_bytes = (chunks + 1) * 16;                 // an odd number of chunks: no bank conflicts
  static_assert(chunks % 2 == 0);
  static constexpr int half_bytes = decode_tile * row_bytes;
  /// Keys, then values, then a word that holds the scale of each key and of each value.
  static constexpr int stage_bytes = 2 * half_bytes + (f8 ? 2 * decode_tile * 4 : 0);
  static constexpr int warp_bytes = Stages * stage_bytes;
  /// Where a warp leaves its partial result: in the stage that the next piece fills last.
  static constexpr int partial_at = (Stages - 1) * stage_bytes;
  static_assert(stage_bytes >= DecodePartial<Head>::bytes);

  std::uint32_t memory;  // of this warp
  int warp, lane;
  std::uint64_t policy;
  std::uint32_t q[Head / 16][4];

  __device__ DecodeMma(unsigned char* warp_memory, int warp_, int lane_)
      : memory(shared_address(warp_memory)), warp(warp_), lane(lane_), policy(evict_first()) {}

  __device__ int tiles(DecodePiece const& p) const {
    return (p.last_tile - p.first_tile - warp + Warps - 1) / Warps;
  }
  __device__ std::uint32_t stage(int i) const {
    return memory + static_cast<std::uint32_t>(i % Stages * stage_bytes);
  }

  /// Queues the copies of this warp's tile i.
  __device__ void load(AttentionCall const& call, DecodePiece const& p, int i) const {
    std::uint32_t const to = stage(i);
    int const first = (p.first_tile + warp + i * Warps) * decode_tile;
    int const column = p.kv_head * Head;
    auto const* const keys = static_cast<KV const*>(call.key.data) + column;
    auto const* const values = static_cast<KV const*>(call.value.data) + column;
    bool const has_new = p.new_row / decode_tile == first / decode_tile;
    bool const in_one = p.s.pages == nullptr || call.page_size % decode_tile == 0;
    if constexpr (f8) {
      // The words that hold the scales of the rows: a lane has a key's or a value's.
      int const row = first + lane % decode_tile;
      bool const valid = decode_visible(call, p, row) && row != p.new_row;
      AttentionCache const& cache = lane < decode_tile ? call.key : call.value;
      auto const at = reinterpret_cast<std::uintptr_t>(
          cache.scale + (valid ? scale_offset(call, p.s, cache, row) + p.kv_head : 0));
      if (row != p.new_row) {
        copy_word_async(to + static_cast<std::uint32_t>(2 * half_bytes + lane * 4),
                        reinterpret_cast<void const*>(at / 4 * 4), valid);
      }
    }
    if (warp_size % chunks == 0 && in_one && !has_new && first + decode_tile <= p.keys && decode_sees_all(call)) {
      constexpr int rows_at_once = warp_size / chunks > 0 ? warp_size / chunks : 1;
      int const row = lane / chunks;
      int const chunk = lane % chunks;
      auto const* key =
          keys + cache_offset(call, p.s, call.key, first) + (row * call.key.row_stride + chunk * in_chunk);
      auto const* value =
          values + cache_offset(call, p.s, call.value, first) + (row * call.value.row_stride + chunk * in_chunk);
      i64 const key_step = rows_at_once * call.key.row_stride;
      i64 const value_step = rows_at_once * call.value.row_stride;
      std::uint32_t const at = to + static_cast<std::uint32_t>(row * row_bytes + chunk * 16);
      JET_UNROLL
      for (int j = 0; j < decode_tile / rows_at_once; ++j) {
        std::uint32_t const key_at = at + static_cast<std::uint32_t>(j * rows_at_once * row_bytes);
        if constexpr (chunks * 16 % 256 == 0) {
          copy_async_together<256>(key_at, key, policy);
          copy_async_together<256>(key_at + half_bytes, value, policy);
        } else if constexpr (chunks * 16 % 128 == 0) {
          copy_async_together<128>(key_at, key, policy);
          copy_async_together<128>(key_at + half_bytes, value, policy);
        } else {
          copy_async(key_at, key, true, policy);
          copy_async(key_at + half_bytes, value, true, policy);
        }
        key += key_step;
        value += value_step;
      }
      return;
    }
    for (int j = 0; j < chunks / 2; ++j) {
      int const index = lane + warp_size * j;
      int const in_tile = index / chunks;
      int const chunk = index % chunks;
      int const row = first + in_tile;
      std::uint32_t const at = to + static_cast<std::uint32_t>(in_tile * row_bytes + chunk * 16);
      if (row == p.new_row) {
        if constexpr (!f8) {
          take_new(call, p, at, chunk);
        }
      } else {
        bool const valid = decode_visible(call, p, row);
        i64 const key = valid ? cache_offset(call, p.s, call.key, row) + chunk * in_chunk : 0;
        i64 const value = valid ? cache_offset(call, p.s, call.value, row) + chunk * in_chunk : 0;
        copy_async(at, keys + key, valid, policy);
        copy_async(at + half_bytes, values + value, valid, policy);
      }
    }
    if constexpr (f8) {
      if (has_new) {
        int const in_tile = p.new_row - first;
        std::uint32_t const scales = to + static_cast<std::uint32_t>(2 * half_bytes + in_tile * 4);
        std::uint32_t const at = to + static_cast<std::uint32_t>(in_tile * row_bytes);
        take_new_f8(call, p, call.k + p.s.begin * call.k_stride, call.key, at, scales);
        take_new_f8(call, p, call.v + p.s.begin * call.v_stride, call.value, at + half_bytes,
                    scales + decode_tile * 4);
      }
    }
  }
  /// The call's own key and value: rounded, used, and kept.
  static __device__ void take_new(AttentionCall const& call, DecodePiece const& p, std::uint32_t at, int chunk) {
    int const column = p.kv_head * Head + chunk * 8;
    uint4 const key = rounded(call.k + p.s.begin * call.k_stride + column);
    uint4 const value = rounded(call.v + p.s.begin * call.v_stride + column);
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(key.x), "r"(key.y), "r"(key.z),
                 "r"(key.w)
                 : "memory");
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at + half_bytes), "r"(value.x), "r"(value.y),
                 "r"(value.z), "r"(value.w)
                 : "memory");
    if (p.store) {
      auto* const to_key = static_cast<bf16*>(call.key.data) + cache_offset(call, p.s, call.key, p.new_row);
      auto* const to_value = static_cast<bf16*>(call.value.data) + cache_offset(call, p.s, call.value, p.new_row);
      *reinterpret_cast<uint4*>(to_key + column) = key;
      *reinterpret_cast<uint4*>(to_value + column) = value;
    }
  }
  /// The same of a key or a value in fp8; the whole warp.
  __device__ void take_new_f8(AttentionCall const& call, DecodePiece const& p, float const* from,
                              AttentionCache const& cache, std::uint32_t at, std::uint32_t scale_at) const {
    int const column = p.kv_head * Head;
    float x[Head / warp_size];
    float largest = 0;
    JET_UNROLL
    for (int i = 0; i < Head / warp_size; ++i) {
      x[i] = from[column + lane + i * warp_size];
      largest = fmaxf(largest, fabsf(x[i]));
    }
    f16 const scale = f8_scale(warp_largest(largest));
    auto* const to = static_cast<KV*>(cache.data) + cache_offset(call, p.s, cache, p.new_row) + column;
    JET_UNROLL
    for (int i = 0; i < Head / warp_size; ++i) {
      f8e4m3 const number = to_f8(x[i], scale);
      asm volatile("st.shared.u8 [%0], %1;" ::"r"(at + static_cast<std::uint32_t>(lane + i * warp_size)),
                   "r"(static_cast<std::uint32_t>(number.bits))
                   : "memory");
      if (p.store) {
        reinterpret_cast<std::uint8_t*>(to)[lane + i * warp_size] = number.bits;
      }
    }
    if (lane == 0) {
      asm volatile("st.shared.u32 [%0], %1;" ::"r"(scale_at), "r"(scale.bits * 0x10001u) : "memory");
      if (p.store) {
        cache.scale[scale_offset(call, p.s, cache, p.new_row) + p.kv_head] = scale;
      }
    }
  }
  /// This lane's scale of the tile at row `first`: of key lane % 16, from lane 16 on of the value.
  __device__ float scale_of(AttentionCall const& call, DecodePiece const& p, int first,
                            std::uint32_t stage_at) const {
    std::uint32_t word;
    asm volatile("ld.shared.u32 %0, [%1];"
                 : "=r"(word)
                 : "r"(stage_at + static_cast<std::uint32_t>(2 * half_bytes + lane * 4))
                 : "memory");
    int const row = min(first + lane % decode_tile, p.keys - 1);
    AttentionCache const& cache = lane < decode_tile ? call.key : call.value;
    auto const at = reinterpret_cast<std::uintptr_t>(cache.scale + scale_offset(call, p.s, cache, row) + p.kv_head);
    f16 scale;
    scale.bits = static_cast<std::uint16_t>(at % 4 == 0 ? word : word >> 16);
    return scale;
  }
  static __device__ uint4 rounded(float const* from) {
    float4 const a = *reinterpret_cast<float4 const*>(from);
    float4 const b = *reinterpret_cast<float4 const*>(from + 4);
    return {pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w)};
  }

  /// Fills the queue for a piece, all stages but the last, and fetches the queries.
  __device__ void begin(AttentionCall const& call, DecodePiece const& p) {
    int const row = lane / 4;       // query head of this lane
    int const pair = lane % 4 * 2;  // its two columns of a fragment
    // bf16: columns pair, pair + 1 and the same eight on; fp8: a lane has four that lie side by side
    float const* const from = call.q + p.s.begin * call.q_stride + (p.head + row) * Head + (f8 ? 2 * pair : pair);
    float2 x[Head / 16][2];
    JET_UNROLL
    for (int i = 0; i < Head / 16; ++i) {
      JET_UNROLL
      for (int half = 0; half < 2; ++half) {
        x[i][half] = row < p.rows ? *reinterpret_cast<float2 const*>(from + i * 16 + half * (f8 ? 2 : 8))
                                  : make_float2(0.0f, 0.0f);
      }
    }
    int const n = tiles(p);
    JET_UNROLL
    for (int i = 0; i < Stages - 1; ++i) {
      if (i < n) {
        load(call, p, i);
      }
      commit_copies();
    }
    JET_UNROLL
    for (int i = 0; i < Head / 16; ++i) {
      JET_UNROLL
      for (int half = 0; half < 2; ++half) {
        std::uint32_t const high = pack_bf16(x[i][half].x, x[i][half].y);
        q[i][2 * half] = high;
        q[i][2 * half + 1] = pack_bf16(x[i][half].x - low_bf16(high), x[i][half].y - high_bf16(high));
      }
    }
  }

  /// Attends over the piece that was begun and leaves the partial result.
  __device__ void attend(AttentionCall const& call, DecodePiece const& p, DecodePartial<Head> const& to) {
    int const row = lane / 4;
    int const pair = lane % 4 * 2;
    int const n = tiles(p);
    float out[Head / 8][4]{};
    float top = -INFINITY;
    float sum = 0;  // of this lane's keys
    std::uint32_t const key_lane =
        static_cast<std::uint32_t>((lane % 8 + lane / 16 * 8) * row_bytes + lane / 8 % 2 * 16);
    std::uint32_t const value_lane =
        static_cast<std::uint32_t>(half_bytes + lane % 16 * row_bytes + lane / 16 * 16);
    for (int i = 0; i < n; ++i) {
      if (i + Stages - 1 < n) {
        load(call, p, i + Stages - 1);
      }
      commit_copies();
      wait_copies<Stages - 1>();
      __syncwarp();
      std::uint32_t const at = stage(i);
      float s[4][4]{};  // of keys 0 to 7 and 8 to 15, from the even and the odd columns: shorter chains of products
      JET_UNROLL
      for (int d = 0; d < chunks / 2; ++d) {
        std::uint32_t b[4];
        load_matrices(b, at + key_lane + static_cast<std::uint32_t>(d * 32));
        if constexpr (f8) {
          mma_bf16(s[0], q[2 * d], f8_pair_01(b[0]), f8_pair_23(b[0]));
          mma_bf16(s[2], q[2 * d + 1], f8_pair_01(b[1]), f8_pair_23(b[1]));
          mma_bf16(s[1], q[2 * d], f8_pair_01(b[2]), f8_pair_23(b[2]));
          mma_bf16(s[3], q[2 * d + 1], f8_pair_01(b[3]), f8_pair_23(b[3]));
        } else {
          mma_bf16(s[d % 2 * 2], q[d], b[0], b[1]);
          mma_bf16(s[d % 2 * 2 + 1], q[d], b[2], b[3]);
        }
      }
      float x[4];
      float largest = top;
      int const first = (p.first_tile + warp + i * Warps) * decode_tile;
      JET_UNROLL
      for (int j = 0; j < 4; ++j) {
        int const n = j / 2;
        int const e = j % 2;
        x[j] = ((s[n][e] + s[n + 2][e]) + (s[n][e + 2] + s[n + 2][e + 2])) * call.scale;
      }
      float value_scale[4];
      if constexpr (f8) {
        float const scale = scale_of(call, p, first, at);
        JET_UNROLL
        for (int j = 0; j < 4; ++j) {
          int const key = pair + j / 2 * 8 + j % 2;
          x[j] *= __shfl_sync(0xffffffffu, scale, key);
          value_scale[j] = __shfl_sync(0xffffffffu, scale, decode_tile + key);
        }
      }
      if (first + decode_tile > p.keys || !decode_sees_all(call)) {
        JET_UNROLL
        for (int j = 0; j < 4; ++j) {
          x[j] = decode_visible(call, p, first + pair + j / 2 * 8 + j % 2) ? x[j] : -INFINITY;
        }
      }
      largest = fmaxf(fmaxf(largest, fmaxf(x[0], x[1])), fmaxf(x[2], x[3]));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      float const reference = largest == -INFINITY ? 0.0f : largest;
      float const keep = exp2f(top - reference);
      top = largest;
      std::uint32_t w[4];
      float total = 0;
      JET_UNROLL
      for (int j = 0; j < 2; ++j) {
        float a = exp2f(x[2 * j] - reference);
        float b = exp2f(x[2 * j + 1] - reference);
        total += a + b;
        if constexpr (f8) {
          a *= value_scale[2 * j];
          b *= value_scale[2 * j + 1];
        }
        w[2 * j] = pack_bf16(a, b);
        w[2 * j + 1] = pack_bf16(a - low_bf16(w[2 * j]), b - high_bf16(w[2 * j]));
      }
      sum = sum * keep + total;
      if (__any_sync(0xffffffffu, keep != 1.0f)) {
        JET_UNROLL
        for (auto& o : out) {
          o[0] *= keep;
          o[1] *= keep;
          o[2] *= keep;
          o[3] *= keep;
        }
      }
      JET_UNROLL
      for (int d = 0; d < chunks / 2; ++d) {
        std::uint32_t b[4];
        load_matrices_transposed(b, at + value_lane + static_cast<std::uint32_t>(d * 32));
        if constexpr (f8) {  // even columns, then odd ones, of 16 and then the next 16
          mma_bf16(out[4 * d], w, f8_pair_02(b[0]), f8_pair_02(b[1]));
          mma_bf16(out[4 * d + 1], w, f8_pair_13(b[0]), f8_pair_13(b[1]));
          mma_bf16(out[4 * d + 2], w, f8_pair_02(b[2]), f8_pair_02(b[3]));
          mma_bf16(out[4 * d + 3], w, f8_pair_13(b[2]), f8_pair_13(b[3]));
        } else {
          mma_bf16(out[2 * d], w, b[0], b[1]);
          mma_bf16(out[2 * d + 1], w, b[2], b[3]);
        }
      }
      __syncwarp();  // the next iteration's copies may overwrite this stage
    }
    wait_copies<0>();
    __syncwarp();
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (pair == 0) {
      to.max(row) = top;
      to.sum(row) = sum;
    }
    JET_UNROLL
    for (int d = 0; d < Head / 16; ++d) {
      float2 const a = make_float2(out[2 * d][0] + out[2 * d][2], out[2 * d][1] + out[2 * d][3]);
      float2 const b = make_float2(out[2 * d + 1][0] + out[2 * d + 1][2], out[2 * d + 1][1] + out[2 * d + 1][3]);
      if constexpr (f8) {
        *reinterpret_cast<float4*>(&to.out(row, d * 16 + 2 * pair)) = make_float4(a.x, b.x, a.y, b.y);
      } else {
        *reinterpret_cast<float2*>(&to.out(row, d * 16 + pair)) = a;
        *reinterpret_cast<float2*>(&to.out(row, d * 16 + 8 + pair)) = b;
      }
    }
  }
};

/// Any head and any storage, in plain fp32: a lane holds some columns of all rows; scores of four keys at a time
/// are summed over the warp so that each lane ends with one.
template <int Head, class KV, int Warps> struct DecodePlain {
  static constexpr int head = Head;
  static constexpr int warps = Warps;
  static constexpr int blocks_each = 3;
  static constexpr int warp_bytes = DecodePartial<Head>::bytes;
  static constexpr int partial_at = 0;
  static constexpr int keys = 4;
  static constexpr int each = (Head + warp_size - 1) / warp_size;  // columns of a lane: lane, lane + 32, ...

  int warp, lane;

  __device__ DecodePlain(unsigned char*, int warp_, int lane_) : warp(warp_), lane(lane_) {}
  __device__ void begin(AttentionCall const&, DecodePiece const&) {}

  __device__ void attend(AttentionCall const& call, DecodePiece const& p, DecodePartial<Head> const& to) {
    float q[decode_rows][each];
    JET_UNROLL
    for (int r = 0; r < decode_rows; ++r) {
      float const* const from = call.q + p.s.begin * call.q_stride + (p.head + r) * Head;
      JET_UNROLL
      for (int c = 0; c < each; ++c) {
        int const column = lane + c * warp_size;
        q[r][c] = r < p.rows && column < Head ? from[column] : 0.0f;
      }
    }
    float out[decode_rows][each]{};
    float top = -INFINITY;  // of query head lane % 8, in every lane
    float sum = 0;          // of this lane's keys
    int const last = min(p.keys, p.last_tile * decode_tile);
    for (int first = (p.first_tile * decode_tile) + warp * keys; first < last; first += Warps * keys) {
      float scores[keys * decode_rows];
      float value[keys][each];
      JET_UNROLL
      for (int j = 0; j < keys; ++j) {
        int const row = first + j;
        float key[each];
        load(call, p, row, lane, key, value[j]);
        JET_UNROLL
        for (int r = 0; r < decode_rows; ++r) {
          float dot = 0;
          JET_UNROLL
          for (int c = 0; c < each; ++c) {
            dot = fmaf(q[r][c], key[c], dot);
          }
          scores[j * decode_rows + r] = dot;
        }
      }
      // Lane i gets the sum over the lanes of scores[i].
      JET_UNROLL
      for (int half = 16; half > 0; half /= 2) {
        bool const upper = (lane & half) != 0;
        JET_UNROLL
        for (int i = 0; i < half; ++i) {
          float const mine = upper ? scores[i + half] : scores[i];
          float const other = upper ? scores[i] : scores[i + half];
          scores[i] = mine + __shfl_xor_sync(0xffffffffu, other, half);
        }
      }
      float const x = decode_visible(call, p, first + lane / decode_rows) && first + lane / decode_rows < last
                          ? scores[0] * call.scale
                          : -INFINITY;
      float largest = fmaxf(top, x);
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 8));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 16));
      float const reference = largest == -INFINITY ? 0.0f : largest;
      float const keep = exp2f(top - reference);
      float const weight = exp2f(x - reference);
      top = largest;
      sum = sum * keep + weight;
      JET_UNROLL
      for (int r = 0; r < decode_rows; ++r) {
        float const scale = __shfl_sync(0xffffffffu, keep, r);
        JET_UNROLL
        for (int c = 0; c < each; ++c) {
          out[r][c] *= scale;
        }
        JET_UNROLL
        for (int j = 0; j < keys; ++j) {
          float const w = __shfl_sync(0xffffffffu, weight, j * decode_rows + r);
          JET_UNROLL
          for (int c = 0; c < each; ++c) {
            out[r][c] = fmaf(w, value[j][c], out[r][c]);
          }
        }
      }
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 8);
    sum += __shfl_xor_sync(0xffffffffu, sum, 16);
    if (lane < decode_rows) {
      to.max(lane) = top;
      to.sum(lane) = sum;
    }
    JET_UNROLL
    for (int r = 0; r < decode_rows; ++r) {
      JET_UNROLL
      for (int c = 0; c < each; ++c) {
        if (lane + c * warp_size < Head) {
          to.out(r, lane + c * warp_size) = out[r][c];
        }
      }
    }
  }

  /// This lane's columns of a row; zero if the row is not visible.
  static __device__ void load(AttentionCall const& call, DecodePiece const& p, int row, int lane,
                              float (&key)[each], float (&value)[each]) {
    if (!decode_visible(call, p, row)) {
      JET_UNROLL
      for (int c = 0; c < each; ++c) {
        key[c] = value[c] = 0;
      }
      return;
    }
    load_half(call, p, row, lane, call.k + p.s.begin * call.k_stride, call.key, key);
    load_half(call, p, row, lane, call.v + p.s.begin * call.v_stride, call.value, value);
  }
  static __device__ void load_half(AttentionCall const& call, DecodePiece const& p, int row, int lane,
                                   float const* fresh, AttentionCache const& cache, float (&to)[each]) {
    int const column = p.kv_head * Head;
    bool const is_new = row == p.new_row;
    KV* const at =
        static_cast<KV*>(cache.data) + (call.capacity > 0 ? cache_offset(call, p.s, cache, row) : 0) + column;
    [[maybe_unused]] f16* scale_at = nullptr;
    [[maybe_unused]] f16 scale;
    if constexpr (is_f8<KV>) {
      scale_at = cache.scale + (call.capacity > 0 ? scale_offset(call, p.s, cache, row) : 0) + p.kv_head;
      if (is_new) {
        float largest = 0;
        for (int i = lane; i < Head; i += warp_size) {
          largest = fmaxf(largest, fabsf(fresh[column + i]));
        }
        scale = f8_scale(warp_largest(largest));
        if (p.store && lane == 0) {
          *scale_at = scale;
        }
      } else {
        scale = *scale_at;
      }
    }
    JET_UNROLL
    for (int c = 0; c < each; ++c) {
      int const i = lane + c * warp_size;
      to[c] = 0;
      if (i < Head) {
        KV x;
        if (!is_new) {
          x = at[i];
        } else {
          if constexpr (is_f8<KV>) {
            x = to_f8(fresh[column + i], scale);
          } else {
            x = KV(fresh[column + i]);
          }
          if (p.store) {
            at[i] = x;
          }
        }
        to[c] = static_cast<float>(x);
        if constexpr (is_f8<KV>) {
          to[c] *= static_cast<float>(scale);
        }
      }
    }
  }
};

/// Writes element `column` of the output of a token.
__device__ inline void store_output(AttentionCall const& call, i64 token, i64 column, float value) {
  if (call.o_bf16) {
    static_cast<bf16*>(call.o)[token * call.o_stride + column] = bf16(value);
  } else {
    static_cast<float*>(call.o)[token * call.o_stride + column] = value;
  }
}

/// A block's way through its pieces. The table of the launch's sequences is in shared memory.
struct DecodeWay {
  int* first;  // items of the sequences before; an item is a piece (fixed), or a tile of a unit (even)
  int *begin, *slot, *position;
  int sequences;
  int cuts;
  int blocks;  // that have work
  i64 at, end;

  static constexpr int table_ints = 4;  // of a sequence, and one more
  __device__ DecodeWay(AttentionCall const& call, DecodeMerge const& merge, int first_sequence, int sequences_,
                       int* table)
      : first(table),
        begin(table + sequences_ + 1),
        slot(begin + sequences_),
        position(slot + sequences_),
        sequences(sequences_),
        cuts((call.group + decode_rows - 1) / decode_rows) {
    count_items(sequences, first, [&](int i) {
      int const s = first_sequence + i;
      i64 const from = call.cu_seqlens[s];
      i64 const to = call.cu_seqlens[s + 1];
      begin[i] = static_cast<int>(from);
      slot[i] = call.slot[s];
      position[i] = static_cast<int>(call.position[s]);
      if (slot[i] < 0 || to - from != 1) {
        return 0;
      }
      int const n = merge.fixed ? decode_pieces(keys(call, i), merge.max_pieces) : tiles(call, i);
      return n * call.kv_heads * cuts;
    });
    int const units = call.kv_heads * cuts;
    for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < sequences * units;
         i += static_cast<int>(gridDim.x * blockDim.x)) {
      if (first[i / units] == first[i / units + 1]) {
        merge.units[i].pieces = 0;
      }
    }
    i64 const items = first[sequences];
    if (merge.fixed) {
      at = blockIdx.x;
      end = items;
      blocks = static_cast<int>(gridDim.x);
    } else {
      // as many blocks as find a tile for each of eight warps
      i64 const useful = (items + 7) / 8;
      blocks = static_cast<int>(min(static_cast<i64>(gridDim.x), max(useful, i64{1})));
      at = blockIdx.x < blocks ? items * blockIdx.x / blocks : 0;
      end = blockIdx.x < blocks ? items * (blockIdx.x + 1) / blocks : 0;
    }
  }
  __device__ int keys(AttentionCall const& call, int i) const {
    return call.capacity == 0 ? 1 : call.window > 0 ? min(position[i] + 1, call.capacity) : position[i] + 1;
  }
  __device__ int tiles(AttentionCall const& call, int i) const {
    return (keys(call, i) + decode_tile - 1) / decode_tile;
  }

  /// The next piece; false after the last.
  __device__ bool next(AttentionCall const& call, DecodeMerge const& merge, int first_sequence, DecodePiece& p) {
    if (at >= end) {
      return false;
    }
    int const item = static_cast<int>(at);
    int const i = find_sequence(first, sequences, item);
    p.s.begin = begin[i];
    p.s.tokens = 1;
    p.s.position = position[i];
    p.s.slot = slot[i];
    p.s.pages = call.pages == nullptr ? nullptr : call.pages + (first_sequence + i) * call.max_pages;
    p.keys = keys(call, i);
    int const all = tiles(call, i);
    int const units = call.kv_heads * cuts;
    int const local = item - first[i];
    int unit = 0;
    if (merge.fixed) {
      // units of the same keys side by side: they are neighbours in memory
      p.pieces = decode_pieces(p.keys, merge.max_pieces);
      p.piece = local / units;
      unit = local % units;
      p.first_tile = static_cast<int>(i64{p.piece} * all / p.pieces);
      p.last_tile = static_cast<int>(i64{p.piece + 1} * all / p.pieces);
      p.unit = i * units + unit;
      p.first_piece = p.unit * merge.max_pieces;
      at += blocks;
    } else {
      unit = local / all;
      p.first_tile = local % all;
      p.last_tile = static_cast<int>(min(static_cast<i64>(all), p.first_tile + end - at));
      p.unit = i * units + unit;
      i64 const begins = at - p.first_tile;  // the unit's first tile in the list
      int const first_block = block_of(begins);
      p.pieces = block_of(begins + all - 1) - first_block + 1;
      p.piece = static_cast<int>(blockIdx.x) - first_block;
      p.first_piece = first_block + p.unit;  // from piece to piece either the block or the unit goes up
      at += p.last_tile - p.first_tile;
    }
    int const cut = unit % cuts;
    p.kv_head = unit / cuts;
    p.head = p.kv_head * call.group + cut * decode_rows;
    p.rows = min(decode_rows, call.group - cut * decode_rows);
    p.new_row = call.capacity == 0 ? 0 : cache_row(call, p.s, p.s.position);
    p.store = call.capacity > 0 && cut == 0;
    return true;
  }
  /// Even: the block whose share holds tile t.
  __device__ int block_of(i64 t) const { return static_cast<int>(((t + 1) * blocks - 1) / first[sequences]); }
};

/// Folds the warps' partial results, in their order, into the output or the workspace. All threads call it.
template <class Path>
__device__ void fold_warps(AttentionCall const& call, DecodeMerge const& merge, DecodePiece const& p,
                           unsigned char* memory) {
  constexpr int head = Path::head;
  int const stride_rows = min(call.group, decode_rows);
  i64 const at = p.first_piece + p.piece;
  if (threadIdx.x == 0 && p.piece == 0) {
    merge.units[p.unit] = {p.first_piece, p.pieces, static_cast<int>(p.s.begin), p.head};
  }
  auto const partial = [&](int w) {
    return DecodePartial<head>{reinterpret_cast<float*>(memory + w * Path::warp_bytes + Path::partial_at)};
  };
  for (int i = static_cast<int>(threadIdx.x); i < p.rows * head; i += Path::warps * warp_size) {
    int const row = i / head;
    int const column = i % head;
    float top = -INFINITY;
    JET_UNROLL
    for (int w = 0; w < Path::warps; ++w) {
      top = fmaxf(top, partial(w).max(row));
    }
    float sum = 0;
    float out = 0;
    JET_UNROLL
    for (int w = 0; w < Path::warps; ++w) {
      float const weight = top == -INFINITY ? 0.0f : exp2f(partial(w).max(row) - top);
      sum = fmaf(weight, partial(w).sum(row), sum);
      out = fmaf(weight, partial(w).out(row, column), out);
    }
    if (p.pieces == 1) {
      store_output(call, p.s.begin, p.head * head + i, out / sum);
    } else {
      merge.sums[at * stride_rows * head + i] = out;
      if (column == 0) {
        merge.norms[at * stride_rows + row] = make_float2(top, sum);
      }
    }
  }
}

/// Sequences [first_sequence, first_sequence + sequences) of the call that have one token. Shared memory: a part
/// for each warp, then the table.
template <class Path>
__global__ void __launch_bounds__(Path::warps* warp_size, Path::blocks_each)
    attention_decode_kernel(AttentionCall const call, DecodeMerge const merge, int first_sequence, int sequences) {
  extern __shared__ __align__(16) unsigned char decode_memory[];
  release_next();
  wait_for_previous();
  int const warp = static_cast<int>(threadIdx.x) / warp_size;
  int const lane = static_cast<int>(threadIdx.x) % warp_size;
  DecodeWay way(call, merge, first_sequence, sequences,
                reinterpret_cast<int*>(decode_memory + Path::warps * Path::warp_bytes));
  unsigned char* const warp_memory = decode_memory + warp * Path::warp_bytes;
  DecodePartial<Path::head> const partial{reinterpret_cast<float*>(warp_memory + Path::partial_at)};
  Path path(warp_memory, warp, lane);

  DecodePiece p;
  bool more = way.next(call, merge, first_sequence, p);
  if (more) {
    path.begin(call, p);
  }
  while (more) {
    DecodePiece const now = p;
    path.attend(call, now, partial);
    more = way.next(call, merge, first_sequence, p);
    if (more) {
      path.begin(call, p);
    }
    __syncthreads();
    fold_warps<Path>(call, merge, now, decode_memory);
    __syncthreads();
  }
}

/// Folds the pieces of a unit in their order and writes the output: one block for a query head.
template <int Head> __global__ void attention_merge_kernel(AttentionCall const call, DecodeMerge const merge) {
  constexpr int warps = 4;
  constexpr int each = (Head + warp_size - 1) / warp_size;
  __shared__ float partial[warps][Head];
  release_next();
  wait_for_previous();
  int const warp = static_cast<int>(threadIdx.x) / warp_size;
  int const lane = static_cast<int>(threadIdx.x) % warp_size;
  int const stride_rows = min(call.group, decode_rows);
  int const row = static_cast<int>(blockIdx.x) % stride_rows;
  int const index = static_cast<int>(blockIdx.x) / stride_rows;
  DecodeUnit const unit = merge.units[index];
  int const cuts = (call.group + decode_rows - 1) / decode_rows;
  if (unit.pieces < 2 || index % cuts * decode_rows + row >= call.group) {
    return;
  }
  float2 const* const norms = merge.norms + (i64{unit.first_piece} * stride_rows + row);
  float const* const sums = merge.sums + (i64{unit.first_piece} * stride_rows + row) * Head;
  float top = -INFINITY;
  for (int i = lane; i < unit.pieces; i += warp_size) {
    top = fmaxf(top, norms[i * stride_rows].x);
  }
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
  }
  float sum = 0;
  for (int i = lane; i < unit.pieces; i += warp_size) {
    float2 const norm = norms[i * stride_rows];
    sum += exp2f(norm.x - top) * norm.y;
  }
  sum = warp_sum(sum);
  float out[each]{};
#pragma unroll 4
  for (int i = warp; i < unit.pieces; i += warps) {
    float const weight = exp2f(norms[i * stride_rows].x - top);
    JET_UNROLL
    for (int c = 0; c < each; ++c) {
      int const column = lane + c * warp_size;
      if (column < Head) {
        out[c] = fmaf(weight, sums[i64{i} * stride_rows * Head + column], out[c]);
      }
    }
  }
  JET_UNROLL
  for (int c = 0; c < each; ++c) {
    if (lane + c * warp_size < Head) {
      partial[warp][lane + c * warp_size] = out[c];
    }
  }
  __syncthreads();
  for (int column = static_cast<int>(threadIdx.x); column < Head; column += warps * warp_size) {
    float total = 0;
    JET_UNROLL
    for (int w = 0; w < warps; ++w) {
      total += partial[w][column];
    }
    store_output(call, unit.token, (unit.head + row) * Head + column, total / sum);
  }
}

/// Places in the workspace that a call may need.
inline i64 decode_places(i64 seqs, i64 units_each, bool fixed, int max_pieces, int multiprocessors,
                         int blocks_each) {
  i64 const at_once = std::min<i64>(seqs, decode_sequences);
  i64 const even = at_once * units_each + i64{multiprocessors} * blocks_each;
  return std::max(even, (fixed ? at_once : std::min<i64>(seqs, decode_fixed)) * units_each * max_pieces);
}

/// Queues the kernels for the sequences of the call that have one token.
template <class Path>
void attention_decode(cudaStream_t stream, int multiprocessors, AttentionCall const& call,
                      DecodeMerge const& merge) {
  int const units = call.kv_heads * ((call.group + decode_rows - 1) / decode_rows);
  int const stride_rows = std::min(call.group, decode_rows);
  for (int first = 0; first < call.seqs; first += decode_sequences) {
    int const n = std::min(call.seqs - first, decode_sequences);
    i64 blocks = i64{multiprocessors} * Path::blocks_each;
    if (merge.fixed) {
      blocks = std::min(blocks, i64{n} * units * merge.max_pieces);
    }
    i64 const table = (i64{DecodeWay::table_ints} * n + 1) * i64{sizeof(int)};
    launch("attention_decode",
           Grid{.blocks = blocks,
                .threads = Path::warps * warp_size,
                .shared_bytes = Path::warps * Path::warp_bytes + table,
                .dependent = true},
           stream, &attention_decode_kernel<Path>, call, merge, first, n);
    if (merge.max_pieces > 1) {
      launch("attention_merge",
             Grid{.blocks = i64{n} * units * stride_rows, .threads = 4 * warp_size, .dependent = true}, stream,
             &attention_merge_kernel<Path::head>, call, merge);
    }
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
