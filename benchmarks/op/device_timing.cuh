// What the benchmarks of ops on a device share.
#pragma once

#include <algorithm>
#include <cstdio>
#include <string_view>
#include <vector>

#include <cuda_runtime.h>

#include <jet/core/error.hpp>
#include <jet/cuda/buffer.cuh>
#include <jet/cuda/error.cuh>

namespace device {

using jet::i64;

/// Numbers of [-1, 1).
template <class T> __global__ void fill_kernel(T* to, i64 n) {
  i64 const step = static_cast<i64>(gridDim.x) * blockDim.x;
  for (i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    unsigned const h = static_cast<unsigned>(i + 77) * 2654435761u;
    to[i] = T(static_cast<float>(h >> 8) / 8388608.0f - 1.0f);
  }
}

/// Seconds of one of `calls` calls of run(i), recorded into a graph: the median of its replays.
template <class Run> double seconds(cudaStream_t stream, int calls, int repeats, Run const& run) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  for (int i = 0; i < calls; ++i) {  // kernels are loaded, shapes are looked up
    run(i);
  }
  jet::cuda_check(cudaStreamSynchronize(stream), "first calls");
  jet::cuda_check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin capture");
  for (int i = 0; i < calls; ++i) {
    run(i);
  }
  jet::cuda_check(cudaStreamEndCapture(stream, &graph), "end capture");
  jet::cuda_check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  cudaEvent_t begin, end;
  jet::cuda_check(cudaEventCreate(&begin), "event");
  jet::cuda_check(cudaEventCreate(&end), "event");
  std::vector<double> times;
  for (int r = 0; r < repeats + 2; ++r) {
    jet::cuda_check(cudaEventRecord(begin, stream), "record");
    jet::cuda_check(cudaGraphLaunch(exec, stream), "launch");
    jet::cuda_check(cudaEventRecord(end, stream), "record");
    jet::cuda_check(cudaEventSynchronize(end), "wait");
    float ms = 0;
    jet::cuda_check(cudaEventElapsedTime(&ms, begin, end), "elapsed");
    if (r >= 2) {
      times.push_back(ms * 1e-3 / calls);
    }
  }
  (void)cudaEventDestroy(begin);
  (void)cudaEventDestroy(end);
  (void)cudaGraphExecDestroy(exec);
  (void)cudaGraphDestroy(graph);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

template <class T> T* fill(jet::DeviceBuffer const& memory, cudaStream_t stream) {
  T* const at = reinterpret_cast<T*>(memory.data());
  fill_kernel<T><<<1024, 256, 0, stream>>>(at, memory.bytes() / i64{sizeof(T)});
  jet::cuda_check(cudaGetLastError(), "fill");
  return at;
}

template <int Unroll> __global__ void copy_kernel(uint4 const* from, uint4* to, i64 n) {
  i64 const base = static_cast<i64>(blockIdx.x) * blockDim.x * Unroll + threadIdx.x;
  uint4 v[Unroll];
#pragma unroll
  for (int j = 0; j < Unroll; ++j) {
    i64 const at = base + j * static_cast<i64>(blockDim.x);
    v[j] = at < n ? __ldcs(from + at) : uint4{};
  }
#pragma unroll
  for (int j = 0; j < Unroll; ++j) {
    i64 const at = base + j * static_cast<i64>(blockDim.x);
    if (at < n) {
      __stcs(to + at, v[j]);
    }
  }
}
/// Bytes a second that the fastest of several copies of 512 MiB reads and writes.
inline double copy_rate(cudaStream_t stream) {
  jet::DeviceBuffer const memory(i64{1} << 30);
  fill<float>(memory, stream);
  i64 const n = memory.bytes() / 32;
  auto* const from = reinterpret_cast<uint4*>(memory.data());
  double best = 0;
  auto const rate = [&](auto* copy, int unroll, int threads, uint4* to) {
    double const s = seconds(stream, 1, 10, [&](int) {
      copy<<<static_cast<unsigned>((n + unroll * threads - 1) / (unroll * threads)), static_cast<unsigned>(threads),
             0, stream>>>(from, to, n);
    });
    best = std::max(best, static_cast<double>(memory.bytes()) / s);
  };
  for (int const threads : {128, 256, 512}) {
    for (uint4* const to : {from, from + n}) {
      rate(&copy_kernel<4>, 4, threads, to);
      rate(&copy_kernel<8>, 8, threads, to);
    }
  }
  return best;
}

/// What a program does around its measurements, which body() makes and whose exit status it returns: lists `cases`,
/// one per line, when CTest asks for them, says that it was not run without a device (77), and prints an error (1).
template <class Body> int run(int argc, char** argv, char const* cases, Body const& body) {
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]).starts_with("--benchmark_list_tests")) {
      std::printf("%s\n", cases);
      return 0;
    }
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device: not run\n");
    return 77;
  }
  try {
    return body();
  } catch (jet::Error const& error) {
    std::printf("FAILED: %s\n", error.what());
    return 1;
  }
}

}  // namespace device
