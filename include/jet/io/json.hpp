/// \file
/// JSON from files of unknown origin: a strict reader and typed access with errors that say where.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/mapped_file.hpp>
#include <jet/text/utf8.hpp>

JET_NAMESPACE_BEGIN

/// Objects keep the order of the text. They are searched linearly: iterate over large ones (vocabularies, weight
/// maps), do not look keys up.
using Json = nlohmann::ordered_json;

/// Deepest nesting of objects and arrays that is accepted.
inline constexpr std::size_t json_max_depth = 64;
/// Longest text that is accepted, in bytes.
inline constexpr i64 json_max_bytes = i64{512} << 20;

namespace detail {

inline bool is_printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

/// Text of unknown origin for a message: control and non-ASCII bytes as \xNN, at most `limit` bytes of it.
inline std::string printable(std::string_view text, std::size_t limit = 120) {
  constexpr char const* digits = "0123456789abcdef";
  std::string shown;
  for (char const c : text.substr(0, limit)) {
    auto const byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      shown += c;
    } else {
      shown += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    }
  }
  return text.size() > limit ? shown + "..." : shown;
}
/// The same in double quotes.
inline std::string in_quotes(std::string_view text, std::size_t limit = 120) {
  return concat('"', printable(text.substr(0, limit), limit), text.size() > limit ? "\"..." : "\"");
}

/// An iterator over text that counts what was read, so that a SAX handler can say where it is.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = char const*;
  using reference = char const&;

  CountingIterator(char const* at, std::size_t* count) : at_(at), count_(count) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    ++*count_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator const before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(CountingIterator const& a, CountingIterator const& b) { return a.at_ == b.at_; }

 private:
  char const* at_;
  std::size_t* count_;
};

/// What every reader of JSON shares: the text's name, the position, and the syntax errors.
class JsonHandler : public Json::json_sax_t {
 public:
  JsonHandler(std::string_view text, std::string_view what) : text_(text), what_(what) {}

  /// Runs the handler over the text. Throws jet::Error on everything that is not one JSON value in valid UTF-8.
  void run() {
    // The lexer takes a zero byte for the end of the text and would ignore what follows.
    std::size_t const zero = text_.find('\0');
    if (zero != std::string_view::npos) {
      fail_at(zero, "zero byte in JSON text");
    }
    std::size_t const invalid = utf8_find_invalid(text_);
    if (invalid != std::string_view::npos) {
      fail_at(invalid, "invalid UTF-8");
    }
    char const* const first = text_.data();
    Json::sax_parse(CountingIterator(first, &count_), CountingIterator(first + text_.size(), &count_), this);
  }

  bool parse_error(std::size_t position, std::string const&, nlohmann::detail::exception const& error) override {
    constexpr int out_of_range = 406;  // the parser's number for it
    std::size_t const at = position > 0 ? position - 1 : 0;
    if (error.id == out_of_range) {
      fail_at(at, "number beyond the range of a double");
    }
    // What follows the parser's own account of the position.
    std::string_view message = error.what();
    std::size_t const own = message.find("parse error at line ");
    std::size_t const end = own == message.npos ? message.find("] ") : message.find(": ", own);
    message.remove_prefix(end == message.npos ? 0 : end + 2);
    fail_at(at, "not valid JSON: ", printable(message, 300));  // it cites the text, which may hold anything
  }

  bool binary(binary_t&) override { fail_here("binary value"); }

 protected:
  /// Throws with the current position; `parts` say what is wrong there.
  template <class... Parts> [[noreturn]] void fail_here(Parts const&... parts) const {
    fail_at(count_ > 0 ? count_ - 1 : 0, parts...);
  }
  template <class... Parts> [[noreturn]] void fail_at(std::size_t position, Parts const&... parts) const {
    std::size_t line = 1;
    std::size_t column = 1;
    for (char const c : text_.substr(0, position)) {
      line += c == '\n' ? 1 : 0;
      column = c == '\n' ? 1 : column + 1;
    }
    fail(what_, ": byte ", position, " (line ", line, ", column ", column, "): ", parts...);
  }

  std::string_view text_;
  std::string_view what_;
  std::size_t count_ = 0;  // bytes read
};

/// Builds the document. Appends to objects without searching them, which keeps large ones linear.
class JsonBuilder final : public JsonHandler {
 public:
  using JsonHandler::JsonHandler;

  Json take() { return std::move(root_); }

