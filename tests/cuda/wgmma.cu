// cuda/wgmma.cuh and cuda/tensor_map.cuh: every layout of a tile and both sources of A against a product in
// doubles, tiles brought by the copy engine and zero beyond the edge. On devices before sm_90a: not run.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <jet/cuda.cuh>
#include <jet/cuda/mma.cuh>
#include <jet/cuda/tensor_map.cuh>
#include <jet/cuda/wgmma.cuh>

#include "check.hpp"

namespace {

using namespace jet;
using namespace jet::cuda;

constexpr int depth = 64;  // of K

// D = A B with A (64 x depth), B (depth x N). Tiles arrive by tensor map; A as rows of K (or transposed), B as rows
// of K, (N x depth), or transposed, (depth x N).
template <class T, int N, bool InRegisters, bool TransposedA, bool TransposedB>
__global__ void __launch_bounds__(128) product(CUtensorMap const __grid_constant__ a_map,
                                               CUtensorMap const __grid_constant__ b_map, T const* a, float* to) {
  if constexpr (has_wgmma) {
    constexpr int panels = (N + 63) / 64;
    __shared__ alignas(1024) T a_tile[64 * depth];
    __shared__ alignas(1024) T b_tile[TransposedB ? depth * 64 * panels : N * depth];
    __shared__ std::uint64_t full;
    int const thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
      barrier_init(&full);
    }
    __syncthreads();
    if (thread == 0) {
      barrier_expect(&full, static_cast<int>(sizeof a_tile + sizeof b_tile));
      copy_tile(a_tile, a_map, &full, 0, 0);
      for (int p = 0; p < (TransposedB ? panels : 1); ++p) {
        copy_tile(b_tile + p * depth * 64, b_map, &full, 64 * p, 0);
      }
    }
    barrier_wait(&full, 0);
    std::uint64_t const left = TransposedA ? wgmma_columns<Swizzle::bytes128>(shared_address(a_tile), 1024, 0)
                                           : wgmma_rows<Swizzle::bytes128>(shared_address(a_tile), 1024);
    std::uint64_t const right = TransposedB
                                    ? wgmma_columns<Swizzle::bytes128>(shared_address(b_tile), 1024, depth * 128)
                                    : wgmma_rows<Swizzle::bytes128>(shared_address(b_tile), 1024);
    int const warp = thread / 32;
    int const g = thread % 32 / 4;
    int const t = thread % 4;
    float d[N / 2];
    std::uint32_t fragments[depth / 16][4];
    for (int k = 0; k < depth / 16; ++k) {
      for (int r = 0; r < 4; ++r) {
        int const row = 16 * warp + g + r % 2 * 8;
        fragments[k][r] = *reinterpret_cast<std::uint32_t const*>(a + row * depth + 16 * k + 2 * t + r / 2 * 8);
      }
    }
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < depth / 16; ++k) {
      std::uint64_t const b_step = wgmma_advance(right, TransposedB ? 2048 * k : 32 * k);
      if constexpr (InRegisters) {
        wgmma<T, N, TransposedB>(d, fragments[k], b_step, k > 0);
      } else {
        wgmma<T, N, TransposedA, TransposedB>(d, wgmma_advance(left, TransposedA ? 2048 * k : 32 * k), b_step,
                                              k > 0);
      }
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold(d);
    for (int j = 0; j < N / 8; ++j) {
      for (int r = 0; r < 2; ++r) {
        for (int c = 0; c < 2; ++c) {
          to[(16 * warp + g + 8 * r) * N + 8 * j + 2 * t + c] = d[4 * j + 2 * r + c];
        }
      }
    }
  }
}

template <class T> T round_to(float x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half(x);
  } else {
    return __float2bfloat16(x);
  }
}

