/// \file
/// The convolution whose kernels come from the input (op/short_conv.hpp, DynamicConv) for 17 to 64 tokens of as
/// many sequences, as decode steps have them (wgmma, sm_90a): a block keeps its rows of w2, fetched while the
/// kernels before still run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/conv_generate.cuh>
#include <jet/cuda/conv_window.cuh>
#include <jet/cuda/copy_async.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/runs_wgmma.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/cuda/wgmma.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Shared memory of conv_generate_rows: hidden numbers of 64 tokens and N rows of w2, in panels of 64
/// numbers (rows of 128 bytes); at the end the kernels in their place.
template <int N> struct ConvRows {
  static constexpr int tokens = 64;
  static constexpr int threads = 256;
  static constexpr int channels = N / 4;
  static constexpr int kernel_stride = N + 8;
  static i64 bytes(i64 r) { return std::max<i64>((tokens + N) * 2 * r, tokens * kernel_stride * 4) + 1024; }
};

/// At most 64 tokens, 4 taps, bf16, single tokens of sequences. A block takes N / 4 channels. r is a
/// multiple of 64, rows of w2, hidden numbers and b2 are 16-byte aligned.
template <int N>
__global__ void __launch_bounds__(256, 1) conv_generate_rows(ConvCall const call, ConvGenerator const generator) {
  using T = ConvRows<N>;
  constexpr int taps = 4;
  extern __shared__ float4 conv_memory[];
  release_next();
  int const thread = static_cast<int>(threadIdx.x);
  int const r = generator.r;
  int const panels = r / 64;
  std::uint32_t const memory = (shared_address(conv_memory) + 1023) / 1024 * 1024;
  std::uint32_t const weights = memory + static_cast<std::uint32_t>(panels * T::tokens * 128);
  i64 const first = i64{blockIdx.x} * N;
  int const count = static_cast<int>(min(i64{N}, call.channels * taps - first));
  for (int i = thread; i < count * (r / 8); i += T::threads) {
    int const row = i / (r / 8);
    int const piece = i - row * (r / 8);
    copy_async(weights + static_cast<std::uint32_t>(piece / 8 * N * 128 + swizzled<128>(row, piece % 8)),
               static_cast<bf16 const*>(generator.w2) + (first + row) * generator.w2_stride + 8 * piece, true);
  }
  commit_copies();
  wait_for_previous();

  // The outputs that this thread makes; their inputs come meanwhile.
  constexpr int outputs = (T::tokens * T::channels + T::threads - 1) / T::threads;
  int const tokens = static_cast<int>(call.batch.tokens);
  i64 const first_channel = first / taps;
  auto const* const bits = static_cast<std::uint16_t const*>(call.x);
  auto const* const state = static_cast<std::uint16_t const*>(call.state);
  std::uint16_t input[outputs][taps];
  JET_UNROLL
  for (int i = 0; i < outputs; ++i) {
    int const n = thread + i * T::threads;
    int const token = n / T::channels;
    i64 const channel = first_channel + n % T::channels;
    JET_UNROLL
    for (int tap = 0; tap < taps; ++tap) {
      input[i][tap] = 0;
    }
    if (token < tokens && channel < call.channels) {
      ConvToken const at(call, token);
      if (at.active) {
        JET_UNROLL
        for (int tap = 0; tap + 1 < taps; ++tap) {
          input[i][tap] =
              state != nullptr ? state[at.state + (tap + 1) * call.channels + channel] : std::uint16_t{0};
        }
        input[i][taps - 1] = bits[token * call.x_stride + channel];
      }
    }
  }

#pragma unroll 4
  for (int i = thread; i < tokens * (r / 8); i += T::threads) {
    int const row = i / (r / 8);
    int const piece = i - row * (r / 8);
    auto const* const from =
        reinterpret_cast<float4 const*>(generator.hidden + row * generator.hidden_stride + 8 * piece);
    uint2 const low = activated(from[0]);
    uint2 const high = activated(from[1]);
    asm volatile(
        "st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(
            memory + static_cast<std::uint32_t>(piece / 8 * T::tokens * 128 + swizzled<128>(row, piece % 8))),
        "r"(low.x), "r"(low.y), "r"(high.x), "r"(high.y)
        : "memory");
  }
  wait_copies<0>();
  async_proxy_fence();
  __syncthreads();
  // A warpgroup takes half of the rows of w2.
  constexpr int mine = N / 2;
  int const column0 = mine * (thread / 128);
  float sum[mine / 2] = {};
  for (int panel = 0; panel < panels; ++panel) {
    std::uint64_t const a =
        wgmma_rows<Swizzle::bytes128>(memory + static_cast<std::uint32_t>(panel * T::tokens * 128), 1024);
    std::uint64_t const b =
        wgmma_rows<Swizzle::bytes128>(weights + static_cast<std::uint32_t>(panel * N * 128 + column0 * 128), 1024);
    wgmma_fence();
    JET_UNROLL
    for (int k = 0; k < 4; ++k) {
      wgmma<__nv_bfloat16, mine>(sum, wgmma_advance(a, 32 * k), wgmma_advance(b, 32 * k));
    }
    wgmma_commit();
    wgmma_wait<0>();
  }
  wgmma_hold(sum);
  __syncthreads();  // the factors have been read
  float* const kernels = reinterpret_cast<float*>(reinterpret_cast<unsigned char*>(conv_memory) +
                                                  (memory - shared_address(conv_memory)));
  int const lane = thread % warp_size;
  JET_UNROLL
  for (int j = 0; j < mine / 8; ++j) {
    JET_UNROLL
    for (int half = 0; half < 2; ++half) {
      int const row = 16 * (thread % 128 / warp_size) + lane / 4 + 8 * half;
      *reinterpret_cast<float2*>(kernels + row * T::kernel_stride + column0 + 8 * j + 2 * (lane % 4)) =
          make_float2(sum[4 * j + 2 * half], sum[4 * j + 2 * half + 1]);
    }
  }
  __syncthreads();
  JET_UNROLL
  for (int i = 0; i < outputs; ++i) {
    int const n = thread + i * T::threads;
    int const token = n / T::channels;
    i64 const channel = first_channel + n % T::channels;
    if (token < tokens && channel < call.channels) {
      ConvToken const at(call, token);
      if (at.active) {
        ConvFour window;
        JET_UNROLL
        for (int tap = 0; tap < taps; ++tap) {
          window.input[tap] = __uint_as_float(std::uint32_t{input[i][tap]} << 16);
        }
        call.y[token * call.y_stride + channel] = window.output(
            *reinterpret_cast<float4 const*>(kernels + token * T::kernel_stride + n % T::channels * taps),
            *reinterpret_cast<float4 const*>(generator.b2 + channel * taps));
        if (call.state != nullptr) {
          window.shift(call, at, channel);
        }
      }
    }
  }
}

