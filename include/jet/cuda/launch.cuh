/// \file
/// Launching a kernel: the one place with a launch configuration, so that every launch is checked the same way.
#pragma once

#include <cstddef>
#include <string_view>

#include <cuda_runtime.h>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/error.cuh>

JET_CUDA_NAMESPACE_BEGIN

/// Threads of a block, blocks of a grid (64-bit: checked, never wrapped), and bytes of dynamic shared memory.
struct Grid {
  i64 blocks = 1;
  int threads = 1;
  i64 shared_bytes = 0;
};

/// Most blocks along x; kernels that may have more rows stride over them.
inline constexpr i64 max_blocks = 0x7fffffff;

/// Queues `kernel` on `stream`. `name` is the kernel's in messages. A grid of 0 blocks is nothing to do.
template <class... Parameters, class... Arguments>
void launch(std::string_view name, Grid const& grid, cudaStream_t stream, void (*kernel)(Parameters...),
            Arguments const&... arguments) {
  JET_CHECK(grid.blocks >= 0 && grid.blocks <= max_blocks, "CUDA: ", name, ": a grid of ", grid.blocks, " blocks");
  if (grid.blocks == 0) {
    return;
  }
  constexpr i64 without_asking = 48 * 1024;
  if (grid.shared_bytes > without_asking) {
    cuda_check(
        cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(grid.shared_bytes)),
        concat(name, ": ", grid.shared_bytes, " bytes of shared memory"));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(grid.shared_bytes);
  config.stream = stream;
  cuda_check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

JET_CUDA_NAMESPACE_END
