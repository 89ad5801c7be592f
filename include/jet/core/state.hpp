/// \file
/// The one declaration of a block's state, and what derives from it: bytes, pool slots, saving.
///
/// A block declares
///   template <class T> struct State { T recurrent, conv; };
///   static constexpr State<StateSpec> state();
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <type_traits>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/param.hpp>
#include <jet/core/shape.hpp>

JET_NAMESPACE_BEGIN

/// One state tensor of one sequence.
///   shape      once per sequence, or (per_token) once per token kept
///   per_token  true for keys and values
///   window     per_token rows keep at most this many newest tokens as a ring; 0: all
///   role       recurrent, conv or kv: decides the dtype
struct StateSpec {
  Name name{};
  Shape shape{};
  bool per_token = false;
  i64 window = 0;
  Role role = Role::recurrent;

  constexpr bool present() const { return shape.rank > 0; }
  /// Tokens kept for a sequence of at most `max_len` tokens.
  constexpr i64 capacity(i64 max_len) const {
    return !per_token ? 1 : window > 0 && window < max_len ? window : max_len;
  }
  constexpr i64 numel(i64 max_len) const { return present() ? shape.numel() * capacity(max_len) : 0; }
};

/// A state row that the config switches off.
inline constexpr StateSpec absent_state{.shape = [] {
  Shape s;
  s.rank = -1;
  return s;
}()};

/// recurrent → state, conv → act, kv → kv.
constexpr DType state_dtype(Precision const& p, Role role) {
  switch (role) {
    case Role::conv: return p.act;
    case Role::kv: return p.kv_dtype();
    default: return p.state;
  }
}

/// Bytes of one state row for one sequence, scales of fp8 rows included (one f16 per token, head and row).
constexpr i64 state_bytes(StateSpec const& row, Precision const& p, i64 max_len) {
  DType const type = state_dtype(p, row.role);
  i64 bytes = row.numel(max_len) * size_of(type);
  if (type == DType::f8e4m3 && row.present()) {
    bytes += row.capacity(max_len) * row.shape[0] * size_of(DType::f16);
  }
  return bytes;
}

template <class M>
concept HasState = requires {
  { M::state() } -> std::same_as<typename M::template State<StateSpec>>;
};

/// The rows of M::state() as an array; an empty array for a module without state.
template <class M> constexpr auto state_specs() {
  if constexpr (HasState<M>) {
    constexpr auto rows = detail::to_array<StateSpec>(M::state());
    static_assert(
        detail::well_formed(rows),
        "jet: state() must give every row that is not jet::absent_state a unique name and a shape with positive "
        "extents (is a row missing?)");
    return rows;
  } else {
    return std::array<StateSpec, 0>{};
  }
}

template <class M> inline constexpr std::size_t state_arity = state_specs<M>().size();

/// Bytes of M's state for `batch` sequences of `seq` tokens.
template <class M> constexpr i64 state_bytes(Precision const& p, i64 batch, i64 seq) {
  i64 bytes = 0;
  for (auto const& row : state_specs<M>()) {
    bytes += state_bytes(row, p, seq);
  }
  return bytes * batch;
}

template <class M> typename M::template State<Slot> as_state(std::array<Slot, state_arity<M>> const& slots) {
  if constexpr (state_arity<M> == 0) {
    return {};
  } else {
    return std::bit_cast<typename M::template State<Slot>>(slots);
  }
}

JET_NAMESPACE_END
