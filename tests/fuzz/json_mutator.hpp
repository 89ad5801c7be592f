// Mutations that know JSON: values are replaced by others, numbers changed, members and elements doubled and
// removed, so that many inputs pass the parser and reach the checks behind it. Every other mutation is libFuzzer's
// own.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace fuzz {

class JsonMutator {
 public:
  JsonMutator(std::string_view text, unsigned seed) : text_(text), random_(seed) {}

  std::string run() {
    for (std::size_t n = 1 + below(3); n > 0; --n) {
      find_values();
      if (!values_.empty()) {
        change(values_[below(values_.size())]);
      }
    }
    return text_;
  }

 private:
  struct Value {
    std::size_t begin, end;
  };

  std::size_t below(std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(random_); }
  std::string text_of(Value v) const { return text_.substr(v.begin, v.end - v.begin); }

  static bool is_word(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '+' ||
           c == '.';
  }
  // Strings, keys too, words, and whatever stands between brackets that match.
  void find_values() {
    values_.clear();
    std::vector<std::size_t> open;
    for (std::size_t at = 0; at < text_.size();) {
      std::size_t const begin = at;
      char const c = text_[at++];
      if (c == '"') {
        while (at < text_.size() && text_[at] != '"') {
          at += text_[at] == '\\' ? 2 : 1;
        }
        at = std::min(at + 1, text_.size());
        values_.push_back({begin, at});
      } else if (is_word(c)) {
        while (at < text_.size() && is_word(text_[at])) {
          ++at;
        }
        values_.push_back({begin, at});
      } else if (c == '{' || c == '[') {
        open.push_back(begin);
      } else if ((c == '}' || c == ']') && !open.empty()) {
        values_.push_back({open.back(), at});
        open.pop_back();
      }
    }
  }
  bool is_key(Value v) const { return text_[v.begin] == '"' && v.end < text_.size() && text_[v.end] == ':'; }
  // Of a key: with the value behind it.
  Value member_of(Value key) const {
    auto const value =
        std::find_if(values_.begin(), values_.end(), [&](Value v) { return v.begin == key.end + 1; });
    return {key.begin, value != values_.end() ? value->end : key.end};
  }

  void change(Value v) {
    switch (below(5)) {
      case 0: replace(v, text_of(values_[below(values_.size())])); break;
      case 1: replace(v, special()); break;
      case 2: replace(v, other_number(text_of(v))); break;
      case 3: twice(v); break;
      default: erase(is_key(v) ? member_of(v) : v);
    }
  }
  void replace(Value v, std::string const& by) { text_.replace(v.begin, v.end - v.begin, by); }
  std::string special() {
    constexpr char const* all[] = {"0",
                                   "-1",
                                   "1",
                                   "2",
                                   "4294967296",
                                   "2147483648",
                                   "9223372036854775807",
                                   "18446744073709551615",
                                   "1e300",
                                   "0.5",
                                   "\"\"",
                                   "null",
                                   "true",
                                   "false",
                                   "[]",
                                   "{}",
                                   "\"\\u001b\"",
                                   "\"\xc3\xa9\"",
                                   "[0,0]",
                                   "\"0\""};
    return all[below(std::size(all))];
  }
  std::string other_number(std::string const& text) {
    std::int64_t n = 0;
    std::from_chars(text.data(), text.data() + text.size(), n);
    auto const u = static_cast<std::uint64_t>(n);
    std::uint64_t const changed[] = {u + 1, u - 1, 2 * u, u / 2, u + below(64)};
    return std::to_string(static_cast<std::int64_t>(changed[below(std::size(changed))]));
  }
  void twice(Value v) {
    if (!is_key(v)) {
      text_.insert(v.end, "," + text_of(v));
      return;
    }
    std::string member = text_of(member_of(v));
    member.insert(1, 1, static_cast<char>('a' + below(26)));  // else it would be a duplicate
    text_.insert(v.begin, member + ",");
  }
  void erase(Value v) {
    if (v.end < text_.size() && text_[v.end] == ',') {
      ++v.end;
    } else if (v.begin > 0 && text_[v.begin - 1] == ',') {
      --v.begin;
    }
    text_.erase(v.begin, v.end - v.begin);
  }

  std::string text_;
  std::minstd_rand random_;
  std::vector<Value> values_;
};

// For LLVMFuzzerCustomMutator. `has_length`: the text is behind a length field of eight bytes, which is kept right
// most of the time, and other bytes are behind the text.
inline std::size_t mutate_json(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed,
                               bool has_length) {
  std::size_t const first = has_length ? std::min<std::size_t>(size, 8) : 0;
  std::uint64_t length = has_length ? 0 : size;
  for (std::size_t i = 0; i < first; ++i) {
    length |= std::uint64_t{data[i]} << (8 * i);
  }
  std::size_t const rest = length <= size - first ? size - first - static_cast<std::size_t>(length) : 0;
  std::size_t changed = 0;
  if (seed % 2 == 0) {
    std::string const text =
        JsonMutator({reinterpret_cast<char const*>(data) + first, size - first - rest}, seed / 2).run();
    changed = first + text.size() + rest;
    if (changed <= max_size) {
      std::memmove(data + first + text.size(), data + size - rest, rest);
      std::memcpy(data + first, text.data(), text.size());
    }
  }
  if (changed == 0 || changed > max_size) {
    changed = LLVMFuzzerMutate(data, size, max_size);
  }
  if (has_length && seed % 16 != 1 && changed >= 8 + rest) {
    length = changed - 8 - rest;
    for (std::size_t i = 0; i < 8; ++i) {
      data[i] = static_cast<std::uint8_t>(length >> (8 * i));
    }
  }
  return changed;
}

}  // namespace fuzz
