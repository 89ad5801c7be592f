/// \file
/// A string as a template argument: layer plans. For host-side types only (nvcc does not take it in a kernel
/// argument).
#pragma once

#include <cstddef>
#include <string_view>

#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

template <std::size_t N> struct fixed_string {
  char text[N]{};

  constexpr fixed_string(char const (&literal)[N]) {
    for (std::size_t i = 0; i < N; ++i) {
      text[i] = literal[i];
    }
  }
  static constexpr std::size_t size() { return N - 1; }
  constexpr char operator[](std::size_t i) const { return text[i]; }
  constexpr std::string_view view() const { return {text, N - 1}; }
};

JET_NAMESPACE_END
