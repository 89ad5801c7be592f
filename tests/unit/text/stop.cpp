#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <jet/core/rng.hpp>
#include <jet/text/stop.hpp>

using jet::StopMatcher;
using jet::StopReason;

namespace {

/// What a matcher that sees the whole text at once would emit.
std::string reference(std::string_view text, std::vector<std::string> const& stops, bool& stopped) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (auto const& stop : stops) {
      if (text.substr(0, end).ends_with(stop) && stop.size() > longest) {
        longest = stop.size();
      }
    }
    if (longest > 0) {
      stopped = true;
      return std::string(text.substr(0, end - longest));
    }
  }
  stopped = false;
  return std::string(text);
}

/// Length of the longest suffix of `text` that begins a stop string.
std::size_t held(std::string_view text, std::vector<std::string> const& stops) {
  std::size_t longest = 0;
  for (auto const& stop : stops) {
    for (std::size_t n = 1; n < stop.size(); ++n) {
      if (text.ends_with(std::string_view(stop).substr(0, n)) && n > longest) {
        longest = n;
      }
    }
  }
  return longest;
}

}  // namespace

TEST_CASE("stop: text without stops passes through") {
  StopMatcher m;
  CHECK(m.push("hello") == "hello");
  CHECK(m.push("") == "");
  CHECK(m.flush() == "");
  CHECK_FALSE(m.stopped());
}

TEST_CASE("stop: holds back what may become a stop string, and cuts before it") {
  StopMatcher m({}, {"\n\nHuman:"});
  CHECK(m.push("Hi\n") == "Hi");
  CHECK(m.push("there\n") == "\nthere");
  CHECK(m.push("\n") == "");
  CHECK(m.push("\n") == "\n");  // three line ends: the first can no longer be part of it
  CHECK(m.push("Hum") == "");
  CHECK_FALSE(m.stopped());
  CHECK(m.push("an: rest") == "");
  CHECK(m.stopped());
  CHECK(m.reason() == StopReason::string);
  CHECK(m.push("more") == "");
  CHECK(m.flush() == "");
}

TEST_CASE("stop: flush returns what was held, reset begins anew") {
  StopMatcher m({7}, {"END"});
  CHECK(m.push("the EN") == "the ");
  CHECK(m.flush() == "EN");
  CHECK(m.push("D") == "D");  // the matcher has forgotten "EN"
  CHECK(m.push("xENDy") == "x");
  CHECK(m.stopped());
  m.reset();
  CHECK_FALSE(m.stopped());
  CHECK(m.push("again END") == "again ");
}

TEST_CASE("stop: token ids") {
  StopMatcher m({151643, 151645}, {"stop"});
  CHECK(m.is_stop(151645));
  CHECK_FALSE(m.is_stop(0));
  CHECK(m.push(5, "a st") == "a ");
  CHECK(m.push(151645, "<|im_end|>") == "st");  // what was held back is text after all
  CHECK(m.reason() == StopReason::token);
  CHECK(m.push(5, "b") == "");
  CHECK(m.push(151643, "") == "");
}

TEST_CASE("stop: self-overlapping and nested stop strings") {
  bool stopped = false;
  StopMatcher a({}, {"aab"});
  CHECK(a.push("aaab") == "a");
  StopMatcher b({}, {"abcd", "bc"});  // "bc" is complete first
  CHECK(b.push("abcd") == "a");
  StopMatcher c({}, {"bc", "abc"});  // complete at the same byte: the longest
  CHECK(c.push("xabc") == "x");
  StopMatcher d({}, {std::string("\0x", 2)});
  CHECK(d.push(std::string("q\0x", 3)) == "q");
  CHECK(reference("xabc", {"bc", "abc"}, stopped) == "x");
}

TEST_CASE("stop: an empty stop string is refused") {
  CHECK_THROWS_WITH_AS(StopMatcher({}, {"a", ""}),
                       "jet: stop string 1 is empty: it would end every text before its first byte", jet::Error);
}

TEST_CASE("stop: random texts in random pieces") {
  jet::Random const random{.seed = 1};
  std::uint64_t draw = 0;
  auto const below = [&](std::uint64_t n) { return random.uniform_below(draw++, n); };
  auto const text_of = [&](std::size_t n) {
    std::string text;
    for (std::size_t i = 0; i < n; ++i) {
      text += static_cast<char>('a' + below(2));
    }
    return text;
  };
  int matches = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<std::string> stops(1 + below(3));
    for (auto& stop : stops) {
      stop = text_of(1 + below(7));
    }
    std::string const text = text_of(below(30));
    bool expected_stop = false;
    std::string const expected = reference(text, stops, expected_stop);
    StopMatcher m({}, stops);
    std::string emitted;
    std::size_t at = 0;
    while (at < text.size()) {
      std::size_t const n = below(5);
      emitted += m.push(std::string_view(text).substr(at, n));
      at = std::min(text.size(), at + n);
      if (!m.stopped()) {  // no more and no less than necessary is held back
        std::string_view const so_far = std::string_view(text).substr(0, at);
        REQUIRE(emitted == so_far.substr(0, at - held(so_far, stops)));
      }
    }
    emitted += m.flush();
    REQUIRE(emitted == expected);
    REQUIRE(m.stopped() == expected_stop);
    matches += expected_stop ? 1 : 0;
  }
  CHECK(matches > 500);
  CHECK(matches < 1900);
}
