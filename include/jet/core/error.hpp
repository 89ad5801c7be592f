/// \file
/// One error type. A message says what was wrong, names the file, tensor or option, what was expected and what was
/// found, and where it helps, what to do.
#pragma once

#include <concepts>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

/// Thrown by every public entry point on bad input. `what()` begins with "jet: ".
class Error : public std::runtime_error {
 public:
  explicit Error(std::string const& message) : std::runtime_error("jet: " + message) {}
};

namespace detail {

inline void append(std::string& text, std::string_view part) {
  text += part;
}
inline void append(std::string& text, char const* part) {
  text += part;
}
inline void append(std::string& text, char part) {
  text += part;
}
inline void append(std::string& text, bool part) {
  text += part ? "true" : "false";
}
template <class N>
  requires(std::is_arithmetic_v<N> && !std::same_as<N, bool> && !std::same_as<N, char>)
void append(std::string& text, N part) {
  text += std::to_string(part);
}

}  // namespace detail

/// Joins strings and numbers into one message.
template <class... Parts> [[nodiscard]] std::string concat(Parts const&... parts) {
  std::string text;
  (detail::append(text, parts), ...);
  return text;
}

/// Throws jet::Error with the joined parts.
template <class... Parts> [[noreturn]] void fail(Parts const&... parts) {
  throw Error(concat(parts...));
}

JET_NAMESPACE_END
