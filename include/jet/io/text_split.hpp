/// \file
/// What happens to text before byte-pair merging: Unicode normal form C (utf8proc) and cutting into words with the
/// regular expressions of known tokenizers (PCRE2, compiled so that classes mean what they mean to Oniguruma, which
/// Hugging Face `tokenizers` uses).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#if !defined(PCRE2_CODE_UNIT_WIDTH)
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>
#include <utf8proc.h>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/text/utf8.hpp>

JET_NAMESPACE_BEGIN

namespace detail {

/// Unicode normal form C of valid UTF-8. Near-linear time for every text: utf8proc's own reordering is quadratic in
/// the length of a run of combining marks, so the run is sorted here.
inline std::string normalize_nfc(std::string_view text) {
  std::vector<utf8proc_int32_t> buffer;
  bool changes = false;
  for (std::size_t at = 0; at < text.size() && !changes;) {
    Utf8Step const step = utf8_step(text, at);
    changes = step.code_point >= 0x300;  // below U+0300 nothing combines and nothing decomposes for good
    at += step.length;
  }
  if (!changes) {
    return std::string(text);
  }
  auto const combining_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  buffer.reserve(text.size());
  std::size_t run = 0;  // start of the combining marks at the end of the buffer
  auto const sort_run = [&] {
    std::stable_sort(buffer.begin() + static_cast<std::ptrdiff_t>(run), buffer.end(),
                     [&](auto a, auto b) { return combining_class(a) < combining_class(b); });
  };
  constexpr auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  for (std::size_t at = 0; at < text.size();) {
    Utf8Step const step = utf8_step(text, at);
    at += step.length;
    std::array<utf8proc_int32_t, 32> parts;
    int last_boundary = 0;
    utf8proc_ssize_t const count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point), parts.data(),
                                static_cast<utf8proc_ssize_t>(parts.size()), options, &last_boundary);
    JET_CHECK(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()),
              "utf8proc could not decompose code point ", step.code_point);
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      if (combining_class(parts[i]) == 0) {
        sort_run();
        buffer.push_back(parts[i]);
        run = buffer.size();
      } else {
        buffer.push_back(parts[i]);
      }
    }
  }
  sort_run();
  utf8proc_ssize_t const length =
      utf8proc_normalize_utf32(buffer.data(), static_cast<utf8proc_ssize_t>(buffer.size()), options);
  JET_CHECK(length >= 0, "utf8proc could not compose the text");
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < static_cast<std::size_t>(length); ++i) {
    utf8_append(out, static_cast<std::uint32_t>(buffer[i]));
  }
  return out;
}

/// The expressions that are accepted in a tokenizer.json, spelled as they stand there.
namespace split_patterns {
inline constexpr std::string_view gpt2 =
    R"re('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)re";
inline constexpr std::string_view qwen2 =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
/// Also the form of cl100k that conversions to tokenizer.json carry.
inline constexpr std::string_view llama3 =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
inline constexpr std::array<std::string_view, 3> known{gpt2, qwen2, llama3};
/// The Digits pre-tokenizer: each digit alone, or runs of digits.
inline constexpr std::string_view digit = R"re(\p{N})re";
inline constexpr std::string_view digits = R"re(\p{N}+)re";
}  // namespace split_patterns

/// White_Space of Unicode. PCRE2's own \s also takes U+180E, which left White_Space with Unicode 6.3.
inline constexpr std::string_view class_space =
    R"re(\t-\r\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})re";
/// Letters and numbers. The ranges are those assigned in Unicode 15.0 to 16.0 (Oniguruma 6.9.10 knows them), so
/// that an older PCRE2 gives the same words.
inline constexpr std::string_view class_letter =
    R"re(\p{L}\x{1C89}\x{1C8A}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}\x{105C0}-\x{105F3}\x{10D4A}-\x{10D65})re"
    R"re(\x{10D6F}-\x{10D85}\x{10EC2}-\x{10EC4}\x{1123F}\x{11240}\x{11380}-\x{11389}\x{1138B}\x{1138E})re"
    R"re(\x{11390}-\x{113B5}\x{113B7}\x{113D1}\x{113D3}\x{11BC0}-\x{11BE0}\x{11F02}\x{11F04}-\x{11F10})re"
    R"re(\x{11F12}-\x{11F33}\x{1342F}\x{13441}-\x{13446}\x{13460}-\x{143FA}\x{16100}-\x{1611D})re"
    R"re(\x{16D40}-\x{16D6C}\x{18CFF}\x{1B132}\x{1B155}\x{1DF25}-\x{1DF2A}\x{1E030}-\x{1E06D})re"
    R"re(\x{1E4D0}-\x{1E4EB}\x{1E5D0}-\x{1E5ED}\x{1E5F0}\x{2B739}\x{2EBF0}-\x{2EE5D}\x{31350}-\x{323AF})re";
