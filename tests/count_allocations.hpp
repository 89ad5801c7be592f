// Allocations of the whole program, counted by the replacements of operator new in count_allocations.cpp.
#pragma once

#include <atomic>
#include <cstddef>

namespace tests {

extern std::atomic<long> allocations;
// Bytes of the largest allocation since it was last set.
extern std::atomic<std::size_t> largest_allocation;

}  // namespace tests
