/// \file
/// What the attention kernels share: their arguments, where the keys and values of a position are, how keys and
/// values are stored, and how work is found among ragged sequences whose lengths only the device knows.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/fp8.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/vector.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Keys or values of the state: element (unit, row, column) at unit * unit_stride + row * row_stride + column. A
/// unit is a slot, or a page. Of fp8, the scale of kv head h of a row is at unit * scale_stride + row * kv_heads +
/// h.
struct AttentionCache {
  void* data;
  i64 unit_stride;
  i64 row_stride;
  f16* scale;
  i64 scale_stride;
};

/// One call of op::Attention, as every kernel of it takes it.
struct AttentionCall {
  float const *q, *k, *v;  // (tokens, heads * head), (tokens, kv_heads * head) twice; rows at these strides:
  i64 q_stride, k_stride, v_stride;
  void* o;  // (tokens, heads * head), bf16 or f32
  i64 o_stride;
  bool o_bf16;

  AttentionCache key, value;
  int capacity;                     // rows of a unit; 0: there is no cache
  void *staged_key, *staged_value;  // the call's rows at the kv dtype, dense; null: they are in the cache
  f16 *staged_key_scale, *staged_value_scale;  // (tokens, kv_heads), of fp8

  std::int64_t const* cu_seqlens;
  std::int32_t const* slot;
  std::int64_t const* position;
  std::int32_t const* pages;  // null: units are slots
  i64 max_pages;
  int page_size;
  int seqs;
  i64 tokens;

  int kv_heads, group, window;  // group: query heads of a kv head; window 0: full
  float scale;                  // of scores, times log2(e): the kernels' exponentials are powers of two

  int* next_item;  // what blocks count items with: set to zero by the kernel that stores the call's rows
  int next_items;  // how many
};

/// One sequence of the call.
struct AttentionSequence {
  i64 begin;     // first token row
  int tokens;    // of this call; 0 if inactive
  int position;  // tokens seen before
  int slot;
  std::int32_t const* pages;  // of this sequence; null: contiguous
};

__device__ inline AttentionSequence attention_sequence(AttentionCall const& call, int i) {
  AttentionSequence s;
  s.begin = call.cu_seqlens[i];
  s.slot = call.slot[i];
  s.tokens = s.slot < 0 ? 0 : static_cast<int>(call.cu_seqlens[i + 1] - s.begin);
  s.position = s.tokens == 0 ? 0 : static_cast<int>(call.position[i]);
  s.pages = call.pages == nullptr ? nullptr : call.pages + i * call.max_pages;
  return s;
}

/// Element offset of row `row` of a sequence's cache (its position, or that modulo the capacity of a ring).
__device__ inline i64 cache_offset(AttentionCall const& call, AttentionSequence const& s,
                                   AttentionCache const& cache, int row) {
  if (s.pages == nullptr) {
    return s.slot * cache.unit_stride + row * cache.row_stride;
  }
  int const page = row / call.page_size;
  return s.pages[page] * cache.unit_stride + (row - page * call.page_size) * cache.row_stride;
}

/// Element offset of the scales of row `row`.
__device__ inline i64 scale_offset(AttentionCall const& call, AttentionSequence const& s,
                                   AttentionCache const& cache, int row) {
  if (s.pages == nullptr) {
    return s.slot * cache.scale_stride + i64{row} * call.kv_heads;
  }
  int const page = row / call.page_size;
  return s.pages[page] * cache.scale_stride + i64{row - page * call.page_size} * call.kv_heads;
}

/// The row of a cache that keeps a position.
__device__ inline int cache_row(AttentionCall const& call, AttentionSequence const& s, int position) {
  return s.pages == nullptr && position >= call.capacity ? position % call.capacity : position;
}

/// first[i] = items of the sequences before i, first[seqs] = all of them, for items(i) items of sequence i.
/// `first` is shared memory of seqs + 1 numbers. All threads of the block call it; it ends with a barrier.
template <class Items> __device__ void count_items(int seqs, int* first, Items const& items) {
  __shared__ int of_warp[max_warps];
  int const threads = static_cast<int>(blockDim.x);
  int const thread = static_cast<int>(threadIdx.x);
  int const lane = thread % warp_size;
  int const each = (seqs + threads - 1) / threads;
  int const from = min(seqs, thread * each);
  int const to = min(seqs, from + each);
  int sum = 0;
  for (int i = from; i < to; ++i) {
    int const n = items(i);
    first[i] = n;
    sum += n;
  }
  int before = sum;  // of this and the earlier threads of the warp
  for (int offset = 1; offset < warp_size; offset *= 2) {
    int const other = __shfl_up_sync(0xffffffffu, before, offset);
    before += lane >= offset ? other : 0;
  }
  if (lane == warp_size - 1) {
    of_warp[thread / warp_size] = before;
  }
  __syncthreads();
  before -= sum;
  for (int w = 0; w < thread / warp_size; ++w) {
    before += of_warp[w];
  }
  for (int i = from; i < to; ++i) {
    int const n = first[i];
    first[i] = before;
    before += n;
  }
  if (thread == threads - 1) {
    first[seqs] = before;  // the threads after the last sequence carry the total on
  }
  __syncthreads();
}

