// What the fuzz targets share. A target reads hostile bytes through the library's ordinary interfaces: jet::Error
// is the expected end, any other exception, a sanitizer's report or a broken promise is a finding.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include <jet/core/error.hpp>

#include "../hostile/justified.hpp"

extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(void const volatile*, std::size_t),
                                                         void (*on_free)(void const volatile*));

namespace fuzz {

inline void require(bool holds, char const* promise) {
  if (!holds) {
    std::fprintf(stderr, "broken promise: %s\n", promise);
    std::abort();
  }
}

// Whether `read` came to its end. If it threw jet::Error, the message must be fit for a terminal.
template <class F> bool reads(F&& read) {
  try {
    read();
    return true;
  } catch (jet::Error const& error) {
    std::string_view const message = error.what();
    require(
        std::all_of(message.begin(), message.end(), [](char c) { return (c >= 0x20 && c < 0x7f) || c == '\n'; }),
        "messages hold printable characters only");
    require(message.size() < 100'000, "messages are short");
    return false;
  }
}

// While it lives, an allocation that an input of this size does not justify is a finding.
class AllocationLimit {
 public:
  explicit AllocationLimit(std::size_t input_bytes) {
    static int const hooked = __sanitizer_install_malloc_and_free_hooks(
        [](void const volatile*, std::size_t bytes) {
          if (bytes > limit_) {
            limit_ = none;  // the report allocates too
            require(false, "allocations are those that the input justifies");
          }
        },
        [](void const volatile*) {});
    require(hooked > 0, "allocations can be watched");
    limit_ = hostile::justified(input_bytes);
  }
  AllocationLimit(AllocationLimit const&) = delete;
  AllocationLimit& operator=(AllocationLimit const&) = delete;
  ~AllocationLimit() { limit_ = none; }

 private:
  static constexpr std::size_t none = ~std::size_t{0};
  static inline thread_local std::size_t limit_ = none;  // libFuzzer has threads of its own
};

inline std::string_view text_of(std::uint8_t const* data, std::size_t size) {
  return {reinterpret_cast<char const*>(data), size};
}

// A file in memory that has a path.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view content) : descriptor_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    require(descriptor_ >= 0 &&
                ::write(descriptor_, content.data(), content.size()) == static_cast<ssize_t>(content.size()),
            "the system has files in memory");
  }
  MemoryFile(MemoryFile const&) = delete;
  MemoryFile& operator=(MemoryFile const&) = delete;
  ~MemoryFile() { ::close(descriptor_); }

  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

// One directory for all inputs of a process, removed at its end.
class Directory {
 public:
  Directory() {
    path_ = std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path();
    path_ /= "jet-fuzz-" + std::to_string(::getpid());
    std::filesystem::create_directory(path_);
  }
  Directory(Directory const&) = delete;
  Directory& operator=(Directory const&) = delete;
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path const& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace fuzz
