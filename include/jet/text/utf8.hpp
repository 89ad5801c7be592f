/// \file
/// UTF-8: decoding with the maximal-subpart rule (Unicode 15, section 3.9, table 3-8), and an incremental reader
/// that replaces invalid bytes by U+FFFD. Both give what Rust's `from_utf8_lossy` and Python's `errors="replace"`
/// give.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

/// One step of reading UTF-8.
struct Utf8Step {
  enum class Kind : std::uint8_t {
    valid,       ///< `code_point` in `length` bytes
    invalid,     ///< `length` bytes (at least one) that no continuation makes valid; one U+FFFD stands for them
    incomplete,  ///< the text ends after `length` bytes of a sequence that may still become valid
  };
  Kind kind = Kind::valid;
  std::uint32_t code_point = 0xfffd;
  std::size_t length = 0;
};

/// Reads the code point at `at`; requires at < text.size().
inline Utf8Step utf8_step(std::string_view text, std::size_t at) {
  using Kind = Utf8Step::Kind;
  auto const byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  std::uint8_t const lead = byte(at);
  if (lead < 0x80) {
    return {Kind::valid, lead, 1};
  }
  if (lead < 0xc2 || lead > 0xf4) {
    return {Kind::invalid, 0xfffd, 1};
  }
  std::size_t const length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  std::uint32_t code_point = lead & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if (at + i == text.size()) {
      return {Kind::incomplete, 0xfffd, i};
    }
    // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
    std::uint8_t low = 0x80;
    std::uint8_t high = 0xbf;
    if (i == 1) {
      low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : low;
      high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : high;
    }
    std::uint8_t const next = byte(at + i);
    if (next < low || next > high) {
      return {Kind::invalid, 0xfffd, i};
    }
    code_point = (code_point << 6) | (next & 0x3fu);
  }
  return {Kind::valid, code_point, length};
}

/// Byte offset of the first sequence that is not valid UTF-8, or npos.
inline std::size_t utf8_find_invalid(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    Utf8Step const step = utf8_step(text, at);
    if (step.kind != Utf8Step::Kind::valid) {
      return at;
    }
    at += step.length;
  }
  return std::string_view::npos;
}

/// Start of the code point that ends at `end`; requires valid text and 0 < end <= text.size().
inline std::size_t utf8_previous(std::string_view text, std::size_t end) {
  do {
    --end;
  } while (end > 0 && (static_cast<std::uint8_t>(text[end]) & 0xc0u) == 0x80u);
  return end;
}

/// Appends a code point; what is not a Unicode scalar value is appended as U+FFFD.
inline void utf8_append(std::string& text, std::uint32_t code_point) {
  if (code_point > 0x10ffff || (code_point >= 0xd800 && code_point < 0xe000)) {
    code_point = 0xfffd;
  }
  auto const put = [&](std::uint32_t byte) { text += static_cast<char>(static_cast<std::uint8_t>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xc0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3f));
  } else if (code_point < 0x10000) {
    put(0xe0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3f));
    put(0x80 | (code_point & 0x3f));
  } else {
    put(0xf0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3f));
    put(0x80 | ((code_point >> 6) & 0x3f));
    put(0x80 | (code_point & 0x3f));
  }
}

/// Turns bytes that arrive in pieces into valid UTF-8: `push` returns what is complete, a sequence that is cut off
/// waits for its rest (at most three bytes), and `flush` ends the text. The joined results are the same for every
/// way of cutting the bytes.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes) {
    pending_ += bytes;
    std::string out;
    std::size_t at = 0;
    while (at < pending_.size()) {
      Utf8Step const step = utf8_step(pending_, at);
      if (step.kind == Utf8Step::Kind::incomplete) {
        break;
      }
      if (step.kind == Utf8Step::Kind::valid) {
        out.append(pending_, at, step.length);
      } else {
        utf8_append(out, 0xfffd);
      }
      at += step.length;
    }
    pending_.erase(0, at);
    return out;
  }
  /// Ends the text: a sequence that was cut off becomes one U+FFFD. The stream can be used again.
  std::string flush() {
    std::string out;
    if (!pending_.empty()) {
      utf8_append(out, 0xfffd);
      pending_.clear();
    }
    return out;
  }

 private:
  std::string pending_;
};

/// Bytes with every invalid sequence replaced by U+FFFD.
inline std::string utf8_lossy(std::string_view bytes) {
  Utf8Stream stream;
  std::string out = stream.push(bytes);
  out += stream.flush();
  return out;
}

JET_NAMESPACE_END
