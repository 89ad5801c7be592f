/// \file
/// Byte-level byte-pair encoding: the printable alphabet of GPT-2 and the merging of one word.
/// Sources: Sennrich et al. 2016 (arXiv:1508.07909); Radford et al. 2019, section 2.2.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <queue>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/text/utf8.hpp>

JET_NAMESPACE_BEGIN

namespace detail {

/// The code point that stands for a byte in vocabulary files: printable Latin-1 stands for itself, the other 68
/// bytes are U+0100, U+0101, ... in order.
constexpr std::array<std::uint32_t, 256> make_byte_alphabet() {
  std::array<std::uint32_t, 256> alphabet{};
  std::uint32_t next = 256;
  for (std::uint32_t b = 0; b < 256; ++b) {
    bool const printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 255 && b != 173);
    alphabet[b] = printable ? b : next++;
  }
  return alphabet;
}
inline constexpr std::array<std::uint32_t, 256> byte_alphabet = make_byte_alphabet();

/// Inverse of byte_alphabet for code points below 324, -1 elsewhere.
constexpr std::array<std::int16_t, 324> make_alphabet_bytes() {
  std::array<std::int16_t, 324> bytes{};
  for (auto& b : bytes) {
    b = -1;
  }
  for (std::size_t b = 0; b < 256; ++b) {
    bytes[byte_alphabet[b]] = static_cast<std::int16_t>(b);
  }
  return bytes;
}
inline constexpr std::array<std::int16_t, 324> alphabet_bytes = make_alphabet_bytes();

/// The bytes that a token's text stands for, or nothing when a character is not of the alphabet. Requires valid
/// UTF-8.
inline std::optional<std::string> bytes_of_token(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    Utf8Step const step = utf8_step(text, at);
    if (step.code_point >= alphabet_bytes.size() || alphabet_bytes[step.code_point] < 0) {
      return std::nullopt;
    }
    bytes += static_cast<char>(static_cast<std::uint8_t>(alphabet_bytes[step.code_point]));
    at += step.length;
  }
  return bytes;
}

/// Merges the bytes of a word into tokens: the pair of lowest rank first, the leftmost of equal ones.
/// Cost: O(n^2) simple steps up to `short_word` bytes, O(n log n) above.
class BytePair {
 public:
  static constexpr std::size_t short_word = 48;

  struct Merge {
    std::int32_t left;
    std::int32_t right;
    std::int32_t merged;
  };

