/// \file
/// A progress line on the standard error stream.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

#if defined(_WIN32)
#include <io.h>
#else
#include <unistd.h>
#endif

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

namespace detail {

/// 1234567 → "1.23 M": three significant digits with the SI prefix k, M, G or T.
inline std::string si_number(double value) {
  char const* prefix[] = {"", "k", "M", "G", "T"};
  int i = 0;
  while (i < 4 && value >= 999.5) {
    value /= 1000;
    ++i;
  }
  char text[32];
  int const decimals = value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  std::snprintf(text, sizeof text, "%.*f%s%s", decimals, value, i > 0 ? " " : "", prefix[i]);
  return text;
}

/// Seconds as "12s", "3m05s" or "2h07m".
inline std::string duration(double seconds) {
  auto const whole = static_cast<std::int64_t>(std::clamp(seconds, 0.0, 3.6e9) + 0.5);
  char text[32];
  if (whole < 60) {
    std::snprintf(text, sizeof text, "%ds", static_cast<int>(whole));
  } else if (whole < 3600) {
    std::snprintf(text, sizeof text, "%dm%02ds", static_cast<int>(whole / 60), static_cast<int>(whole % 60));
  } else {
    std::snprintf(text, sizeof text, "%dh%02dm", static_cast<int>(whole / 3600),
                  static_cast<int>(whole % 3600 / 60));
  }
  return text;
}

/// "label 42% 420/1000 [=====>    ] 1.23 k tok/s 12s left". Without a total (0) there is no share, bar or time
/// left.
inline std::string progress_line(std::string_view label, std::string_view unit, i64 done, i64 total, double seconds,
                                 bool bar) {
  std::string line(label);
  double const rate = seconds > 0 ? static_cast<double>(done) / seconds : 0.0;
  if (total > 0) {
    double const share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
    line += concat(line.empty() ? "" : " ", static_cast<int>(share * 100), "% ", done, "/", total);
    if (bar) {
      constexpr int width = 24;
      int const filled = static_cast<int>(share * width);
      line += concat(" [", std::string(static_cast<std::size_t>(filled), '='), filled < width ? ">" : "",
                     std::string(static_cast<std::size_t>(std::max(0, width - filled - 1)), ' '), "]");
    }
  } else {
    line += concat(line.empty() ? "" : " ", done);
  }
  if (seconds > 0) {
    line += concat(" ", si_number(rate), rate >= 999.5 ? "" : " ", unit, "/s");
    if (total > 0 && done < total && rate > 0) {
      line += concat(" ", duration(static_cast<double>(total - done) / rate), " left");
    } else {
      line += concat(" in ", duration(seconds));
    }
  }
  return line;
}

}  // namespace detail

/// On a terminal one line that is redrawn at most ten times a second; otherwise a plain line per tenth of the total
/// (none before the end if the total is unknown). Disabled, it prints nothing. Not for several threads at once.
class ProgressBar {
 public:
  /// `total` in units; 0: unknown. `unit` is what the rate counts, as in "tok".
  explicit ProgressBar(std::string label, i64 total = 0, std::string unit = "", bool enabled = true)
      : label_(std::move(label)), unit_(std::move(unit)), total_(total), enabled_(enabled) {
    JET_CHECK(total >= 0, "progress bar '", label_, "': total must be at least 0, found ", total);
    terminal_ = enabled_ && is_terminal();
  }
  ProgressBar(ProgressBar const&) = delete;
  ProgressBar& operator=(ProgressBar const&) = delete;
  /// Without finish() (an exception is under way, say) the line is cleared.
  ~ProgressBar() { clear(); }

  void advance(i64 units = 1) { set(done_ + units); }
  /// `done` units are finished by now.
  void set(i64 done) {
    done_ = done;
    if (!enabled_ || finished_) {
      return;
    }
    if (terminal_) {
      auto const now = Clock::now();
      if (!drawn_ || now - last_ >= std::chrono::milliseconds(100)) {
        last_ = now;
        draw();
      }
    } else if (total_ > 0) {
      int const tenth = static_cast<int>(10.0 * static_cast<double>(done_) / static_cast<double>(total_));
      if (tenth > tenth_ && done_ < total_) {  // the whole is finish()'s line
        tenth_ = tenth;
        std::fprintf(stderr, "%s\n", line(false).c_str());
      }
    }
  }
  /// Completes the line. Later calls print nothing.
  void finish() {
    if (enabled_ && !finished_) {
      std::fprintf(stderr, terminal_ ? "\r\x1b[K%s\n" : "%s\n", line(false).c_str());
      std::fflush(stderr);
    }
    finished_ = true;
  }
  /// Takes the line off the terminal. Later calls print nothing.
  void clear() {
    if (terminal_ && drawn_ && !finished_) {
      std::fprintf(stderr, "\r\x1b[K");
      std::fflush(stderr);
    }
    finished_ = true;
  }
  i64 done() const { return done_; }

 private:
  using Clock = std::chrono::steady_clock;

  static bool is_terminal() {
#if defined(_WIN32)
    return _isatty(_fileno(stderr)) != 0;
#else
    return ::isatty(::fileno(stderr)) != 0;
#endif
  }
  std::string line(bool bar) const {
    double const seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    return detail::progress_line(label_, unit_, done_, total_, seconds, bar);
  }
  void draw() {
    drawn_ = true;
    std::fprintf(stderr, "\r%s\x1b[K", line(true).c_str());
    std::fflush(stderr);
  }

  std::string label_;
  std::string unit_;
  i64 total_ = 0;
  i64 done_ = 0;
  bool enabled_ = true;
  bool terminal_ = false;
  bool drawn_ = false;
  bool finished_ = false;
  int tenth_ = 0;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_{};
};

JET_NAMESPACE_END
