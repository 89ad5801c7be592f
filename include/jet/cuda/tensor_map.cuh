/// \file
/// Tensor maps: tiles of up to five dimensions moved between global and shared memory by the copy engine (sm_90).
/// The driver's encoder is found at run time, so nothing links with the driver library.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/copy_bulk.cuh>
#include <jet/cuda/error.cuh>
#include <jet/cuda/wgmma.cuh>

JET_CUDA_NAMESPACE_BEGIN

/// One dimension of a tensor map, the fastest first: `size` elements, `stride` bytes from one to the next (not read
/// for the first dimension, which is dense; a multiple of 16 for the others), `box` elements of a tile.
struct MapDimension {
  std::int64_t size = 1;
  std::int64_t stride = 0;
  int box = 1;
};

/// Describes tiles of `Rank` dimensions of 16-bit elements at `base` (a multiple of 16 bytes). The first dimension
/// of a tile is at most the swizzle's bytes. Elements beyond a size read as zero and are not written. Throws
/// jet::Error where the driver has no tensor maps or refuses the sizes. Pass it to kernels as `CUtensorMap const
/// __grid_constant__`.
template <std::size_t Rank>
CUtensorMap tensor_map(DType dtype, void const* base, std::array<MapDimension, Rank> const& dimensions,
                       Swizzle swizzle = Swizzle::bytes128) {
  static_assert(Rank >= 1 && Rank <= 5);
  JET_CHECK(dtype == DType::bf16 || dtype == DType::f16, "tensor map: 16-bit elements, found ", name_of(dtype));
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, cuuint64_t const*,
                              cuuint64_t const*, cuuint32_t const*, cuuint32_t const*, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static Encode const encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult answer{};
    cuda_check(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &answer),
        "cudaGetDriverEntryPointByVersion(cuTensorMapEncodeTiled)");
    JET_CHECK(answer == cudaDriverEntryPointSuccess && found != nullptr,
              "tensor map: the driver has no cuTensorMapEncodeTiled (CUDA 12.0 or later is needed)");
    return reinterpret_cast<Encode>(found);
  }();
  std::array<cuuint64_t, Rank> sizes{};
  std::array<cuuint64_t, Rank> strides{};  // of all but the first
  std::array<cuuint32_t, Rank> boxes{};
  std::array<cuuint32_t, Rank> steps{};
  for (std::size_t i = 0; i < Rank; ++i) {
    sizes[i] = static_cast<cuuint64_t>(dimensions[i].size);
    boxes[i] = static_cast<cuuint32_t>(dimensions[i].box);
    steps[i] = 1;
    if (i > 0) {
      strides[i - 1] = static_cast<cuuint64_t>(dimensions[i].stride);
    }
  }
  CUtensorMapSwizzle const mode = swizzle == Swizzle::bytes128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                  : swizzle == Swizzle::bytes64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                  : swizzle == Swizzle::bytes32 ? CU_TENSOR_MAP_SWIZZLE_32B
                                                                : CU_TENSOR_MAP_SWIZZLE_NONE;
  CUtensorMap map;
  CUresult const result =
      encode(&map, dtype == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
             static_cast<cuuint32_t>(Rank), const_cast<void*>(base), sizes.data(), strides.data(), boxes.data(),
             steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, mode, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  JET_CHECK(result == CUDA_SUCCESS, "tensor map: the driver refuses it (error ", static_cast<int>(result),
            "), rank ", Rank, ", fastest dimension of ", dimensions[0].size, " elements, tile of ",
            dimensions[0].box);
  return map;
}

/// Fetches the map itself ahead of its first use.
__device__ inline void prefetch_map(CUtensorMap const& map) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}
/// One thread queues the copy of the tile at those coordinates (elements, the fastest dimension first) to shared
/// memory at `to` (a multiple of 128 bytes; of 1,024 with 128-byte swizzle); the barrier counts its bytes.
__device__ inline void copy_tile(void* to, CUtensorMap const& map, std::uint64_t* barrier, int x, int y) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y)
      : "memory");
#endif
}
__device__ inline void copy_tile(void* to, CUtensorMap const& map, std::uint64_t* barrier, int x, int y, int z) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
#endif
}
__device__ inline void copy_tile(void* to, CUtensorMap const& map, std::uint64_t* barrier, int x, int y, int z,
                                 int w) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
#endif
}
/// One thread queues the copy of a tile back to global memory. Before it: async_proxy_fence by the writers of the
/// tile and a barrier; after it: commit_tile_stores, and wait_tile_stores before the tile is written again.
__device__ inline void store_tile(CUtensorMap const& map, void const* from, int x, int y) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
               "r"(shared_address(from)), "r"(x), "r"(y)
               : "memory");
#endif
}
__device__ inline void commit_tile_stores() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}
/// Waits until the tiles of all but the newest `Pending` groups of stores may be overwritten.
template <int Pending> __device__ void wait_tile_stores() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
#endif
}

JET_CUDA_NAMESPACE_END