  bool null() override { return scalar(nullptr); }
  bool boolean(bool value) override { return scalar(value); }
  bool number_integer(number_integer_t value) override { return scalar(value); }
  bool number_unsigned(number_unsigned_t value) override { return scalar(value); }
  bool number_float(number_float_t value, string_t const&) override { return scalar(value); }
  bool string(string_t& value) override { return scalar(std::move(value)); }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (!open_.back().keys.insert(name).second) {
      fail_here("duplicate key ", in_quotes(name));
    }
    key_ = std::move(name);
    return true;
  }

 private:
  struct Open {
    Json* value;
    std::unordered_set<std::string> keys;
  };

  Json* add(Json&& value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (auto* const array = open_.back().value->get_ptr<Json::array_t*>()) {
      return &array->emplace_back(std::move(value));
    }
    auto& object = open_.back().value->get_ref<Json::object_t&>();
    return &object.emplace_back(std::move(key_), std::move(value)).second;
  }
  template <class T> bool scalar(T&& value) {
    add(Json(std::forward<T>(value)));
    return true;
  }
  bool open(Json&& value) {
    if (open_.size() == json_max_depth) {
      fail_here("nested deeper than ", json_max_depth, " levels");
    }
    // A parent does not grow while a child of it is open, so the pointer stays good.
    open_.push_back({add(std::move(value)), {}});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  Json root_;
  std::vector<Open> open_;
  std::string key_;
};

}  // namespace detail

/// Parses one JSON document. `what` names it in errors. Refuses, with the position, invalid UTF-8, syntax errors,
/// trailing text, nesting deeper than json_max_depth, duplicate keys in one object, numbers beyond a double, and
/// texts longer than json_max_bytes. Throws jet::Error.
inline Json parse_json(std::string_view text, std::string_view what) {
  JET_CHECK(static_cast<i64>(text.size()) <= json_max_bytes, what, ": expected at most ", json_max_bytes,
            " bytes of JSON, found ", text.size());
  detail::JsonBuilder builder(text, what);
  builder.run();
  return builder.take();
}

/// Reads a JSON file. Errors as parse_json and MappedFile; files longer than `max_bytes` are refused.
inline Json load_json(std::filesystem::path const& path, i64 max_bytes = json_max_bytes) {
  MappedFile const file(path);
  JET_CHECK(file.size() <= max_bytes, path.string(), ": expected at most ", max_bytes, " bytes of JSON, found ",
            file.size());
  return parse_json(file.text(), path.string());
}

namespace detail {

/// A value as messages show it.
inline std::string shown(Json const& value) {
  switch (value.type()) {
    case Json::value_t::string: return "the string " + in_quotes(value.get_ref<std::string const&>());
    case Json::value_t::object: return "an object";
    case Json::value_t::array: return "an array";
    case Json::value_t::binary: return "binary data";
    default: return value.dump();
  }
}

inline i64 int_from(Json const& value, std::string_view where) {
  if (value.is_number_unsigned()) {
    auto const number = value.get<std::uint64_t>();
    if (number <= static_cast<std::uint64_t>(std::numeric_limits<i64>::max())) {
      return static_cast<i64>(number);
    }
  } else if (value.is_number_integer()) {
    return value.get<i64>();
  } else if (value.is_number_float()) {
    auto const number = value.get<double>();
    if (std::abs(number) <= 0x1p53 && std::trunc(number) == number) {  // exact: 1e3, 4.0
      return static_cast<i64>(number);
    }
  }
  fail(where, ": expected an integer of 64 bits, found ", shown(value));
}

/// The value of decimal digits and nothing else, within i64.
inline std::optional<i64> whole_number(std::string_view text) {
  i64 value = 0;
  bool const has_sign = text.starts_with('-');
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  bool const is_whole = !has_sign && error == std::errc() && end == text.data() + text.size();
  return is_whole ? std::optional(value) : std::nullopt;
}

inline double number_from(Json const& value, std::string_view where) {
  JET_CHECK(value.is_number(), where, ": expected a number, found ", shown(value));
  return value.get<double>();
}

inline double number_or_numeric_string_from(Json const& value, std::string_view where) {
  if (auto const* const text = value.get_ptr<std::string const*>()) {
    double number = 0;
    char const* const last = text->data() + text->size();
    auto const result = std::from_chars(text->data(), last, number);
    JET_CHECK(result.ec == std::errc() && result.ptr == last && std::isfinite(number), where,
              ": expected a number or a string that holds one, found ", shown(value));
    return number;
  }
  JET_CHECK(value.is_number(), where, ": expected a number or a string that holds one, found ", shown(value));
  return value.get<double>();
}

inline bool bool_from(Json const& value, std::string_view where) {
  JET_CHECK(value.is_boolean(), where, ": expected true or false, found ", shown(value));
  return value.get<bool>();
}

inline std::string const& string_from(Json const& value, std::string_view where) {
  JET_CHECK(value.is_string(), where, ": expected a string, found ", shown(value));
  return value.get_ref<std::string const&>();
}

inline Json const& object_from(Json const& value, std::string_view where) {
  JET_CHECK(value.is_object(), where, ": expected an object, found ", shown(value));
  return value;
}

inline Json const& array_from(Json const& value, std::string_view where) {
  JET_CHECK(value.is_array(), where, ": expected an array, found ", shown(value));
  return value;
}

inline std::string key_path(std::string_view where, std::string_view key) {
  return concat(where, ": ", key);
}

}  // namespace detail

