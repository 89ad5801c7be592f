/// \file
/// What the CPU kernels share: scratch per worker, rows as the accumulation type, parallel loops over rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <jet/core/context.hpp>
#include <jet/core/view.hpp>
#include <jet/cpu/backend.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

template <class B> using scalar_of = typename B::scalar;

/// Scratch of each worker of a parallel region, in numbers of T.
template <class T> struct WorkerScratch {
  T* data = nullptr;
  i64 stride = 0;
  T* of(int worker) const { return data + worker * stride; }
};

template <class B> WorkerScratch<scalar_of<B>> worker_scratch(Context<B>& ctx, i64 count) {
  using T = scalar_of<B>;
  i64 const bytes = align_up(count * static_cast<i64>(sizeof(T)));
  return {static_cast<T*>(ctx.scratch_bytes(bytes * ctx.backend().threads())), bytes / static_cast<i64>(sizeof(T))};
}

/// n numbers at `from` (T or bf16) as T: the address itself, or converted into `buffer`.
template <class T> T const* load_row(KernelTable<T> const& k, DType type, void const* from, i64 n, T* buffer) {
  if (type == dtype_of<T>) {
    return static_cast<T const*>(from);
  }
  JET_ASSERT(type == DType::bf16);
  k.from_bf16(n, static_cast<bf16 const*>(from), buffer);
  return buffer;
}

/// Where to compute n numbers that end at `to` (T or bf16): the address itself, or `buffer`, to be stored
/// afterwards.
template <class T> T* row_target(DType type, void* to, T* buffer) {
  return type == dtype_of<T> ? static_cast<T*>(to) : buffer;
}
template <class T> void store_row(KernelTable<T> const& k, DType type, T const* from, i64 n, void* to) {
  if (static_cast<void const*>(from) == to) {
    return;
  }
  if (type == dtype_of<T>) {
    std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
  } else {
    JET_ASSERT(type == DType::bf16);
    k.to_bf16(n, from, static_cast<bf16*>(to));
  }
}

/// A rank-1 parameter: vectors are kept at the accumulation type (model/weights.hpp).
template <class T> T const* vector_of(Slot const& slot) {
  return slot ? slot.as<T>() : nullptr;
}

/// f(first, last, worker) over [0, rows), in parallel when rows * width is worth it.
template <class B, class F> void parallel_rows(B const& backend, i64 rows, i64 width, F const& f) {
  constexpr i64 grain = 1 << 14;  // numbers per task: a few microseconds
  i64 const per_task = std::clamp<i64>(grain / std::max<i64>(width, 1), 1, std::max<i64>(rows, 1));
  i64 const tasks = (rows + per_task - 1) / per_task;
  backend.parallel(tasks, [&](i64 task, int worker) {
    i64 const first = task * per_task;
    f(first, std::min(rows, first + per_task), worker);
  });
}

/// f(seq, first, count, part, worker) over tiles of at most `tile` tokens of every active sequence, times `parts`.
template <class B, class F> void for_tiles(Context<B>& ctx, i64 tile, i64 parts, F const& f) {
  i64 tiles = 0;
  for (i64 i = 0; i < ctx.seqs(); ++i) {
    Sequence const seq = ctx.sequence(i);
    tiles += seq.active() ? (seq.tokens + tile - 1) / tile : 0;
  }
  ctx.backend().parallel(tiles * parts, [&](i64 task, int worker) {
    i64 at = task / parts;
    for (i64 i = 0;; ++i) {
      Sequence const seq = ctx.sequence(i);
      i64 const n = seq.active() ? (seq.tokens + tile - 1) / tile : 0;
      if (at < n) {
        f(seq, at * tile, std::min(tile, seq.tokens - at * tile), task % parts, worker);
        return;
      }
      at -= n;
    }
  });
}

/// Converts n numbers between any two floating storage types (state slots, files). Not for hot loops.
template <class To, class From> void convert(From const* from, To* to, i64 n) {
  for (i64 i = 0; i < n; ++i) {
    if constexpr (std::is_same_v<From, double> || std::is_same_v<From, float>) {
      to[i] = static_cast<To>(from[i]);
    } else {
      to[i] = static_cast<To>(static_cast<float>(from[i]));
    }
  }
}

/// Numbers of a state slot as T: the address itself, or converted into `buffer`.
template <class T> T* load_state(DType type, void* from, i64 n, T* buffer) {
  if (type == dtype_of<T>) {
    return static_cast<T*>(from);
  }
  switch (type) {
    case DType::f64: convert(static_cast<double const*>(from), buffer, n); break;
    case DType::f32: convert(static_cast<float const*>(from), buffer, n); break;
    case DType::bf16: convert(static_cast<bf16 const*>(from), buffer, n); break;
    case DType::f16: convert(static_cast<f16 const*>(from), buffer, n); break;
    default: JET_ASSERT(false);
  }
  return buffer;
}
template <class T> void store_state(DType type, T const* from, i64 n, void* to) {
  if (static_cast<void const*>(from) == to) {
    return;
  }
  switch (type) {
    case DType::f64: convert(from, static_cast<double*>(to), n); break;
    case DType::f32: convert(from, static_cast<float*>(to), n); break;
    case DType::bf16: convert(from, static_cast<bf16*>(to), n); break;
    case DType::f16: convert(from, static_cast<f16*>(to), n); break;
    default: JET_ASSERT(false);
  }
}

}  // namespace cpu
JET_NAMESPACE_END
