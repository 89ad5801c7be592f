/// \file
/// What the host asks before it queues a kernel with wgmma (cuda/wgmma.cuh).
#pragma once

#include <string_view>

#include <cuda_runtime.h>

#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/error.cuh>
#include <jet/cuda/wgmma.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Whether an architecture of this translation unit is sm_90, which sm_90a counts as.
inline constexpr bool has_sm_90 = architecture_list.find("900") != std::string_view::npos;

/// Has much shared memory where, and only where, it is compiled with wgmma: what the host can ask about it.
template <class = void> __global__ void wgmma_marker_kernel(int* to) {
  if constexpr (has_wgmma) {
    __shared__ int marker[1024];
    marker[threadIdx.x] = to[threadIdx.x];
    __syncthreads();
    to[threadIdx.x] = marker[1023 - threadIdx.x];
  }
}
/// Whether kernels of this translation unit run with wgmma on the current device.
template <class = void> bool runs_wgmma() {
  cudaFuncAttributes attributes{};
  cuda_check(cudaFuncGetAttributes(&attributes, reinterpret_cast<void const*>(&wgmma_marker_kernel<>)),
             "attributes of a kernel");
  return attributes.sharedSizeBytes >= 4096;
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
