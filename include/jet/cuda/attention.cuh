/// \file
/// Attention (op/attention.hpp) on the device. Sequences of one token go to the decode kernel, others to the
/// prefill kernel (attention_hopper.cuh on sm_90a with keys and values in bf16 and a head that is a multiple of 32
/// up to 256, else attention_prefill.cuh); which a sequence takes depends on its own number of tokens alone, and so
/// does its result.
///
/// Numerics: keys and values are rounded to the kv dtype before use. With keys and values in bf16 and a head that
/// is a multiple of 16 the products run on the tensor cores: in a prefill, queries and the softmax's weights are
/// rounded to bf16 too; in a decode step they keep 16 bits of mantissa. Softmax and sums are in fp32. Everything
/// else is plain fp32. Without a host batch, a call of as many tokens as sequences is a decode step: one token for
/// each sequence.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/attention_decode.cuh>
#include <jet/cuda/attention_hopper.cuh>
#include <jet/cuda/attention_prefill.cuh>
#include <jet/cuda/attention_rows.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/fwd.hpp>
#include <jet/op/attention.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Which kernels serve a head size and a storage type of keys and values.
template <int Head, class KV> struct AttentionPaths {
  static constexpr bool tensor =
      Head <= 256 && ((std::is_same_v<KV, bf16> && Head % 16 == 0) || (is_f8<KV> && Head % 32 == 0));
  static constexpr int tensor_head = tensor ? Head : 32;
  using tensor_kv = std::conditional_t<tensor, KV, bf16>;
  static constexpr int decode_warps = Head > 128 ? 4 : 8;
  // Two stages of eight warps keep enough under way; smaller rows need more stages for as many bytes.
  static constexpr i64 stage_bytes = DecodeMma<tensor_head, tensor_kv, decode_warps, 2, 1>::stage_bytes;
  static constexpr int stages = static_cast<int>(std::clamp<i64>(144000 / (decode_warps * stage_bytes), 2, 6));
  using decode = std::conditional_t<tensor, DecodeMma<tensor_head, tensor_kv, decode_warps, stages, 1>,
                                    DecodePlain<Head, KV, 4>>;
  using prefill = std::conditional_t<tensor, PrefillMma<tensor_head, tensor_kv>, PrefillPlain<Head, KV>>;
  /// The prefill on devices whose kernels run with wgmma.
  static constexpr bool wgmma = has_sm_90 && std::is_same_v<KV, bf16> && Head % 32 == 0 && Head <= 256;
  using prefill_wgmma = PrefillWgmma<wgmma ? Head : 32>;
  /// Bytes that addresses of a row's beginning are multiples of.
  static constexpr i64 row_alignment = tensor ? 16 : static_cast<i64>(sizeof(KV));
  static constexpr i64 query_alignment = tensor ? 16 : 4;
};

/// Scratch of a call.
struct AttentionMemory {
  View staged_key, staged_value, staged_key_scale, staged_value_scale;
  DecodeMerge merge{};
  int* next_item = nullptr;
};

inline void check_attention_view(View const& view, char const* what, i64 tokens, i64 width, i64 align) {
  JET_CHECK(view.rank == 2 && view.extent[0] == tokens && view.extent[1] == width && view.stride[1] == 1,
            "CUDA: attention: ", what, " must have the shape (", tokens, ", ", width, ") with dense rows");
  JET_CHECK(reinterpret_cast<std::uintptr_t>(view.data) % static_cast<std::uintptr_t>(align) == 0 &&
                view.stride[0] * size_of(view.dtype) % align == 0,
            "CUDA: attention: rows of ", what, " must begin at multiples of ", align, " bytes");
}

inline void check_attention_cache(Slot const& cache, char const* what, i64 kv_heads, i64 head, DType type,
                                  i64 align) {
  JET_CHECK(cache.dtype == type && cache.rank == 4 && cache.extent[2] == kv_heads && cache.extent[3] == head &&
                cache.stride[3] == 1 && cache.stride[2] == head,
            "CUDA: attention: the ", what, " cache must be ", name_of(type), " [slots, capacity, ", kv_heads, ", ",
            head, "] with dense heads");
  JET_CHECK(cache.extent[1] > 0 && cache.extent[1] <= std::numeric_limits<int>::max(), "CUDA: attention: the ",
            what, " cache has a capacity of ", cache.extent[1], " rows");
  JET_CHECK(reinterpret_cast<std::uintptr_t>(cache.data) % static_cast<std::uintptr_t>(align) == 0 &&
                cache.stride[0] * size_of(type) % align == 0 && cache.stride[1] * size_of(type) % align == 0,
            "CUDA: attention: rows of the ", what, " cache must begin at multiples of ", align, " bytes");
}

/// Scales of a unit begin a unit's bytes after those of the unit before.
inline AttentionCache attention_cache(Slot const& slot) {
  return {slot.data, slot.stride[0], slot.stride[1], static_cast<f16*>(slot.scale),
          slot.stride[0] * size_of(slot.dtype) / size_of(DType::f16)};
}

