// In a file of its own, so that no caller sees through operator new. Every form is replaced: a sanitizer has its
// own of those that are not, and complains when the two kinds meet.
#include "count_allocations.hpp"

#include <cstdlib>
#include <new>

namespace tests {

std::atomic<long> allocations{0};
std::atomic<std::size_t> largest_allocation{0};

}  // namespace tests

namespace {

void* allocate(std::size_t n, std::size_t align) {
  ++tests::allocations;
  std::size_t largest = tests::largest_allocation;
  while (n > largest && !tests::largest_allocation.compare_exchange_weak(largest, n)) {
  }
  n = n > 0 ? n : 1;
  return align <= alignof(std::max_align_t) ? std::malloc(n)
                                            : std::aligned_alloc(align, (n + align - 1) / align * align);
}
void* allocate_or_throw(std::size_t n, std::size_t align) {
  if (void* const p = allocate(n, align)) {
    return p;
  }
  throw std::bad_alloc();
}

}  // namespace

using Align = std::align_val_t;
using NoThrow = std::nothrow_t;

void* operator new(std::size_t n) {
  return allocate_or_throw(n, 1);
}
void* operator new[](std::size_t n) {
  return allocate_or_throw(n, 1);
}
void* operator new(std::size_t n, Align a) {
  return allocate_or_throw(n, static_cast<std::size_t>(a));
}
void* operator new[](std::size_t n, Align a) {
  return allocate_or_throw(n, static_cast<std::size_t>(a));
}
void* operator new(std::size_t n, NoThrow const&) noexcept {
  return allocate(n, 1);
}
void* operator new[](std::size_t n, NoThrow const&) noexcept {
  return allocate(n, 1);
}
void* operator new(std::size_t n, Align a, NoThrow const&) noexcept {
  return allocate(n, static_cast<std::size_t>(a));
}
void* operator new[](std::size_t n, Align a, NoThrow const&) noexcept {
  return allocate(n, static_cast<std::size_t>(a));
}
void operator delete(void* p) noexcept {
  std::free(p);
}
void operator delete[](void* p) noexcept {
  std::free(p);
}
void operator delete(void* p, std::size_t) noexcept {
  std::free(p);
}
void operator delete[](void* p, std::size_t) noexcept {
  std::free(p);
}
void operator delete(void* p, Align) noexcept {
  std::free(p);
}
void operator delete[](void* p, Align) noexcept {
  std::free(p);
}
void operator delete(void* p, std::size_t, Align) noexcept {
  std::free(p);
}
void operator delete[](void* p, std::size_t, Align) noexcept {
  std::free(p);
}
