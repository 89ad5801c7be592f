/// \file
/// Tokens that are found in the text before it is normalised and cut: special tokens and other added ones.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <utf8proc.h>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/text/utf8.hpp>

JET_NAMESPACE_BEGIN

namespace detail {

struct AddedToken {
  std::string content;
  std::int32_t id = -1;
  bool special = false;
  bool lstrip = false;       ///< takes the white space before it
  bool rstrip = false;       ///< takes the white space after it
  bool single_word = false;  ///< counts only between characters that are not of a word
  bool normalized = false;   ///< is looked for in the normalised text
};

/// White_Space of Unicode.
constexpr bool is_space(std::uint32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/// \w of Unicode Technical Standard 18, annex C: alphabetic, marks, decimal digits, connectors, joiners.
inline bool is_word(std::uint32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: break;
  }
  return c == 0x200c || c == 0x200d ||  // joiners; below: letters in circles and squares
         (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
         (c >= 0x1f170 && c <= 0x1f189);
}

/// A part of a text: ordinary text, or one added token.
struct TextPart {
  std::string_view text;
  std::int32_t id = -1;  ///< -1: ordinary text
};

/// Finds added tokens: the leftmost first, the longest of those that begin at one place.
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  /// `tokens`: non-empty contents, no two the same.
  explicit AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
    std::sort(tokens_.begin(), tokens_.end(),
              [](AddedToken const& a, AddedToken const& b) { return a.content < b.content; });
    for (AddedToken const& token : tokens_) {
      begins_[static_cast<std::uint8_t>(token.content[0])] = true;
    }
  }

  /// Appends the parts of `text`. `special_as_text`: tokens that are marked special are ordinary text.
  void split(std::string_view text, bool special_as_text, std::vector<TextPart>& out) const {
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
      AddedToken const* const token = longest_at(text, at);
      if (token == nullptr) {
        ++at;
        continue;
      }
      std::size_t begin = at;
      std::size_t end = at + token->content.size();
      at = end;
      if ((special_as_text && token->special) || (token->single_word && !stands_alone(text, begin, end))) {
        continue;
      }
      if (token->lstrip) {
        // Space that the token before has taken stays with that token.
        while (begin > done && is_space(utf8_step(text, utf8_previous(text, begin)).code_point)) {
          begin = utf8_previous(text, begin);
        }
      }
      if (token->rstrip) {
        while (end < text.size() && is_space(utf8_step(text, end).code_point)) {
          end += utf8_step(text, end).length;
        }
      }
      if (begin > done) {
        out.push_back({text.substr(done, begin - done), -1});
      }
      out.push_back({text.substr(begin, end - begin), token->id});
      done = end;
    }
    if (done < text.size()) {
      out.push_back({text.substr(done), -1});
    }
  }

 private:
  AddedToken const* longest_at(std::string_view text, std::size_t at) const {
    if (!begins_[static_cast<std::uint8_t>(text[at])]) {
      return nullptr;
    }
    // The tokens that agree with the text in `depth` bytes are a range of the sorted list, a token of exactly that
    // length its first.
    AddedToken const* found = nullptr;
    auto first = tokens_.begin();
    auto last = tokens_.end();
    for (std::size_t depth = 0; first != last && at + depth < text.size(); ++depth) {
      auto const wanted = static_cast<std::uint8_t>(text[at + depth]);
      auto const byte = [depth](AddedToken const& token) {
        return token.content.size() > depth ? static_cast<int>(static_cast<std::uint8_t>(token.content[depth]))
                                            : -1;
      };
      first = std::partition_point(first, last, [&](AddedToken const& t) { return byte(t) < wanted; });
      last = std::partition_point(first, last, [&](AddedToken const& t) { return byte(t) <= wanted; });
      if (first != last && first->content.size() == depth + 1) {
        found = &*first;
      }
    }
    return found;
  }

  static bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
    bool const before = begin > 0 && is_word(utf8_step(text, utf8_previous(text, begin)).code_point);
    bool const after = end < text.size() && is_word(utf8_step(text, end).code_point);
    return !before && !after;
  }

  std::vector<AddedToken> tokens_;
  std::array<bool, 256> begins_{};
};

}  // namespace detail

JET_NAMESPACE_END