template <class T, int N, bool InRegisters, bool TransposedA, bool TransposedB> void check_product() {
  // The last rows of both are beyond the map's edge: zero.
  constexpr int rows = 61;
  constexpr int columns = N - 3;
  Random const random(7);
  std::vector<T> a(64 * depth);
  std::vector<T> b(static_cast<std::size_t>(N) * depth);
  for (std::size_t i = 0; i < a.size(); ++i) {
    a[i] = round_to<T>(static_cast<int>(i) / depth < rows ? random.normal(i) : 0);
  }
  for (std::size_t i = 0; i < b.size(); ++i) {
    b[i] = round_to<T>(random.normal(1000000 + i));
  }
  // b is (N x depth); the transposed form wants rows of N, padded to panels of 64.
  std::vector<T> a_shown = a;
  std::vector<T> b_shown = b;
  constexpr int b_width = TransposedB ? (N + 63) / 64 * 64 : depth;
  if (TransposedA) {
    for (int m = 0; m < 64; ++m) {
      for (int k = 0; k < depth; ++k) {
        a_shown[static_cast<std::size_t>(k * 64 + m)] = a[static_cast<std::size_t>(m * depth + k)];
      }
    }
  }
  if (TransposedB) {
    b_shown.assign(static_cast<std::size_t>(depth) * b_width, round_to<T>(0));
    for (int n = 0; n < N; ++n) {
      for (int k = 0; k < depth; ++k) {
        b_shown[static_cast<std::size_t>(k * b_width + n)] = b[static_cast<std::size_t>(n * depth + k)];
      }
    }
  }
  T* device = nullptr;
  float* d = nullptr;
  std::size_t const a_bytes = a_shown.size() * sizeof(T);
  std::size_t const b_bytes = b_shown.size() * sizeof(T);
  cuda_check(cudaMalloc(&device, 2 * a_bytes + b_bytes), "cudaMalloc");
  cuda_check(cudaMalloc(&d, 64 * N * sizeof(float)), "cudaMalloc");
  T* const a_at = device;
  T* const a_plain = device + a.size();
  T* const b_at = device + 2 * a.size();
  cuda_check(cudaMemcpy(a_at, a_shown.data(), a_bytes, cudaMemcpyDefault), "cudaMemcpy");
  cuda_check(cudaMemcpy(a_plain, a.data(), a_bytes, cudaMemcpyDefault), "cudaMemcpy");
  cuda_check(cudaMemcpy(b_at, b_shown.data(), b_bytes, cudaMemcpyDefault), "cudaMemcpy");
  DType const type = std::is_same_v<T, __half> ? DType::f16 : DType::bf16;
  CUtensorMap const a_map = TransposedA ? tensor_map<2>(type, a_at, {{{rows, 0, 64}, {depth, 128, depth}}})
                                        : tensor_map<2>(type, a_at, {{{depth, 0, depth}, {rows, depth * 2, 64}}});
  CUtensorMap const b_map = TransposedB
                                ? tensor_map<2>(type, b_at, {{{columns, 0, 64}, {depth, b_width * 2, depth}}})
                                : tensor_map<2>(type, b_at, {{{depth, 0, depth}, {columns, depth * 2, N}}});
  product<T, N, InRegisters, TransposedA, TransposedB><<<1, 128>>>(a_map, b_map, a_plain, d);
  cuda_check(cudaGetLastError(), "product");
  std::vector<float> found(64 * N);
  cuda_check(cudaMemcpy(found.data(), d, found.size() * sizeof(float), cudaMemcpyDefault), "cudaMemcpy");
  cudaFree(device);
  cudaFree(d);
  double worst = 0;
  for (int m = 0; m < 64; ++m) {
    for (int n = 0; n < N; ++n) {
      double sum = 0;
      for (int k = 0; k < depth && n < columns; ++k) {
        sum += static_cast<double>(static_cast<float>(a[static_cast<std::size_t>(m * depth + k)])) *
               static_cast<double>(static_cast<float>(b[static_cast<std::size_t>(n * depth + k)]));
      }
      worst = std::fmax(worst, std::fabs(sum - static_cast<double>(found[static_cast<std::size_t>(m * N + n)])));
    }
  }
  std::string const what = std::string("wgmma m64n") + std::to_string(N) + (type == DType::f16 ? " f16" : " bf16") +
                           (InRegisters   ? ", A in registers"
                            : TransposedA ? ", A transposed"
                                          : "") +
                           (TransposedB ? ", B transposed" : "") + ": error " + std::to_string(worst);
  std::printf("%s\n", what.c_str());
  expect(worst < 1e-4, what);
}

template <class T, int N> void check_width() {
  check_product<T, N, false, false, false>();
  check_product<T, N, false, false, true>();
  check_product<T, N, false, true, false>();
  check_product<T, N, true, false, false>();
  check_product<T, N, true, false, true>();
}

}  // namespace

int main() {
  int device = 0;
  int major = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) {
    return no_device();
  }
  if (major != 9 || architectures().find("sm_90") == std::string::npos) {
    std::printf("no sm_90a: not run\n");
    return 77;
  }
  check_width<__half, 16>();
  check_width<__half, 48>();
  check_width<__half, 64>();
  check_width<__half, 96>();
  check_width<__nv_bfloat16, 128>();
  check_width<__nv_bfloat16, 192>();
  check_width<__nv_bfloat16, 256>();
  return report();
}
