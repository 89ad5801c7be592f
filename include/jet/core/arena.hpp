/// \file
/// Aligned memory: one allocation for many tensors, and a stack of scratch with a high-water mark.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

/// Every tensor of the library starts at a multiple of this many bytes from its arena's start.
inline constexpr i64 alignment = 64;

constexpr i64 align_up(i64 bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}

/// Blocks of two huge pages and more start at one and ask for them: weights, keys and values are read once per
/// token, and with small pages the walk through the page tables costs a sixth of the bandwidth.
inline constexpr i64 huge_page = i64{2} << 20;

namespace detail {
/// A wish: refused without harm where the system has none.
inline void ask_for_huge_pages([[maybe_unused]] void* at, [[maybe_unused]] std::size_t bytes) {
#if defined(MADV_HUGEPAGE)
  ::madvise(at, bytes, MADV_HUGEPAGE);
#endif
}
}  // namespace detail

/// An aligned block of host memory. Contents are not initialised. (Without unique_ptr: <memory> costs more to
/// include than all of the core.)
class HostBuffer {
 public:
  HostBuffer() = default;
  HostBuffer(HostBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  HostBuffer& operator=(HostBuffer&& other) noexcept {
    HostBuffer taken(std::move(other));
    std::swap(data_, taken.data_);
    std::swap(bytes_, taken.bytes_);
    return *this;
  }
  ~HostBuffer() {
    if (data_ != nullptr) {
      ::operator delete(data_, align());
    }
  }
  explicit HostBuffer(i64 bytes) : bytes_(bytes) {
    JET_CHECK(bytes >= 0, "an allocation of ", bytes, " bytes was asked for");
    if (bytes > 0) {
      void* p = ::operator new(static_cast<std::size_t>(bytes), align(), std::nothrow);
      JET_CHECK(p != nullptr, "out of memory: could not allocate ", bytes, " bytes");
      if (bytes >= 2 * huge_page) {
        detail::ask_for_huge_pages(p, static_cast<std::size_t>(bytes));
      }
      data_ = static_cast<std::byte*>(p);
    }
  }
  std::byte* data() const { return data_; }
  i64 bytes() const { return bytes_; }
  /// Fills with bytes that read as NaN in every floating dtype (0xff...).
  void poison() {
    if (bytes_ > 0) {
      std::memset(data_, 0xff, static_cast<std::size_t>(bytes_));
    }
  }
  void zero() {
    if (bytes_ > 0) {
      std::memset(data_, 0, static_cast<std::size_t>(bytes_));
    }
  }

 private:
  std::align_val_t align() const {
    return std::align_val_t{static_cast<std::size_t>(bytes_ >= 2 * huge_page ? huge_page : alignment)};
  }

  std::byte* data_ = nullptr;
  i64 bytes_ = 0;
};

/// A stack of scratch over memory that somebody else owns. Without memory it only counts: the planning pass runs a
/// forward on it and reads `peak()`, and the allocation that follows is exactly that large.
class ScratchStack {
 public:
  ScratchStack() = default;
  ScratchStack(std::byte* memory, i64 bytes) : memory_(memory), bytes_(bytes) {}
  /// A stack that counts: the addresses it hands out are distinct and aligned, and must not be used.
  static ScratchStack counting() {
    ScratchStack s;
    s.bytes_ = std::numeric_limits<i64>::max();
    s.counting_ = true;
    return s;
  }

  bool is_counting() const { return counting_; }
  void* take(i64 bytes) {
    i64 const at = used_;
    JET_CHECK(bytes >= 0 && bytes <= std::numeric_limits<i64>::max() / 2 - used_, "scratch of ", bytes,
              " bytes was asked for");
    i64 const next = used_ + align_up(bytes);
    JET_CHECK(next <= bytes_, "scratch of ", bytes_, " bytes is too small: ", next,
              " bytes are needed (was the memory plan made for fewer tokens?)");
    used_ = next;
    peak_ = used_ > peak_ ? used_ : peak_;
    return counting_ ? reinterpret_cast<void*>(static_cast<std::uintptr_t>(alignment + at))
                     : static_cast<void*>(memory_ + at);
  }
  i64 mark() const { return used_; }
  void release(i64 mark) { used_ = mark; }
  i64 used() const { return used_; }
  i64 peak() const { return peak_; }
  i64 capacity() const { return bytes_; }

 private:
  std::byte* memory_ = nullptr;
  i64 bytes_ = 0;
  i64 used_ = 0;
  i64 peak_ = 0;
  bool counting_ = false;
};

JET_NAMESPACE_END
