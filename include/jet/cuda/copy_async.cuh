/// \file
/// Asynchronous copies from global to shared memory (cp.async, sm_80 and later).
#pragma once

#include <cstdint>

#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>

JET_CUDA_NAMESPACE_BEGIN

/// An address in shared memory as instructions take it.
__device__ inline std::uint32_t shared_address(void const* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Queues a copy of 16 bytes to shared memory, past L1; zeros are written instead if `valid` is false (`from` must
/// still be an address, but is not read). Both addresses are multiples of 16.
__device__ inline void copy_async(std::uint32_t to, void const* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
/// The same for data that is read once: L2 gives it up first. `policy` comes from evict_first().
__device__ inline void copy_async(std::uint32_t to, void const* from, bool valid, std::uint64_t policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0), "l"(policy)
               : "memory");
}
/// The same for all of `Together` bytes (128 or 256) that lie at a multiple of their number: L2 fetches them at
/// once.
template <int Together>
__device__ void copy_async_together(std::uint32_t to, void const* from, std::uint64_t policy) {
  static_assert(Together == 128 || Together == 256);
  if constexpr (Together == 128) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "l"(policy)
                 : "memory");
  } else {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "l"(policy)
                 : "memory");
  }
}
/// A copy of 4 bytes at multiples of 4, through L1.
__device__ inline void copy_word_async(std::uint32_t to, void const* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid ? 4 : 0) : "memory");
}
__device__ inline std::uint64_t evict_first() {
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
/// Closes the group of copies that this thread has queued since the last call.
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most `Pending` of this thread's newest groups are under way. Other threads see the data after a
/// barrier.
template <int Pending> __device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

JET_CUDA_NAMESPACE_END