  BytePair() = default;
  /// `byte_ids`: the token of each single byte, -1 where there is none. `merges`: in the order of their rank; of a
  /// pair that occurs twice the last counts.
  BytePair(std::array<std::int32_t, 256> const& byte_ids, std::span<Merge const> merges)
      : byte_ids_(byte_ids), table_(std::bit_ceil(2 * merges.size() + 2)) {
    JET_CHECK(merges.size() < (std::size_t{1} << (64 - position_bits)), "a tokenizer with ", merges.size(),
              " merges is too large");
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
      Merge const& m = merges[rank];
      Entry& entry = table_[place(key(m.left, m.right))];
      entry = {key(m.left, m.right), static_cast<std::int32_t>(rank), m.merged};
    }
  }

  /// Appends the tokens of a non-empty word.
  void encode(std::string_view word, std::vector<std::int32_t>& out) const {
    if (word.size() <= short_word) {
      encode_short(word, out);
    } else {
      encode_long(word, out);
    }
  }

 private:
  static constexpr std::uint64_t no_key = ~std::uint64_t{0};
  static constexpr std::int32_t no_rank = std::numeric_limits<std::int32_t>::max();

  struct Entry {
    std::uint64_t key = no_key;
    std::int32_t rank = no_rank;
    std::int32_t merged = -1;
  };
  static constexpr int position_bits = 40;

  struct Symbol {
    std::int32_t id;
    i64 previous;
    i64 next;
    Entry const* pair;  ///< the merge with the next symbol, or null
  };

  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) | static_cast<std::uint32_t>(right);
  }
  std::size_t place(std::uint64_t wanted) const {
    std::size_t const mask = table_.size() - 1;
    std::uint64_t mixed = wanted * 0x9e3779b97f4a7c15u;
    std::size_t i = static_cast<std::size_t>(mixed ^ (mixed >> 32)) & mask;
    while (table_[i].key != wanted && table_[i].key != no_key) {
      i = (i + 1) & mask;
    }
    return i;
  }
  Entry const& find(std::int32_t left, std::int32_t right) const { return table_[place(key(left, right))]; }

  std::int32_t id_of_byte(char c) const {
    auto const byte = static_cast<std::uint8_t>(c);
    std::int32_t const id = byte_ids_[byte];
    JET_CHECK(id >= 0, "the text holds byte ", static_cast<int>(byte),
              ", for which the tokenizer's vocabulary has no token");
    return id;
  }

  void encode_short(std::string_view word, std::vector<std::int32_t>& out) const {
    std::array<std::int32_t, short_word> id;
    std::array<Entry const*, short_word> pair;  // pair[i]: the merge of id[i] and id[i + 1]
    std::size_t n = word.size();
    for (std::size_t i = 0; i < n; ++i) {
      id[i] = id_of_byte(word[i]);
    }
    for (std::size_t i = 0; i + 1 < n; ++i) {
      pair[i] = &find(id[i], id[i + 1]);
    }
    while (n > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < n; ++i) {
        if (pair[i]->rank < pair[best]->rank) {
          best = i;
        }
      }
      if (pair[best]->rank == no_rank) {
        break;
      }
      id[best] = pair[best]->merged;
      --n;
      for (std::size_t i = best + 1; i < n; ++i) {
        id[i] = id[i + 1];
        pair[i - 1] = pair[i];
      }
      if (best > 0) {
        pair[best - 1] = &find(id[best - 1], id[best]);
      }
      if (best + 1 < n) {
        pair[best] = &find(id[best], id[best + 1]);
      }
    }
    out.insert(out.end(), id.begin(), id.begin() + static_cast<std::ptrdiff_t>(n));
  }

  void encode_long(std::string_view word, std::vector<std::int32_t>& out) const {
    auto const n = static_cast<i64>(word.size());
    JET_CHECK(n <= (i64{1} << position_bits), "a word of ", n, " bytes is too long to encode");
    std::vector<Symbol> symbols(word.size());
    auto const symbol = [&](i64 at) -> Symbol& { return symbols[static_cast<std::size_t>(at)]; };
    std::vector<std::uint64_t> found;
    found.reserve(word.size());
    // Looks up the merge of the symbol at `at` with the next; true if there is one.
    auto const look_up = [&](i64 at) {
      Symbol& left = symbol(at);
      left.pair = left.next < 0 ? nullptr : &find(left.id, symbol(left.next).id);
      if (left.pair != nullptr && left.pair->rank == no_rank) {
        left.pair = nullptr;
      }
      return left.pair != nullptr;
    };
    // Rank first, then position: the order in which merges are done.
    auto const candidate = [&](i64 at) {
      return (static_cast<std::uint64_t>(symbol(at).pair->rank) << position_bits) | static_cast<std::uint64_t>(at);
    };
    for (i64 i = 0; i < n; ++i) {
      symbol(i) = {id_of_byte(word[static_cast<std::size_t>(i)]), i - 1, i + 1 < n ? i + 1 : -1, nullptr};
    }
    for (i64 i = 0; i < n; ++i) {
      if (look_up(i)) {
        found.push_back(candidate(i));
      }
    }
    std::priority_queue<std::uint64_t, std::vector<std::uint64_t>, std::greater<>> queue(std::greater<>{},
                                                                                         std::move(found));
    while (!queue.empty()) {
      std::uint64_t const top = queue.top();
      queue.pop();
      auto const at = static_cast<i64>(top & ((std::uint64_t{1} << position_bits) - 1));
      Symbol& left = symbol(at);
      if (left.pair == nullptr || candidate(at) != top) {
        continue;  // one of the two symbols has changed since
      }
      Symbol& right = symbol(left.next);
      left.id = left.pair->merged;
      left.next = right.next;
      right.pair = nullptr;  // no longer part of the word
      if (left.next >= 0) {
        symbol(left.next).previous = at;
      }
      if (look_up(at)) {
        queue.push(candidate(at));
      }
      if (left.previous >= 0 && look_up(left.previous)) {
        queue.push(candidate(left.previous));
      }
    }
    for (i64 i = 0; i >= 0; i = symbol(i).next) {
      out.push_back(symbol(i).id);
    }
  }

  std::array<std::int32_t, 256> byte_ids_{};
  std::vector<Entry> table_ = std::vector<Entry>(2);
};

}  // namespace detail

JET_NAMESPACE_END
