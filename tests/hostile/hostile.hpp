// Files from someone who means harm: tables of corruptions, each with a twin that must be read.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "count_allocations.hpp"
#include "file_support.hpp"
#include "justified.hpp"

namespace hostile {

using Change = std::function<std::string(std::string)>;

// One corruption.
struct Case {
  std::string name;
  Change corrupt;                  // makes the bad file from the good one
  std::vector<std::string> words;  // what the error says, besides the file's name
  Change twin{};                   // makes the closest file that is legal; none: the good one as it is
};

// ---- changes

inline Change becomes(std::string text) {
  return [text = std::move(text)](std::string const&) { return text; };
}
inline Change replaced(std::string from, std::string to) {
  return [from = std::move(from), to = std::move(to)](std::string text) {
    std::size_t const at = text.find(from);
    REQUIRE_MESSAGE(at != std::string::npos, "the good file does not hold " << from);
    return text.replace(at, from.size(), to);
  };
}
// Negative: from the end.
inline Change cut_at(std::ptrdiff_t length) {
  return [length](std::string text) {
    auto const size = static_cast<std::ptrdiff_t>(text.size());
    return text.substr(0, static_cast<std::size_t>(length < 0 ? size + length : length));
  };
}
inline Change appended(std::string more) {
  return [more = std::move(more)](std::string text) { return text + more; };
}

// ---- safetensors

inline std::uint64_t length_of(std::string const& file) {
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < 8; ++i) {
    length |= std::uint64_t{static_cast<std::uint8_t>(file[i])} << (8 * i);
  }
  return length;
}
// Another length field, made from the true one.
inline Change length_field(std::function<std::uint64_t(std::uint64_t)> const& change) {
  return [change](std::string const& file) { return tests::with_length(change(length_of(file)), file.substr(8)); };
}
// A change of the header's text, with a length field that fits.
inline Change header(Change const& change) {
  return [change](std::string const& file) {
    std::uint64_t const length = length_of(file);
    std::string const text = change(file.substr(8, length));
    return tests::with_length(text.size(), text + file.substr(8 + length));
  };
}

// ---- the check

// Errors show nothing raw of a file: what they cite is escaped.
inline bool is_printable(std::string_view message) {
  return std::all_of(message.begin(), message.end(), [](char c) { return (c >= 0x20 && c < 0x7f) || c == '\n'; });
}

// Puts the twin and then the corrupted file at `path`, in a directory that holds all else, and loads both. `load`
// throws jet::Error. The error must name `named` (by default the file), and nothing may have been allocated or
// written that the file does not justify.
inline void check(std::filesystem::path const& path, std::string const& good, std::vector<Case> const& cases,
                  std::function<void()> const& load, std::string const& named = "") {
  tests::write_file(path, good);
  REQUIRE(tests::message_of(load) == "");
  std::set<std::string> const names = tests::names_in(path.parent_path());
  for (Case const& c : cases) {
    CAPTURE(c.name);
    tests::write_file(path, c.twin ? c.twin(good) : good);
    CHECK(tests::message_of(load) == "");

    std::string const bad = c.corrupt(good);
    tests::write_file(path, bad);
    tests::largest_allocation = 0;
    std::string const message = tests::message_of(load);
    std::size_t const largest = tests::largest_allocation;
    CHECK(tests::contains(message, "jet: "));
    CHECK(tests::contains(message, named.empty() ? path.string() : named));
    for (std::string const& words : c.words) {
      CHECK(tests::contains(message, words));
    }
    CHECK(is_printable(message));
    CHECK(message.size() < 4000);
    CHECK(largest <= justified(bad.size()));
    CHECK(tests::read_file(path) == bad);
    CHECK(tests::names_in(path.parent_path()) == names);
  }
}

}  // namespace hostile