/// The member, or nullptr when it is absent or null.
inline Json const* find_member(Json const& object, std::string_view key, std::string_view where) {
  detail::object_from(object, where);
  for (auto const& [name, value] : object.get_ref<Json::object_t const&>()) {
    if (name == key) {
      return value.is_null() ? nullptr : &value;
    }
  }
  return nullptr;
}

/// The member, of any type but null.
inline Json const& get_member(Json const& object, std::string_view key, std::string_view where) {
  Json const* const member = find_member(object, key, where);
  JET_CHECK(member != nullptr, where, ": ", key, ": required, but absent or null");
  return *member;
}

namespace detail {

/// find_x: the member as read(member, path) gives it. A Value that is a reference is found as a pointer.
template <class Value, auto read> struct MemberFinder {
  auto operator()(Json const& object, std::string_view key, std::string_view where) const {
    Json const* const member = find_member(object, key, where);
    if constexpr (std::is_reference_v<Value>) {
      return member != nullptr ? &read(*member, key_path(where, key)) : nullptr;
    } else {
      return member != nullptr ? std::optional<Value>(read(*member, key_path(where, key))) : std::nullopt;
    }
  }
};

/// get_x, without and with a fallback.
template <class Value, auto read> struct MemberGetter {
  Value operator()(Json const& object, std::string_view key, std::string_view where) const {
    return read(get_member(object, key, where), key_path(where, key));
  }
  template <class Fallback>
    requires(!std::is_reference_v<Value>)
  Value operator()(Json const& object, std::string_view key, std::string_view where,
                   Fallback const& fallback) const {
    std::optional<Value> found = MemberFinder<Value, read>{}(object, key, where);
    return found ? *std::move(found) : static_cast<Value>(fallback);
  }
};

}  // namespace detail

// Typed access to the members of an object. `where` names the document or section in errors, which read
// "<where>: <key>: expected ..., found ...". Three forms:
//   get_x(object, key, where)            the member must be there
//   get_x(object, key, where, fallback)  `fallback` when it is absent or null
//   find_x(object, key, where)           empty (nullptr for objects and arrays) when it is absent or null
// A member of the wrong type is an error in every form. All throw jet::Error.

/// An integer: a JSON integer within i64, or a number with no fraction such as 1e3.
inline constexpr detail::MemberGetter<i64, &detail::int_from> get_int{};
inline constexpr detail::MemberFinder<i64, &detail::int_from> find_int{};

/// A JSON number.
inline constexpr detail::MemberGetter<double, &detail::number_from> get_number{};
inline constexpr detail::MemberFinder<double, &detail::number_from> find_number{};

/// A JSON number, or a string that holds a finite one, such as "1e-5".
inline constexpr detail::MemberGetter<double, &detail::number_or_numeric_string_from>
    get_number_or_numeric_string{};
inline constexpr detail::MemberFinder<double, &detail::number_or_numeric_string_from>
    find_number_or_numeric_string{};

/// true or false.
inline constexpr detail::MemberGetter<bool, &detail::bool_from> get_bool{};
inline constexpr detail::MemberFinder<bool, &detail::bool_from> find_bool{};

/// A string.
inline constexpr detail::MemberGetter<std::string, &detail::string_from> get_string{};
inline constexpr detail::MemberFinder<std::string, &detail::string_from> find_string{};

/// An object, without a fallback.
inline constexpr detail::MemberGetter<Json const&, &detail::object_from> get_object{};
inline constexpr detail::MemberFinder<Json const&, &detail::object_from> find_object{};

/// An array, without a fallback.
inline constexpr detail::MemberGetter<Json const&, &detail::array_from> get_array{};
inline constexpr detail::MemberFinder<Json const&, &detail::array_from> find_array{};

JET_NAMESPACE_END
