/// \file
/// What a forward keeps for its backward. Declared like state; the caller allocates, or passes nothing and nothing
/// is kept.
///
/// A block that can be trained declares
///   template <class T> struct Saved { T hidden, out; };
///   static constexpr Saved<SavedSpec> saved();
///   forward(ctx, w, s, x, y, Saved<Slot>* saved = nullptr);
///   backward(ctx, w, s0, x, saved, dy, dx, dw, ds_end, ds_begin);
/// x is the forward's input, s0 the state before it (null rows: zero), dy and dx are gradients of the outputs and
/// the input, ds_end and ds_begin those of the state after and before the call. Rows of dw are added to (a null row
/// is frozen: no product is formed for it), dx is overwritten (null: not formed); null rows of ds_end mean zero,
/// null rows of ds_begin are not formed. All gradients are at `acc`; rows of state gradients have the layout of the
/// pool (axis 0: the sequence's slot). Every sequence of a backward's batch is active.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>

#include <jet/core/arena.hpp>
#include <jet/core/batch.hpp>
#include <jet/core/context.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/param.hpp>
#include <jet/core/shape.hpp>

JET_NAMESPACE_BEGIN

/// How often a saved row is kept: once per token, per chunk of `saved_chunk` tokens, or per sequence. The chunks of
/// a sequence start at its first token of the call; sequences follow each other.
enum class Per : std::uint8_t { token, chunk, sequence };
inline constexpr i64 saved_chunk = 64;

/// The dtype of a saved row: as activations, or as what lies between products.
enum class SavedAs : std::uint8_t { act, acc };

/// One saved tensor: (tokens | chunks | sequences, shape...), shape of rank 1 to 3.
struct SavedSpec {
  Name name{};
  Shape shape{};
  Per per = Per::token;
  SavedAs as = SavedAs::act;

  constexpr bool present() const { return shape.rank > 0; }
};

template <class M>
concept HasSaved = requires {
  { M::saved() } -> std::same_as<typename M::template Saved<SavedSpec>>;
};

/// The rows of M::saved() as an array.
template <class M> constexpr auto saved_specs() {
  constexpr auto rows = detail::to_array<SavedSpec>(M::saved());
  static_assert(detail::well_formed(rows),
                "jet: saved() must give every row a unique name and a shape of rank 1 to 3 with positive extents");
  return rows;
}

constexpr i64 saved_chunks(i64 tokens) {
  return (tokens + saved_chunk - 1) / saved_chunk;
}
/// The first chunk row of sequence i.
inline i64 first_saved_chunk(BatchView const& batch, i64 i) {
  i64 chunks = 0;
  for (i64 j = 0; j < i; ++j) {
    chunks += saved_chunks(sequence(batch, j).tokens);
  }
  return chunks;
}

/// How many rows a call saves.
struct SavedRows {
  i64 tokens = 0;
  i64 chunks = 0;
  i64 seqs = 0;

  /// Of one call; the batch is in host memory.
  static SavedRows of(BatchView const& batch) {
    return {batch.tokens, first_saved_chunk(batch, batch.seqs), batch.seqs};
  }
  /// Enough for every call of at most so many tokens and sequences.
  static constexpr SavedRows at_most(i64 tokens, i64 seqs) { return {tokens, tokens / saved_chunk + seqs, seqs}; }
  constexpr i64 count(Per per) const { return per == Per::token ? tokens : per == Per::chunk ? chunks : seqs; }
};

/// Bytes of M's saved values, each tensor aligned.
template <class M> constexpr i64 saved_bytes(Precision const& p, SavedRows const& rows) {
  i64 bytes = 0;
  for (auto const& row : saved_specs<M>()) {
    bytes += align_up(rows.count(row.per) * row.shape.numel() * size_of(row.as == SavedAs::act ? p.act : p.acc));
  }
  return bytes;
}

/// M's saved values in `memory` of saved_bytes<M>(p, rows).
template <class M>
typename M::template Saved<Slot> bind_saved(Precision const& p, SavedRows const& rows, void* memory) {
  constexpr auto specs = saved_specs<M>();
  std::array<Slot, specs.size()> slots{};
  auto* at = static_cast<std::byte*>(memory);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    SavedSpec const& row = specs[i];
    if (row.present()) {
      Shape shape = row.shape;
      shape.rank = row.shape.rank + 1;
      for (int axis = 0; axis < row.shape.rank; ++axis) {
        shape.extent[axis + 1] = row.shape.extent[axis];
      }
      shape.extent[0] = rows.count(row.per);
      slots[i] = Slot(at, row.as == SavedAs::act ? p.act : p.acc, shape);
      at += align_up(slots[i].numel() * size_of(slots[i].dtype));
    }
  }
  if constexpr (specs.size() == 0) {
    return {};
  } else {
    return std::bit_cast<typename M::template Saved<Slot>>(slots);
  }
}

/// Copies an activation to where it is kept (or back): dense rows of one dtype.
template <class B> void copy_rows(Context<B>& ctx, View const& from, View const& to) {
  JET_ASSERT(from.dtype == to.dtype && from.numel() <= to.numel());
  if (!ctx.planning()) {
    ctx.backend().copy(to.data, from.data, from.numel() * size_of(from.dtype));
  }
}

/// Runs an op with the arguments that make it keep something. A backend whose kernel cannot yet still compiles the
/// forward without saving; asked to save, it throws.
template <class B, class Op, class... Args> void run_saving(Context<B>& ctx, Op const& op, Args&&... args) {
  if constexpr (KernelFor<Op, B, Args...>) {
    ctx.run(op, std::forward<Args>(args)...);
  } else {
    fail("op ", Op::name,
         " cannot save what its backward needs on this backend: training needs a backend that can");
  }
}

JET_NAMESPACE_END