/// Pieces of a kv head at most in a decode step of an attention with window `window` on caches of `capacity` rows
/// (0: none). Of a full attention it does not depend on the capacity: that of a paged cache is not known.
inline int attention_max_pieces(i64 kv_heads, i64 window, i64 capacity, int multiprocessors) {
  int const most = decode_max_pieces(static_cast<int>(kv_heads), multiprocessors);
  return capacity == 0 ? 1 : window > 0 ? decode_pieces(static_cast<int>(capacity), most) : most;
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <op::AttentionShape C> struct Kernel<op::Attention<C>, tag::cuda> {
  static_assert(C.head <= 512, "jet: attention on CUDA needs head <= 512");
  static constexpr i64 kv_width = C.kv_heads * C.head;
  static constexpr int head = static_cast<int>(C.head);
  static constexpr i64 group = C.heads / C.kv_heads;
  static constexpr i64 piece_rows = group < cuda::kernel::decode_rows ? group : cuda::kernel::decode_rows;
  static constexpr i64 cuts = (group + cuda::kernel::decode_rows - 1) / cuda::kernel::decode_rows;

  /// Launches of a prefill of so many sequences.
  static constexpr i64 launches(i64 seqs) {
    return (seqs + cuda::kernel::prefill_sequences - 1) / cuda::kernel::prefill_sequences;
  }

  template <class B>
  static cuda::kernel::AttentionMemory scratch(Context<B>& ctx, op::Attention<C> const&, View const& q, View const&,
                                               View const&, Slot const& key_cache, Slot const&, View const&) {
    constexpr DType kv = B::precision.kv_dtype();
    cuda::kernel::AttentionMemory m;
    // Rings lose rows that the call still needs when new ones are written, so the call's rows stand apart.
    if (C.window > 0 || !key_cache) {
      m.staged_key = ctx.scratch(q.tokens(), kv_width, kv);
      m.staged_value = ctx.scratch(q.tokens(), kv_width, kv);
      if constexpr (kv == DType::f8e4m3) {
        m.staged_key_scale = ctx.scratch(q.tokens(), C.kv_heads, DType::f16);
        m.staged_value_scale = ctx.scratch(q.tokens(), C.kv_heads, DType::f16);
      }
    }
    using Path = typename cuda::kernel::AttentionPaths<head, cuda::kv_storage<kv>>::decode;
    m.merge.max_pieces = cuda::kernel::attention_max_pieces(
        C.kv_heads, C.window, key_cache ? key_cache.extent[1] : 0, ctx.backend().multiprocessors());
    bool const invariant = ctx.backend().batch_invariant();
    m.merge.fixed = invariant || ctx.seqs() <= cuda::kernel::decode_fixed || m.merge.max_pieces == 1;
    i64 const places = cuda::kernel::decode_places(ctx.seqs(), C.kv_heads * cuts, invariant, m.merge.max_pieces,
                                                   ctx.backend().multiprocessors(), Path::blocks_each);
    m.merge.sums = static_cast<float*>(ctx.scratch_bytes(places * piece_rows * C.head * i64{sizeof(float)}));
    m.merge.norms = static_cast<float2*>(ctx.scratch_bytes(places * piece_rows * i64{sizeof(float2)}));
    m.merge.units = static_cast<cuda::kernel::DecodeUnit*>(
        ctx.scratch_bytes(ctx.seqs() * C.kv_heads * cuts * i64{sizeof(cuda::kernel::DecodeUnit)}));
    m.next_item = static_cast<int*>(ctx.scratch_bytes(launches(ctx.seqs()) * i64{sizeof(int)}));
    return m;
  }

  template <class B>
  static void run(Context<B>& ctx, op::Attention<C> const&, cuda::kernel::AttentionMemory const& memory,
                  View const& q, View const& k, View const& v, Slot const& key_cache, Slot const& value_cache,
                  View const& o) {
    static_assert(B::precision.acc == DType::f32, "jet: attention on CUDA accumulates in f32");
    constexpr DType kv = B::precision.kv_dtype();
    static_assert(kv == DType::f32 || kv == DType::bf16 || kv == DType::f8e4m3,
                  "jet: attention on CUDA keeps keys and values in f32, bf16 or f8e4m3");
    using KV = cuda::kv_storage<kv>;
    namespace kernel = cuda::kernel;
    using Paths = kernel::AttentionPaths<head, KV>;
    BatchView const& batch = ctx.batch();
    BatchView const* const host = ctx.host_batch();
    i64 const tokens = q.tokens();
    if (tokens == 0 || batch.seqs == 0) {
      return;
    }
    kernel::check_attention_view(q, "q", tokens, C.heads * C.head, Paths::query_alignment);
    kernel::check_attention_view(k, "k", tokens, kv_width, Paths::query_alignment);
    kernel::check_attention_view(v, "v", tokens, kv_width, Paths::query_alignment);
    kernel::check_attention_view(o, "o", tokens, C.heads * C.head,
                                 Paths::tensor ? 2 * size_of(o.dtype) : size_of(o.dtype));
    JET_CHECK(q.dtype == DType::f32 && k.dtype == DType::f32 && v.dtype == DType::f32 &&
                  (o.dtype == DType::f32 || o.dtype == DType::bf16),
              "CUDA: attention: q, k, v and o are ", name_of(q.dtype), ", ", name_of(k.dtype), ", ",
              name_of(v.dtype), " and ", name_of(o.dtype), ", expected f32 three times, and f32 or bf16");
    JET_CHECK(tokens * C.heads <= std::numeric_limits<int>::max() && batch.seqs <= std::numeric_limits<int>::max(),
              "CUDA: attention: a call of ", tokens, " tokens in ", batch.seqs, " sequences is too large");

    kernel::AttentionCall call{};
    call.q = q.as<float>();
    call.k = k.as<float>();
    call.v = v.as<float>();
    call.q_stride = q.stride[0];
    call.k_stride = k.stride[0];
    call.v_stride = v.stride[0];
    call.o = o.data;
    call.o_stride = o.stride[0];
    call.o_bf16 = o.dtype == DType::bf16;
    call.cu_seqlens = batch.cu_seqlens;
    call.slot = batch.slot;
    call.position = batch.position;
    call.seqs = static_cast<int>(batch.seqs);
    call.tokens = tokens;
    call.kv_heads = static_cast<int>(C.kv_heads);
    call.group = static_cast<int>(group);
    call.window = static_cast<int>(C.window);
    call.scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(C.head)));
    call.next_item = memory.next_item;
    call.next_items = static_cast<int>(launches(batch.seqs));
    call.staged_key = memory.staged_key.data;
    call.staged_value = memory.staged_value.data;
    call.staged_key_scale = static_cast<f16*>(memory.staged_key_scale.data);
    call.staged_value_scale = static_cast<f16*>(memory.staged_value_scale.data);
    // Without a cache the addresses are never read; they must only be valid.
    call.key = {k.data, 0, 0, static_cast<f16*>(k.data), 0};
    call.value = {v.data, 0, 0, static_cast<f16*>(v.data), 0};
    if (key_cache) {
      kernel::check_attention_cache(key_cache, "key", C.kv_heads, C.head, kv, Paths::row_alignment);
      kernel::check_attention_cache(value_cache, "value", C.kv_heads, C.head, kv, Paths::row_alignment);
      JET_CHECK(key_cache.extent[1] == value_cache.extent[1], "CUDA: attention: the key cache has ",
                key_cache.extent[1], " rows, the value cache ", value_cache.extent[1]);
      call.key = kernel::attention_cache(key_cache);
      call.value = kernel::attention_cache(value_cache);
      call.capacity = static_cast<int>(key_cache.extent[1]);
      if (batch.pages != nullptr && C.window == 0) {
        JET_CHECK(batch.page_size == key_cache.extent[1], "CUDA: attention: pages of ", batch.page_size,
                  " tokens, the cache's have ", key_cache.extent[1]);
        call.pages = batch.pages;
        call.max_pages = batch.max_pages;
        call.page_size = static_cast<int>(batch.page_size);
      }
    }

    bool single = true;
    bool several = tokens != batch.seqs;
    auto const length = [&](i64 i) {
      return host->slot[i] < 0 ? i64{0} : host->cu_seqlens[i + 1] - host->cu_seqlens[i];
    };
    if (host != nullptr) {
      single = several = false;
      for (i64 i = 0; i < host->seqs; ++i) {
        single = single || length(i) == 1;
        several = several || length(i) > 1;
      }
    }
    cudaStream_t const stream = ctx.backend().stream();
    if (single) {
      kernel::attention_decode<typename Paths::decode>(stream, ctx.backend().multiprocessors(), call, memory.merge);
    }
    if (several) {
      constexpr int threads = 256;
      constexpr bool wide = Paths::tensor && std::is_same_v<KV, bf16>;
      i64 const blocks = (tokens * C.kv_heads * (wide ? C.head / 8 : i64{cuda::warp_size}) + threads - 1) / threads;
      cuda::Grid const rows{std::min<i64>(blocks, 65536), threads};
      auto const append = [&] {
        if (call.capacity > 0) {
          launch("attention_append", rows, stream, &kernel::attention_append_kernel<KV, wide>, call, head);
        }
      };
      if (call.staged_key != nullptr) {
        launch("attention_stage", rows, stream, &kernel::attention_stage_kernel<KV, wide>, call, head);
      } else {
        append();
      }
      auto const portable = [&] {
        kernel::attention_prefill<typename Paths::prefill>(stream, call, host != nullptr, length);
      };
      if constexpr (Paths::wgmma) {
        if (kernel::runs_wgmma()) {
          kernel::attention_wgmma<typename Paths::prefill_wgmma>(stream, ctx.backend().multiprocessors(), call,
                                                                 key_cache ? key_cache.extent[0] : 0,
                                                                 host != nullptr, length);
        } else {
          portable();
        }
      } else {
        portable();
      }
      if (call.staged_key != nullptr) {
        append();
      }
    }
  }
};

JET_NAMESPACE_END
