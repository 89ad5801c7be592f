/// \file
/// When to end a text: stop token ids, and stop strings found in text that arrives piece by piece.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

enum class StopReason : std::uint8_t { none, token, string };

/// Matches over the bytes of one streamed text. What is emitted and where it ends does not depend on how the text
/// was cut into pieces: the stop string that is complete first wins, and of those complete at the same byte the
/// longest. Text is bytes: whole UTF-8 characters are the caller's matter (a stop string may end inside a piece,
/// but never inside a character unless it does so itself).
class StopMatcher {
 public:
  StopMatcher() = default;
  /// Throws jet::Error for an empty stop string.
  StopMatcher(std::vector<std::int32_t> ids, std::vector<std::string> strings) : ids_(std::move(ids)) {
    patterns_.reserve(strings.size());
    for (std::size_t i = 0; i < strings.size(); ++i) {
      JET_CHECK(!strings[i].empty(), "stop string ", i, " is empty: it would end every text before its first byte");
      patterns_.push_back(Pattern(std::move(strings[i])));
    }
  }

  /// Takes the text of one more token and returns what is safe to emit. The longest suffix that may still become a
  /// stop string is held back. On a match the text before the stop string is returned, the rest is dropped, and
  /// every later call returns an empty string.
  std::string push(std::string_view piece) {
    if (stopped()) {
      return {};
    }
    std::size_t held = held_;
    for (std::size_t i = 0; i < piece.size(); ++i) {
      held = 0;
      std::size_t matched = 0;
      for (auto& pattern : patterns_) {
        pattern.advance(piece[i]);
        held = std::max(held, pattern.length);
        if (pattern.length == pattern.text.size()) {
          matched = std::max(matched, pattern.length);
        }
      }
      if (matched > 0) {
        reason_ = StopReason::string;
        pending_.append(piece.substr(0, i + 1));
        pending_.resize(pending_.size() - matched);
        held_ = 0;
        return std::exchange(pending_, {});
      }
    }
    pending_.append(piece);
    held_ = held;
    std::string const safe = pending_.substr(0, pending_.size() - held);
    pending_.erase(0, safe.size());
    return safe;
  }

  /// As push(piece), for the token `id`. A stop id ends the text: its own piece is dropped and what was held back
  /// is returned.
  std::string push(std::int32_t id, std::string_view piece) {
    if (!stopped() && is_stop(id)) {
      std::string rest = flush();
      reason_ = StopReason::token;
      return rest;
    }
    return push(piece);
  }

  /// End of the text without a stop: returns what was held back and forgets it.
  std::string flush() {
    for (auto& pattern : patterns_) {
      pattern.length = 0;
    }
    held_ = 0;
    return std::exchange(pending_, {});
  }

  /// Ready for another text with the same stops.
  void reset() {
    flush();
    reason_ = StopReason::none;
  }

  bool is_stop(std::int32_t id) const { return std::find(ids_.begin(), ids_.end(), id) != ids_.end(); }
  bool stopped() const { return reason_ != StopReason::none; }
  StopReason reason() const { return reason_; }

 private:
  /// One stop string and how much of it the text ends with (Knuth, Morris, Pratt 1977).
  struct Pattern {
    std::string text;
    std::vector<std::size_t> border;  // border[n]: longest proper prefix of text[0, n) that is also its suffix
    std::size_t length = 0;           // longest suffix of the text so far that is a prefix of `text`

    explicit Pattern(std::string stop) : text(std::move(stop)), border(text.size() + 1, 0) {
      for (std::size_t n = 1; n < text.size(); ++n) {
        border[n + 1] = extend(border[n], text[n]);
      }
    }
    void advance(char byte) { length = extend(length, byte); }
    std::size_t extend(std::size_t n, char byte) const {  // n < text.size(): a whole match ends the text
      while (n > 0 && text[n] != byte) {
        n = border[n];
      }
      return text[n] == byte ? n + 1 : 0;
    }
  };

  std::vector<std::int32_t> ids_;
  std::vector<Pattern> patterns_;
  std::string pending_;
  std::size_t held_ = 0;
  StopReason reason_ = StopReason::none;
};

JET_NAMESPACE_END
