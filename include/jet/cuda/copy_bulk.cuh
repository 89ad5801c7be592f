/// \file
/// Bulk copies from global to shared memory by the copy engine, and the barriers that count their bytes (sm_90). On
/// older devices has_bulk_copies is false, and none of these is called.
#pragma once

#include <cstdint>

#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/copy_async.cuh>

JET_CUDA_NAMESPACE_BEGIN

/// In device code: whether it is compiled for a device that has them.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
inline constexpr bool has_bulk_copies = true;
#else
inline constexpr bool has_bulk_copies = false;
#endif

/// One thread prepares a barrier in shared memory whose phases take so many arrivals, and a block barrier follows.
__device__ inline void barrier_init(std::uint64_t* barrier, int arrivals = 1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
/// The arrival, by one thread: the phase is complete when so many bytes have come.
__device__ inline void barrier_expect(std::uint64_t* barrier, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#endif
}
/// An arrival without bytes: what this thread has read or written before is done when the phase completes.
__device__ inline void barrier_arrive(std::uint64_t* barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}
/// Waits until the phase of that parity (0 for the first) is complete.
__device__ inline void barrier_wait(std::uint64_t* barrier, int parity) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished_%=;\n"
      "bra again_%=;\n"
      "finished_%=:\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
#endif
}
/// Queues a copy of `bytes` bytes; all three are multiples of 16.
__device__ inline void copy_bulk(void* to, void const* from, int bytes, std::uint64_t* barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
#endif
}
/// Queues a copy back to global memory; all three are multiples of 16. Before it: async_proxy_fence
/// (cuda/wgmma.cuh) by the writers and a barrier; after it, by the same thread and before the block ends:
/// finish_bulk_stores.
__device__ inline void store_bulk(void* to, void const* from, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)),
               "r"(bytes)
               : "memory");
#endif
}
__device__ inline void finish_bulk_stores() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
}
/// An arrival of one of the barrier's count, when this thread's copies (cuda/copy_async.cuh) queued so far are
/// done.
__device__ inline void copy_async_arrive(std::uint64_t* barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

JET_CUDA_NAMESPACE_END
