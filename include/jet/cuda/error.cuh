/// \file
/// The one checker of CUDA calls.
#pragma once

#include <string_view>

#include <cuda_runtime_api.h>

#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>

JET_CUDA_NAMESPACE_BEGIN

/// Throws jet::Error unless `status` is success. `what` names the call, with its sizes where they help.
/// A program that lacks kernels for the device is told what it was built for and what to build.
inline void cuda_check(cudaError_t status, std::string_view what) {
  if (status == cudaSuccess) [[likely]] {
    return;
  }
  (void)cudaGetLastError();  // or the next check of an unrelated launch reports this error again
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction ||
      status == cudaErrorUnsupportedPtxVersion) {
    int device = 0;
    int major = 0;
    int minor = 0;
    if (cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess) {
      fail("CUDA: ", what, ": no kernel for this device: built for ", architectures(), ", device is ", major, ".",
           minor, ", add -DCMAKE_CUDA_ARCHITECTURES=", major, minor, major == 9 ? "a" : "", " (",
           cudaGetErrorString(status), ")");
    }
  }
  fail("CUDA: ", what, ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
}

JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN
using cuda::cuda_check;
JET_NAMESPACE_END
