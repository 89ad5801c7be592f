/// \file
/// A whole file mapped read-only into memory.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

namespace detail {

/// The text of an errno value.
inline std::string errno_text(int error) {
  return std::generic_category().message(error);
}

}  // namespace detail

/// A regular file, mapped privately and read-only. Moves, does not copy; `map_file` shares one. The file must not
/// be truncated by others while it is mapped (replacing it by rename is safe: the mapping keeps the old content).
class MappedFile {
 public:
  /// Throws jet::Error when the file is absent, unreadable or not a regular file. An empty file has no mapping.
  explicit MappedFile(std::filesystem::path path) : path_(std::move(path)) {
    // O_NONBLOCK: opening a pipe must fail below, not wait for a writer. It has no effect on regular files.
    int const descriptor = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    JET_CHECK(descriptor >= 0, path_.string(), ": cannot open: ", detail::errno_text(errno));
    try {
      map(descriptor);
    } catch (...) {
      ::close(descriptor);
      throw;
    }
    ::close(descriptor);
  }

  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  MappedFile(MappedFile const&) = delete;
  MappedFile& operator=(MappedFile const&) = delete;
  ~MappedFile() {
    if (data_ != nullptr) {
      ::munmap(data_, size_);
    }
  }

  std::filesystem::path const& path() const { return path_; }
  /// Bytes of the file.
  i64 size() const { return static_cast<i64>(size_); }
  std::span<std::byte const> bytes() const { return {static_cast<std::byte const*>(data_), size_}; }
  std::string_view text() const { return {static_cast<char const*>(data_), size_}; }

 private:
  void map(int descriptor) {
    struct stat status {};
    JET_CHECK(::fstat(descriptor, &status) == 0, path_.string(), ": cannot stat: ", detail::errno_text(errno));
    JET_CHECK(!S_ISDIR(status.st_mode), path_.string(), ": expected a regular file, found a directory");
    JET_CHECK(S_ISREG(status.st_mode), path_.string(), ": expected a regular file, found a device, pipe or socket");
    if (status.st_size == 0) {
      return;
    }
    auto const size = static_cast<std::size_t>(status.st_size);
    void* const data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    JET_CHECK(data != MAP_FAILED, path_.string(), ": cannot map ", size, " bytes: ", detail::errno_text(errno));
    data_ = data;
    size_ = size;
  }

  std::filesystem::path path_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Maps a file for shared use. Errors as MappedFile's constructor.
inline std::shared_ptr<MappedFile const> map_file(std::filesystem::path path) {
  return std::make_shared<MappedFile const>(std::move(path));
}

JET_NAMESPACE_END
