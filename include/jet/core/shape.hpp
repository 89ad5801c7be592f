/// \file
/// Shapes and short names as structural values: they stand in the constexpr tables of parameters and state.
#pragma once

#include <cstddef>
#include <string_view>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

/// Up to four extents, 64-bit. Rank 0 means "no tensor".
struct Shape {
  i64 extent[4]{};
  int rank = 0;

  constexpr Shape() = default;
  template <class... I>
    requires(sizeof...(I) >= 1 && sizeof...(I) <= 4)
  constexpr Shape(I... extents) : extent{static_cast<i64>(extents)...}, rank(sizeof...(I)) {}

  constexpr i64 operator[](int axis) const { return extent[axis]; }
  /// Number of elements; 0 for rank 0.
  constexpr i64 numel() const {
    i64 n = rank > 0 ? 1 : 0;
    for (int i = 0; i < rank; ++i) {
      n *= extent[i];
    }
    return n;
  }
  friend constexpr bool operator==(Shape const&, Shape const&) = default;
};

/// A name stored by value, so that a table of names is a constant expression and can be bit_cast.
struct Name {
  static constexpr std::size_t capacity = 64;
  char text[capacity]{};

  constexpr Name() = default;
  template <std::size_t N> constexpr Name(char const (&literal)[N]) {
    static_assert(N <= capacity, "jet: a tensor name is longer than 63 characters");
    for (std::size_t i = 0; i < N; ++i) {
      text[i] = literal[i];
    }
  }
  constexpr std::string_view view() const {
    std::size_t n = 0;
    while (n < capacity && text[n] != '\0') {
      ++n;
    }
    return {text, n};
  }
  constexpr operator std::string_view() const { return view(); }
  constexpr bool empty() const { return text[0] == '\0'; }
  friend constexpr bool operator==(Name const&, Name const&) = default;
};

/// What a tensor is for. Parameters use mixer ... head ("freeze the MLPs" is a query on roles); state rows use
/// recurrent, conv and kv, which also decide their dtype (state.hpp).
enum class Role : std::uint8_t { mixer, mlp, norm, embedding, head, recurrent, conv, kv };

/// Which part of a mixer a parameter is, for converters that inherit a mixer from another kind.
enum class Part : std::uint8_t { none, query, key, value, output, gate, beta, decay, conv };

JET_NAMESPACE_END
