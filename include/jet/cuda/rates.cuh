/// \file
/// What a CUDA device's memory gives in this run: the ceilings that a share of the roofline is stated against.
#pragma once

#include <algorithm>
#include <vector>

#include <cuda_runtime.h>

#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/buffer.cuh>
#include <jet/cuda/error.cuh>
#include <jet/cuda/launch.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Reads everything and writes nothing (unless all words sum to one value).
__global__ void read_all_kernel(uint4 const* from, i64 n, unsigned* never) {
  constexpr int batch = 8;
  i64 const step = static_cast<i64>(gridDim.x) * blockDim.x;
  unsigned sum = 0;
  for (i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += batch * step) {
    uint4 v[batch];
#pragma unroll
    for (int j = 0; j < batch; ++j) {
      v[j] = i + j * step < n ? __ldcs(from + i + j * step) : uint4{};
    }
#pragma unroll
    for (int j = 0; j < batch; ++j) {
      sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
  }
  if (sum == 0x12345u) {
    *never = sum;
  }
}

}  // namespace kernel

/// Bytes per second: of a kernel that only reads, and of a copy inside the device (read and written both counted).
struct DeviceRates {
  double read = 0;
  double copy = 0;
};

/// Median of seven passes over 2 GiB each.
inline DeviceRates measure_device_rates(cudaStream_t stream, int multiprocessors) {
  constexpr i64 bytes = i64{1} << 31;
  DeviceBuffer const from(bytes), to(bytes);
  cuda_check(cudaMemsetAsync(from.data(), 1, bytes, stream), "cudaMemsetAsync");
  cudaEvent_t begin = nullptr, end = nullptr;
  cuda_check(cudaEventCreate(&begin), "cudaEventCreate");
  cuda_check(cudaEventCreate(&end), "cudaEventCreate");
  auto const rate = [&](i64 moved, auto const& pass) {
    std::vector<float> times;
    for (int i = 0; i < 8; ++i) {
      cuda_check(cudaEventRecord(begin, stream), "cudaEventRecord");
      pass();
      cuda_check(cudaEventRecord(end, stream), "cudaEventRecord");
      cuda_check(cudaEventSynchronize(end), "cudaEventSynchronize");
      float ms = 0;
      cuda_check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
      if (i > 0) {
        times.push_back(ms);
      }
    }
    std::sort(times.begin(), times.end());
    return 1e3 * static_cast<double>(moved) / static_cast<double>(times[times.size() / 2]);
  };
  DeviceRates rates;
  rates.read = rate(bytes, [&] {
    launch("read_all", {multiprocessors * 4, 512}, stream, &kernel::read_all_kernel,
           static_cast<uint4 const*>(static_cast<void const*>(from.data())), bytes / i64{sizeof(uint4)},
           static_cast<unsigned*>(static_cast<void*>(to.data())));
  });
  rates.copy = rate(2 * bytes, [&] {
    cuda_check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
  });
  (void)cudaEventDestroy(begin);
  (void)cudaEventDestroy(end);
  return rates;
}

JET_CUDA_NAMESPACE_END