inline constexpr std::string_view class_number =
    R"re(\p{N}\x{10D40}-\x{10D49}\x{116D0}-\x{116E3}\x{11BF0}-\x{11BF9}\x{11F50}-\x{11F59}\x{16130}-\x{16139})re"
    R"re(\x{16D70}-\x{16D79}\x{1CCF0}-\x{1CCF9}\x{1D2C0}-\x{1D2D3}\x{1E4F0}-\x{1E4F9}\x{1E5F1}-\x{1E5FA})re";

/// A known expression with its classes written out for PCRE2.
inline std::string spell_for_pcre2(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  auto const replace = [&](std::string_view from, std::string_view to, bool negated) {
    if (!pattern.starts_with(from)) {
      return false;
    }
    if (in_class) {
      out += to;
    } else {
      out += negated ? "[^" : "[";
      out += to;
      out += ']';
    }
    pattern.remove_prefix(from.size());
    return true;
  };
  while (!pattern.empty()) {
    if (replace("\\s", class_space, false) || (!in_class && replace("\\S", class_space, true)) ||
        replace("\\p{L}", class_letter, false) || replace("\\p{N}", class_number, false)) {
      continue;
    }
    in_class = pattern.front() == '[' || (in_class && pattern.front() != ']');
    out += pattern.front();
    pattern.remove_prefix(1);
  }
  return out;
}

/// A compiled expression. Immutable and shared: copies and threads may use it at once.
class SplitRegex {
 public:
  /// `pattern`: one of split_patterns.
  explicit SplitRegex(std::string_view pattern) {
    std::string const spelled = spell_for_pcre2(pattern);
    int error = 0;
    PCRE2_SIZE at = 0;
    code_ = {pcre2_compile(reinterpret_cast<PCRE2_SPTR>(spelled.data()), spelled.size(), PCRE2_UTF | PCRE2_UCP,
                           &error, &at, nullptr),
             [](pcre2_code* code) { pcre2_code_free(code); }};
    if (code_ == nullptr) {
      fail("PCRE2 could not compile the expression ", spelled, ": ", describe(error),
           " (was PCRE2 built without Unicode?)");
    }
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // only speed: without it matching is interpreted
    context_ = {pcre2_match_context_create(nullptr), [](pcre2_match_context* c) { pcre2_match_context_free(c); }};
    if (context_ == nullptr) {
      throw std::bad_alloc();
    }
    // The default limit of ten million steps would refuse long runs of white space, and the time is linear anyway.
    pcre2_set_match_limit(context_.get(), UINT32_MAX);
  }

  /// Appends the matches and what lies between them, in order; no piece is empty. Requires valid UTF-8.
  void split(std::string_view text, std::vector<std::string_view>& out) const {
    std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> const match(
        pcre2_match_data_create(1, nullptr), [](pcre2_match_data* m) { pcre2_match_data_free(m); });
    if (match == nullptr) {
      throw std::bad_alloc();
    }
    PCRE2_SIZE const* const range = pcre2_get_ovector_pointer(match.get());
    for (std::size_t at = 0; at < text.size();) {
      // Without NO_UTF_CHECK every call would validate the whole text again.
      int const found = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                    PCRE2_NO_UTF_CHECK, match.get(), context_.get());
      if (found == PCRE2_ERROR_NOMATCH) {
        out.push_back(text.substr(at));
        return;
      }
      JET_CHECK(found >= 0, "PCRE2 failed on the text at byte ", at, ": ", describe(found));
      if (range[0] > at) {
        out.push_back(text.substr(at, range[0] - at));
      }
      out.push_back(text.substr(range[0], range[1] - range[0]));
      at = range[1];
    }
  }

 private:
  static std::string describe(int error) {
    std::array<PCRE2_UCHAR, 256> text{};
    pcre2_get_error_message(error, text.data(), text.size());
    return reinterpret_cast<char const*>(text.data());
  }

  std::shared_ptr<pcre2_code> code_;
  std::shared_ptr<pcre2_match_context> context_;
};

}  // namespace detail

JET_NAMESPACE_END
