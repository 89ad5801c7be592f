/// \file
/// Embedding and row gathering on the CPU.
#pragma once

#include <cstdint>
#include <cstring>

#include <jet/cpu/rows.hpp>
#include <jet/op/embedding.hpp>

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::Embedding, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::Embedding const&, Slot const& table, std::int32_t const*, View const&) {
    return cpu::worker_scratch(ctx, table.extent[1]);
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::Embedding const&, S const& memory, Slot const& table,
                  std::int32_t const* ids, View const& x) {
    auto const& k = ctx.backend().kernels();
    i64 const n = x.width();
    auto* const buffer = memory.of(0);
    for (i64 i = 0; i < ctx.seqs(); ++i) {
      Sequence const seq = ctx.sequence(i);
      for (i64 t = seq.begin; t < seq.begin + seq.tokens; ++t) {
        if (seq.active()) {
          JET_ASSERT(ids[t] >= 0 && ids[t] < table.extent[0]);
          cpu::store_row(k, x.dtype, cpu::load_row(k, table.dtype, table.row_bytes(ids[t]), n, buffer), n,
                         x.row_bytes(t));
        } else {
          std::memset(x.row_bytes(t), 0, static_cast<std::size_t>(n * size_of(x.dtype)));
        }
      }
    }
  }
};

template <> struct Kernel<op::GatherRows, tag::cpu> {
  template <class B>
  static void run(Context<B>&, op::GatherRows const&, View const& x, std::int64_t const* rows, View const& y) {
    for (i64 i = 0; i < y.tokens(); ++i) {
      std::memcpy(y.row_bytes(i), x.row_bytes(rows[i]), static_cast<std::size_t>(x.width() * size_of(x.dtype)));
    }
  }
};

JET_NAMESPACE_END
