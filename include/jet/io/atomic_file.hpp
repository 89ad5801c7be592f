/// \file
/// Files that appear under their name only when they are complete.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/mapped_file.hpp>

JET_NAMESPACE_BEGIN

namespace detail {

/// The directory that holds `path`.
inline std::filesystem::path directory_of(std::filesystem::path const& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

/// Makes renames and removals in a directory durable. Throws jet::Error.
inline void sync_directory(std::filesystem::path const& directory) {
  int const descriptor = ::open(directory.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY);
  JET_CHECK(descriptor >= 0, directory.string(), ": cannot open directory: ", errno_text(errno));
  int const error = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  // Some file systems cannot sync a directory and say so with EINVAL.
  JET_CHECK(error == 0 || error == EINVAL, directory.string(), ": cannot sync directory: ", errno_text(error));
}

/// Removes temporaries in a directory that belong to processes which no longer exist: what a killed save leaves.
inline void remove_stale_temporaries(std::filesystem::path const& directory) {
  std::error_code error;
  for (auto const& entry : std::filesystem::directory_iterator(directory, error)) {
    std::string const name = entry.path().filename().string();
    long process = 0;
    int end = 0;
    if (std::sscanf(name.c_str(), ".jet-%ld-%*d.tmp%n", &process, &end) == 1 &&
        end == static_cast<int>(name.size()) && process > 0 && ::kill(static_cast<pid_t>(process), 0) != 0 &&
        errno == ESRCH) {
      std::filesystem::remove(entry.path(), error);
    }
  }
}

}  // namespace detail

/// Writes a file under a hidden temporary name in the target's directory; `commit` renames it over the target.
/// Until then a file of that name is untouched. Without `commit` the temporary is removed by the destructor. A
/// process that is killed leaves at most a temporary `.jet-<process>-<number>.tmp`, which the next AtomicFile in
/// that directory removes.
class AtomicFile {
 public:
  /// Creates the temporary. Throws jet::Error when the target is a directory or the file cannot be created.
  explicit AtomicFile(std::filesystem::path target) : target_(std::move(target)) {
    std::error_code ignored;
    JET_CHECK(target_.has_filename() && !std::filesystem::is_directory(target_, ignored), target_.string(),
              ": expected the name of a file, found a directory");
    detail::remove_stale_temporaries(detail::directory_of(target_));
    static std::atomic<i64> counter{0};
    do {
      temporary_ =
          detail::directory_of(target_) / concat(".jet-", static_cast<i64>(::getpid()), "-", ++counter, ".tmp");
      descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (descriptor_ < 0 && errno == EEXIST);
    if (descriptor_ < 0) {
      int const error = errno;
      temporary_.clear();
      fail(target_.string(), ": cannot create a temporary file beside it: ", detail::errno_text(error));
    }
  }

  AtomicFile(AtomicFile&& other) noexcept
      : target_(std::move(other.target_)),
        temporary_(std::exchange(other.temporary_, {})),
        descriptor_(std::exchange(other.descriptor_, -1)),
        size_(std::exchange(other.size_, 0)) {}
  AtomicFile& operator=(AtomicFile&&) = delete;
  AtomicFile(AtomicFile const&) = delete;
  AtomicFile& operator=(AtomicFile const&) = delete;
  ~AtomicFile() {
    if (descriptor_ >= 0) {
      ::close(descriptor_);
    }
    if (!temporary_.empty()) {
      ::unlink(temporary_.c_str());
    }
  }

  std::filesystem::path const& target() const { return target_; }
  /// Whether the target has been replaced; also true when only the last step of `commit` failed.
  bool is_committed() const { return temporary_.empty(); }
  /// Bytes written so far.
  i64 size() const { return size_; }

  /// Appends bytes. Throws jet::Error with the system's reason, for example a full disk.
  void write(std::span<std::byte const> bytes) {
    JET_CHECK(descriptor_ >= 0, target_.string(), ": write after finish or commit");
    constexpr std::size_t largest_write = std::size_t{1} << 30;  // the kernel stops just below 2 GiB
    while (!bytes.empty()) {
      ssize_t const count = ::write(descriptor_, bytes.data(), std::min(bytes.size(), largest_write));
      if (count < 0 && errno == EINTR) {
        continue;
      }
      JET_CHECK(count >= 0, target_.string(), ": cannot write: ", detail::errno_text(errno));
      bytes = bytes.subspan(static_cast<std::size_t>(count));
      size_ += count;
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// Makes the temporary durable and closes it; the target is still untouched. Throws jet::Error.
  void finish() {
    if (descriptor_ < 0) {
      return;
    }
    int error = ::fsync(descriptor_) == 0 ? 0 : errno;
    // close frees the descriptor even when it fails
    if (::close(std::exchange(descriptor_, -1)) != 0 && error == 0 && errno != EINTR) {
      error = errno;
    }
    JET_CHECK(error == 0, target_.string(), ": cannot write to disk: ", detail::errno_text(error));
  }

  /// Finishes, renames over the target and makes that durable. Throws jet::Error.
  void commit() {
    JET_CHECK(!temporary_.empty(), target_.string(), ": committed twice");
    finish();
    JET_CHECK(std::rename(temporary_.c_str(), target_.c_str()) == 0, target_.string(),
              ": cannot put the new file in place: ", detail::errno_text(errno));
    temporary_.clear();
    detail::sync_directory(detail::directory_of(target_));
  }

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;  // empty once renamed or moved from
  int descriptor_ = -1;              // -1 once finished
  i64 size_ = 0;
};

JET_NAMESPACE_END
