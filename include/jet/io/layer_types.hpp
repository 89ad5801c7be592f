/// \file
/// The `layer_types` entry of a hybrid model's config.json: which mixer each layer has.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/json.hpp>

JET_NAMESPACE_BEGIN

/// Longest list of layers, longest text and largest multiplier that is accepted.
inline constexpr i64 layer_types_limit = 4096;
/// Longest name of a layer in bytes, so that a multiplier does not make much out of a short text.
inline constexpr std::size_t layer_name_limit = 256;

namespace detail {

/// Recursive descent over the grammar at parse_layer_types. Lists never grow beyond layer_types_limit.
class LayerTypesParser {
 public:
  LayerTypesParser(std::string_view text, std::string_view where) : text_(text), where_(where) {}

  std::vector<std::string> run() {
    std::vector<std::string> layers = expression(0);
    if (at_ != text_.size()) {
      fail_here("expected '+' or the end");
    }
    return layers;
  }

 private:
  static constexpr int max_depth = 32;

  template <class... Parts> [[noreturn]] void fail_here(Parts const&... parts) const {
    fail(where_, ": ", parts..., " at character ", at_, " of ", in_quotes(text_, 400),
         " (accepted: lists of quoted names, '+', '*' with an integer, parentheses)");
  }

  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) {
      ++at_;
    }
  }
  bool next_is(char c) const { return at_ < text_.size() && text_[at_] == c; }
  bool next_is_digit() const { return at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; }
  bool accept(char c) {
    if (!next_is(c)) {
      return false;
    }
    ++at_;
    skip_space();
    return true;
  }
  void expect(char c) {
    if (!accept(c)) {
      fail_here("expected '", c, "'");
    }
  }

  std::vector<std::string> expression(int depth) {
    skip_space();
    std::vector<std::string> layers = term(depth);
    while (accept('+')) {
      std::vector<std::string> const more = term(depth);
      check_length(static_cast<i64>(layers.size() + more.size()));
      layers.insert(layers.end(), more.begin(), more.end());
    }
    return layers;
  }

  std::vector<std::string> term(int depth) {
    if (next_is_digit()) {
      i64 const times = integer();
      expect('*');
      return repeated(list(), times);
    }
    std::vector<std::string> layers;
    if (accept('(')) {
      if (depth == max_depth) {
        fail_here("parentheses nested deeper than ", max_depth, " levels");
      }
      layers = expression(depth + 1);
      expect(')');
    } else {
      layers = list();
    }
    return accept('*') ? repeated(layers, integer()) : layers;
  }

  std::vector<std::string> list() {
    expect('[');
    std::vector<std::string> layers;
    if (accept(']')) {
      return layers;
    }
    do {
      layers.push_back(name());
    } while (accept(','));
    expect(']');
    return layers;
  }

  std::string name() {
    char const quote = next_is('"') ? '"' : '\'';
    if (!next_is(quote)) {
      fail_here("expected a quoted name");
    }
    std::size_t const first = ++at_;
    while (at_ < text_.size() && text_[at_] != quote) {
      if (text_[at_] == '\\' || static_cast<unsigned char>(text_[at_]) < 0x20) {
        fail_here("unexpected character in a name");
      }
      ++at_;
    }
    if (at_ == text_.size()) {
      fail_here("expected a closing ", quote);
    }
    if (at_ == first) {
      fail_here("empty name");
    }
    if (at_ - first > layer_name_limit) {
      fail_here("name longer than ", layer_name_limit, " bytes");
    }
    std::string const text(text_.substr(first, at_ - first));
    expect(quote);
    return text;
  }

  i64 integer() {
    if (!next_is_digit()) {
      fail_here("expected an integer");
    }
    bool const leading_zero = next_is('0');
    std::size_t const first = at_;
    i64 value = 0;
    for (; next_is_digit(); ++at_) {
      value = value * 10 + (text_[at_] - '0');
      if (value > layer_types_limit) {
        fail_here("multiplier larger than ", layer_types_limit);
      }
    }
    if (leading_zero && at_ != first + 1) {
      fail_here("leading zero in an integer");
    }
    skip_space();
    return value;
  }

  std::vector<std::string> repeated(std::vector<std::string> const& layers, i64 times) const {
    i64 const length = static_cast<i64>(layers.size()) * times;  // both are at most layer_types_limit
    check_length(length);
    std::vector<std::string> result;
    result.reserve(static_cast<std::size_t>(length));
    for (i64 i = 0; i < times; ++i) {
      result.insert(result.end(), layers.begin(), layers.end());
    }
    return result;
  }

  void check_length(i64 length) const {
    if (length > layer_types_limit) {
      fail_here("list of ", length, " layers is longer than ", layer_types_limit);
    }
  }

  std::string_view text_;
  std::string_view where_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// The mixer name of every layer. Accepts an array of strings, or a string in the subset of Python that published
/// configurations use, which is parsed and never evaluated:
///
///     expr   := term ('+' term)*
///     term   := list ('*' integer)? | integer '*' list | '(' expr ')' ('*' integer)?
///     list   := '[' (quoted (',' quoted)*)? ']'
///
/// with names in ' or ". Lists, texts and multipliers beyond layer_types_limit are refused. The names themselves
/// are not judged. `where` names the entry in errors, for example "config.json: layer_types". Throws jet::Error
/// with the text and the position.
inline std::vector<std::string> parse_layer_types(Json const& value, std::string_view where) {
  if (auto const* const text = value.get_ptr<std::string const*>()) {
    JET_CHECK(static_cast<i64>(text->size()) <= layer_types_limit, where, ": expected a text of at most ",
              layer_types_limit, " characters, found ", text->size());
    return detail::LayerTypesParser(*text, where).run();
  }
  JET_CHECK(value.is_array(), where, ": expected an array of strings or a string, found ", detail::shown(value));
  JET_CHECK(static_cast<i64>(value.size()) <= layer_types_limit, where, ": expected at most ", layer_types_limit,
            " layers, found ", value.size());
  std::vector<std::string> layers;
  layers.reserve(value.size());
  for (Json const& layer : value) {
    auto const* const name = layer.get_ptr<std::string const*>();
    JET_CHECK(name != nullptr && !name->empty(), where, "[", layers.size(), "]: expected a mixer name, found ",
              detail::shown(layer));
    JET_CHECK(name->size() <= layer_name_limit, where, "[", layers.size(), "]: expected a name of at most ",
              layer_name_limit, " bytes, found ", name->size());
    layers.push_back(*name);
  }
  return layers;
}

JET_NAMESPACE_END