/// Queues the convolution if it is of the kind that conv_generate_rows takes: single tokens, at most 64, 4 taps,
/// bf16, aligned as it says. Returns whether it is queued.
template <class = void> bool conv_rows(cudaStream_t stream, ConvCall const& call, ConvGenerator const& generator) {
  constexpr i64 most_bytes = 227 * 1024;
  i64 const tokens = call.batch.tokens;
  if (!has_sm_90 || !call.shift || tokens > ConvRows<96>::tokens || tokens != call.batch.seqs ||
      generator.r % 64 != 0 || generator.hidden_stride % 4 != 0 || !runs_wgmma()) {
    return false;
  }
  auto const go = [&](auto columns) {
    constexpr int N = decltype(columns)::value;
    i64 const bytes = ConvRows<N>::bytes(generator.r);
    if (bytes > most_bytes) {
      return false;
    }
    launch(
        "conv_generate_rows",
        Grid{.blocks = (call.channels * 4 + N - 1) / N, .threads = 256, .shared_bytes = bytes, .dependent = true},
        stream, &conv_generate_rows<N>, call, generator);
    return true;
  };
  // about a block for every multiprocessor
  return call.channels <= 3072 ? go(std::integral_constant<int, 96>{}) : go(std::integral_constant<int, 128>{});
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