/// The sequence that holds item `item` (first[result] <= item < first[result + 1]).
template <class Index, class Item> __device__ int find_sequence(Index const* first, int seqs, Item item) {
  int low = 0;
  int high = seqs;  // first[low] <= item < first[high]
  while (high - low > 1) {
    int const middle = (low + high) / 2;
    if (first[middle] <= item) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

/// Rounds one row of one kv head from `from` to `to`, with its scale if KV is fp8. A warp calls it.
template <class KV> __device__ void store_kv(float const* from, KV* to, f16* scale, int head) {
  int const lane = static_cast<int>(threadIdx.x) % warp_size;
  if constexpr (is_f8<KV>) {
    float largest = 0;
    for (int i = lane; i < head; i += warp_size) {
      largest = fmaxf(largest, fabsf(from[i]));
    }
    f16 const s = f8_scale(warp_largest(largest));
    for (int i = lane; i < head; i += warp_size) {
      to[i] = to_f8(from[i], s);
    }
    if (lane == 0) {
      *scale = s;
    }
  } else {
    for (int i = lane; i < head; i += warp_size) {
      to[i] = KV(from[i]);
    }
  }
}

/// Sets the counters of items to zero.
__device__ inline void clear_items(AttentionCall const& call) {
  if (blockIdx.x == 0) {
    for (int i = static_cast<int>(threadIdx.x); i < call.next_items; i += static_cast<int>(blockDim.x)) {
      call.next_item[i] = 0;
    }
  }
}

/// For bf16 rows at multiples of 16 bytes: each(t, column) for all tokens and every eighth column of the kv heads.
template <class Each> __device__ void each_eight(AttentionCall const& call, int head, Each const& each) {
  int const pieces = call.kv_heads * head / 8;
  int const across = min(pieces, static_cast<int>(blockDim.x));
  int const tokens = static_cast<int>(blockDim.x) / across;
  int const local = static_cast<int>(threadIdx.x) / across;
  if (local >= tokens) {
    return;
  }
  for (i64 t = static_cast<i64>(blockIdx.x) * tokens + local; t < call.tokens;
       t += static_cast<i64>(gridDim.x) * tokens) {
    for (int piece = static_cast<int>(threadIdx.x) % across; piece < pieces; piece += across) {
      each(t, piece * 8);
    }
  }
}

/// Rounds the call's keys and values into the staging rows. A warp takes a token and kv head. Wide: rows of the
/// call and of the state are bf16 and begin at multiples of 16 bytes; a thread takes eight columns.
template <class KV, bool Wide> __global__ void attention_stage_kernel(AttentionCall const call, int head) {
  clear_items(call);
  if constexpr (Wide) {
    i64 const width = i64{call.kv_heads} * head;
    each_eight(call, head, [&](i64 t, int column) {
      store_eight(call.staged_key, DType::bf16, t * width + column,
                  load_eight(call.k, DType::f32, t * call.k_stride + column));
      store_eight(call.staged_value, DType::bf16, t * width + column,
                  load_eight(call.v, DType::f32, t * call.v_stride + column));
    });
    return;
  }
  i64 const warps = static_cast<i64>(gridDim.x) * (blockDim.x / warp_size);
  i64 const first = (static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x) / warp_size;
  for (i64 i = first; i < call.tokens * call.kv_heads; i += warps) {
    i64 const t = i / call.kv_heads;
    i64 const column = (i - t * call.kv_heads) * head;
    store_kv(call.k + t * call.k_stride + column, static_cast<KV*>(call.staged_key) + i * head,
             call.staged_key_scale + i, head);
    store_kv(call.v + t * call.v_stride + column, static_cast<KV*>(call.staged_value) + i * head,
             call.staged_value_scale + i, head);
  }
}

/// Writes the keys and values of sequences of two tokens or more into the cache, the newest `capacity` of each at
/// most (those before would be overwritten). A warp takes a token and kv head; single tokens are the decode
/// kernel's. Wide: as above.
template <class KV, bool Wide> __global__ void attention_append_kernel(AttentionCall const call, int head) {
  clear_items(call);
  auto const kept = [&](AttentionSequence const& s, int at) {
    return s.tokens >= 2 && (s.pages != nullptr || at >= s.tokens - call.capacity);
  };
  if constexpr (Wide) {
    each_eight(call, head, [&](i64 t, int column) {
      AttentionSequence const s = attention_sequence(call, find_sequence(call.cu_seqlens, call.seqs, t));
      int const at = static_cast<int>(t - s.begin);
      if (kept(s, at)) {
        int const row = cache_row(call, s, s.position + at);
        store_eight(call.key.data, DType::bf16, cache_offset(call, s, call.key, row) + column,
                    load_eight(call.k, DType::f32, t * call.k_stride + column));
        store_eight(call.value.data, DType::bf16, cache_offset(call, s, call.value, row) + column,
                    load_eight(call.v, DType::f32, t * call.v_stride + column));
      }
    });
    return;
  }
  i64 const warps = static_cast<i64>(gridDim.x) * (blockDim.x / warp_size);
  i64 const first = (static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x) / warp_size;
  for (i64 i = first; i < call.tokens * call.kv_heads; i += warps) {
    i64 const t = i / call.kv_heads;
    int const kv_head = static_cast<int>(i - t * call.kv_heads);
    AttentionSequence const s = attention_sequence(call, find_sequence(call.cu_seqlens, call.seqs, t));
    int const at = static_cast<int>(t - s.begin);
    if (!kept(s, at)) {
      continue;
    }
    int const row = cache_row(call, s, s.position + at);
    int const column = kv_head * head;
    store_kv(call.k + t * call.k_stride + column,
             static_cast<KV*>(call.key.data) + cache_offset(call, s, call.key, row) + column,
             call.key.scale + scale_offset(call, s, call.key, row) + kv_head, head);
    store_kv(call.v + t * call.v_stride + column,
             static_cast<KV*>(call.value.data) + cache_offset(call, s, call.value, row) + column,
             call.value.scale + scale_offset(call, s, call.value, row) + kv_head, head);
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
