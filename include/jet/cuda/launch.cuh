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
/// `dependent`: the kernel may start before the one queued ahead of it has ended, and calls wait_for_previous()
/// before it touches anything that another kernel wrote or reads (programmatic dependent launch, sm_90).
/// `cluster`: so many neighbouring blocks along x run together and reach each other's shared memory (sm_90);
/// divides the grid. Only where has_dependent_launch.
struct Grid {
  i64 blocks = 1;
  int threads = 1;
  i64 shared_bytes = 0;
  i64 blocks_y = 1;
  bool dependent = false;
  int cluster = 1;
};

/// Most blocks along x; kernels that may have more rows stride over them.
inline constexpr i64 max_blocks = 0x7fffffff;
/// Most blocks along y.
inline constexpr i64 max_blocks_y = 65535;

/// In kernels launched as `dependent`: returns when the kernels queued before have ended and their writes are
/// visible. All threads of a kernel call it, in every block.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}
/// In any kernel, best at its beginning: when all blocks have come here, the next kernel, if it is `dependent`, may
/// start where there is room, and waits.
__device__ inline void release_next() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/// Whether every architecture of this translation unit has what sm_90 has: otherwise no launch is dependent and
/// there are no clusters, since the driver may compile for the device what was built without them.
inline constexpr bool has_dependent_launch = [] {
  std::string_view rest = architecture_list;
  bool all = !rest.empty();
  while (!rest.empty()) {
    std::string_view const number = rest.substr(0, rest.find(','));
    rest.remove_prefix(number.size() == rest.size() ? number.size() : number.size() + 1);
    all = all && (number.size() > 3 || number >= "900");
  }
  return all;
}();

/// Queues `kernel` on `stream`. `name` is the kernel's in messages. A grid of 0 blocks is nothing to do. Functions
/// that name a kernel are templates, as kernels are: including their header compiles none.
template <class... Parameters, class... Arguments>
void launch(std::string_view name, Grid const& grid, cudaStream_t stream, void (*kernel)(Parameters...),
            Arguments const&... arguments) {
  JET_CHECK(grid.blocks >= 0 && grid.blocks <= max_blocks && grid.blocks_y >= 0 && grid.blocks_y <= max_blocks_y,
            "CUDA: ", name, ": a grid of ", grid.blocks, " by ", grid.blocks_y, " blocks");
  if (grid.blocks == 0 || grid.blocks_y == 0) {
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
  config.gridDim = dim3(static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.blocks_y));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(grid.shared_bytes);
  config.stream = stream;
  cudaLaunchAttribute attributes[2]{};
  config.attrs = attributes;
  if (has_dependent_launch && grid.dependent) {
    cudaLaunchAttribute& dependent = attributes[config.numAttrs++];
    dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    dependent.val.programmaticStreamSerializationAllowed = 1;
  }
  if (grid.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = static_cast<unsigned>(grid.cluster);
    cluster.val.clusterDim.y = 1;
    cluster.val.clusterDim.z = 1;
  }
  cuda_check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

JET_CUDA_NAMESPACE_END
