// What tests of files share: scratch directories, whole files as strings, messages of errors.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>

#include <jet/core/error.hpp>

namespace tests {

// The message of the jet::Error that a call throws; empty if it throws none.
template <class F> std::string message_of(F&& call) {
  try {
    call();
  } catch (jet::Error const& error) {
    return error.what();
  }
  return "";
}

// Whether `text` holds `part`; says so if not.
inline bool contains(std::string_view text, std::string_view part) {
  bool const found = text.find(part) != text.npos;
  if (!found) {
    MESSAGE("expected \"" << std::string(part) << "\" in \"" << std::string(text) << "\"");
  }
  return found;
}

inline std::string read_file(std::filesystem::path const& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}
inline void write_file(std::filesystem::path const& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

// A safetensors file by hand: the length field for `length`, then the text.
inline std::string with_length(std::uint64_t length, std::string const& rest) {
  std::string file;
  for (int i = 0; i < 8; ++i) {
    file += static_cast<char>((length >> (8 * i)) & 0xff);
  }
  return file + rest;
}
// A safetensors file of a header and `data_bytes` bytes 0, 1, 2, ...
inline std::string file_of(std::string const& header, std::size_t data_bytes) {
  std::string data(data_bytes, '\0');
  for (std::size_t i = 0; i < data_bytes; ++i) {
    data[i] = static_cast<char>(i);
  }
  return with_length(header.size(), header + data);
}

inline std::set<std::string> names_in(std::filesystem::path const& directory) {
  std::set<std::string> names;
  for (auto const& entry : std::filesystem::directory_iterator(directory)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

// A directory that is removed at the end of the test.
struct ScratchDirectory {
  std::filesystem::path path;

  ScratchDirectory() {
    static int count = 0;
    path = std::filesystem::temp_directory_path() /
           ("jet-test-" + std::to_string(::getpid()) + "-" + std::to_string(++count));
    std::filesystem::remove_all(path);
    std::filesystem::create_directory(path);
  }
  ScratchDirectory(ScratchDirectory const&) = delete;
  ScratchDirectory& operator=(ScratchDirectory const&) = delete;
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }

  // Writes a file and returns its path.
  std::filesystem::path write(std::string const& name, std::string_view text) const {
    write_file(path / name, text);
    return path / name;
  }
  std::set<std::string> names() const { return names_in(path); }
};

}  // namespace tests
