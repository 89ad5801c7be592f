/// \file
/// The convolution whose kernels come from the input (op/short_conv.hpp, DynamicConv): the product that makes the
/// kernels and the convolution in one, so that kernels are never formed for more than a tile of tokens. Every sum
/// of the product runs over the hidden numbers in their order: a token's bits do not depend on the tokens beside
/// it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/conv_window.cuh>
#include <jet/cuda/copy_async.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/mma.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/vector.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// The generator's second product: hidden (tokens, r) f32 before silu, or bf16 `activated` after it; w2 (channels *
/// taps, r), b2 (channels * taps).
struct ConvGenerator {
  float const* hidden;
  bf16* activated;
  void const* w2;
  float const* b2;
  i64 hidden_stride, w2_stride;
  int r;
  DType w2_type, act;
};

/// silu of four numbers, in bf16.
__device__ inline uint2 activated(float4 const& h) {
  return {pack_bf16(fast_silu(h.x), fast_silu(h.y)), pack_bf16(fast_silu(h.z), fast_silu(h.w))};
}

/// to = silu(hidden) in bf16, dense rows.
template <class = void>
__global__ void conv_activate(float const* hidden, i64 hidden_stride, bf16* to, i64 tokens, i64 r) {
  release_next();
  wait_for_previous();
  i64 const step = i64{gridDim.x} * blockDim.x;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < tokens * (r / 4); n += step) {
    i64 const token = n / (r / 4);
    i64 const i = n % (r / 4) * 4;
    float4 const h = *reinterpret_cast<float4 const*>(hidden + token * hidden_stride + i);
    *reinterpret_cast<uint2*>(to + token * r + i) = activated(h);
  }
}

/// The convolution of a token and channel with kernel taps k[i] + bias[i].
__device__ inline void conv_output(ConvCall const& call, float const* kernel, float const* bias, i64 token,
                                   i64 channel) {
  ConvToken const at(call, token);
  if (!at.active) {
    return;
  }
  float sum = 0;
  for (int i = 0; i < call.taps; ++i) {
    sum = __fmaf_rn(__fadd_rn(kernel[i], bias[channel * call.taps + i]), conv_input(call, at, channel, i), sum);
  }
  call.y[token * call.y_stride + channel] = silu(sum);
  if (call.shift) {
    conv_shift(call, at, channel);
  }
}

inline constexpr int conv_few = 16;          // tokens of a call of conv_generate_few
inline constexpr int conv_few_columns = 32;  // rows of w2 of a block
inline i64 conv_few_shared(i64 r) {
  return (conv_few + conv_few_columns) * (r + 8) * i64{sizeof(bf16)};
}

/// At most 16 tokens, 4 taps, bf16: a block takes 8 channels and holds their rows of w2, which it fetches while the
/// kernels before still run. r is a multiple of 16, rows of w2 are 16-byte aligned. 4 warps.
template <class = void>
__global__ void __launch_bounds__(128) conv_generate_few(ConvCall const call, ConvGenerator const generator) {
  constexpr int taps = 4;
  constexpr int columns = conv_few_columns;
  constexpr int row_pad = 4;
  extern __shared__ float4 conv_memory[];
  __shared__ __align__(16) float kernels[conv_few][columns + row_pad];
  release_next();
  int const r = generator.r;
  int const stride = r + 8;
  bf16* const weights = reinterpret_cast<bf16*>(conv_memory);  // [columns][stride]
  bf16* const hidden = weights + columns * stride;             // [conv_few][stride]
  int const thread = static_cast<int>(threadIdx.x);
  i64 const first = i64{blockIdx.x} * columns;
  int const pieces = r / 8;
  for (int i = thread; i < columns * pieces; i += 128) {
    int const row = i / pieces;
    int const k = (i - row * pieces) * 8;
    bool const valid = first + row < call.channels * taps;
    copy_async(shared_address(weights + row * stride + k),
               static_cast<bf16 const*>(generator.w2) + (valid ? (first + row) * generator.w2_stride + k : 0),
               valid);
  }
  commit_copies();
  wait_for_previous();
  int const tokens = static_cast<int>(call.batch.tokens);
  // The output that this thread makes; its inputs come meanwhile.
  int const token = thread / (columns / taps);
  i64 const channel = first / taps + thread % (columns / taps);
  bool const mine = token < tokens && channel < call.channels;
  ConvToken const at(call, mine ? token : 0);
  ConvFour window;
  float4 bias{0, 0, 0, 0};
  if (mine) {
    window.load(call, at, channel);
    bias = *reinterpret_cast<float4 const*>(generator.b2 + channel * taps);
  }
  for (int i = thread; i < conv_few * (r / 4); i += 128) {
    int const row = i / (r / 4);
    int const k = (i - row * (r / 4)) * 4;
    *reinterpret_cast<uint2*>(hidden + row * stride + k) =
        row < tokens
            ? activated(*reinterpret_cast<float4 const*>(generator.hidden + row * generator.hidden_stride + k))
            : uint2{0, 0};
  }
  wait_copies<0>();
  __syncthreads();
  int const warp = thread / warp_size;
  int const lane = thread % warp_size;
  int const matrix = lane / 8;
  float sum[4] = {};
  for (int k = 0; k < r; k += 16) {
    std::uint32_t a[4];
    load_matrices(a, shared_address(hidden + (matrix % 2 * 8 + lane % 8) * stride + k + matrix / 2 * 8));
    auto const* const b =
        reinterpret_cast<std::uint32_t const*>(weights + (8 * warp + lane / 4) * stride + k + 2 * (lane % 4));
    mma_bf16(sum, a, b[0], b[4]);
  }
  JET_UNROLL
  for (int e = 0; e < 4; ++e) {
    kernels[lane / 4 + e / 2 * 8][8 * warp + 2 * (lane % 4) + e % 2] = sum[e];
  }
  __syncthreads();
  if (mine && at.active) {
    float4 const kernel = *reinterpret_cast<float4 const*>(&kernels[token][thread % (columns / taps) * taps]);
    call.y[token * call.y_stride + channel] = window.output(kernel, bias);
    if (call.shift && call.state != nullptr) {
      window.shift(call, at, channel);
    }
  }
}

/// Tiles of conv_generate_many: 128 tokens by 32 channels of 4 taps, 64 hidden numbers at a time, 3 under way.
struct ConvTile {
  static constexpr int tokens = 128;
  static constexpr int columns = 128;
  static constexpr int depth = 64;
  static constexpr int stages = 3;
  static constexpr int stride = depth + 8;
  static constexpr int stage = (tokens + columns) * stride;
  static constexpr int kernel_stride = columns + 4;
  static constexpr i64 ring_bytes = i64{stages} * stage * i64{sizeof(bf16)};
  static constexpr i64 kernel_bytes = i64{tokens} * kernel_stride * i64{sizeof(float)};
  static constexpr i64 table = std::max(ring_bytes, kernel_bytes);  // where the tokens stand
  static constexpr i64 shared_bytes = table + tokens * i64{sizeof(ConvToken)};
};

/// Any number of tokens, 4 taps, bf16, `activated` hidden numbers. r is a multiple of 16, rows are 16-byte aligned.
/// 8 warps, each 64 tokens by 32 rows of w2.
template <class = void>
__global__ void __launch_bounds__(256, 2) conv_generate_many(ConvCall const call, ConvGenerator const generator) {
  using T = ConvTile;
  constexpr int taps = 4;
  extern __shared__ float4 conv_memory[];
  bf16* const ring = reinterpret_cast<bf16*>(conv_memory);
  release_next();
  wait_for_previous();
  int const thread = static_cast<int>(threadIdx.x);
  int const warp = thread / warp_size;
  int const lane = thread % warp_size;
  i64 const rows = call.channels * taps;
  i64 const column_tiles = (rows + T::columns - 1) / T::columns;
  i64 const first_column = blockIdx.x % column_tiles * T::columns;
  i64 const first_token = blockIdx.x / column_tiles * T::tokens;
  int const r = generator.r;
  int const steps = (r + T::depth - 1) / T::depth;

  // A thread copies the same 16 bytes of a row of every 32; rows beyond the last repeat it, and come to nothing.
  int const piece = thread % (T::depth / 8) * 8;
  int const row0 = thread / (T::depth / 8);
  static_assert(256 / (T::depth / 8) == 32);
  bf16 const* from[(T::tokens + T::columns) / 32];
  JET_UNROLL
  for (int i = 0; i < (T::tokens + T::columns) / 32; ++i) {
    int const row = row0 + 32 * i;
    from[i] = row < T::tokens ? generator.activated + min(first_token + row, call.batch.tokens - 1) * r + piece
                              : static_cast<bf16 const*>(generator.w2) +
                                    min(first_column + row - T::tokens, rows - 1) * generator.w2_stride + piece;
  }
  std::uint32_t const to = shared_address(ring + row0 * T::stride + piece);
  auto const fetch = [&](int step) {
    if (step < steps) {
      std::uint32_t const at = to + static_cast<std::uint32_t>(step % T::stages * T::stage * int{sizeof(bf16)});
      bool const valid = step * T::depth + piece < r;
      JET_UNROLL
      for (int i = 0; i < (T::tokens + T::columns) / 32; ++i) {
        copy_async(at + 32 * i * T::stride * static_cast<std::uint32_t>(sizeof(bf16)),
                   valid ? from[i] + step * T::depth : from[i], valid);
      }
    }
    commit_copies();
  };

  JET_UNROLL
  for (int i = 0; i + 1 < T::stages; ++i) {
    fetch(i);
  }
  auto* const table = reinterpret_cast<ConvToken*>(reinterpret_cast<std::byte*>(conv_memory) + T::table);
  if (thread < T::tokens && first_token + thread < call.batch.tokens) {
    table[thread] = ConvToken(call, first_token + thread);
  }
  int const warp_token = warp / 4 * 64;
  int const warp_column = warp % 4 * 32;
  int const matrix = lane / 8;
  float sum[4][4][4] = {};
  for (int step = 0; step < steps; ++step) {
    wait_copies<T::stages - 2>();
    __syncthreads();
    fetch(step + T::stages - 1);
    bf16 const* const hidden = ring + step % T::stages * T::stage;
    bf16 const* const weights = hidden + T::tokens * T::stride;
    JET_UNROLL
    for (int k = 0; k < T::depth; k += 16) {
      std::uint32_t b[2][4];
      JET_UNROLL
      for (int j = 0; j < 2; ++j) {
        load_matrices(b[j],
                      shared_address(weights + (warp_column + 16 * j + matrix / 2 * 8 + lane % 8) * T::stride + k +
                                     matrix % 2 * 8));
      }
      JET_UNROLL
      for (int i = 0; i < 4; ++i) {
        std::uint32_t a[4];
        load_matrices(a, shared_address(hidden + (warp_token + 16 * i + matrix % 2 * 8 + lane % 8) * T::stride + k +
                                        matrix / 2 * 8));
        JET_UNROLL
        for (int j = 0; j < 4; ++j) {
          mma_bf16(sum[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
      }
    }
  }
  wait_copies<0>();
  __syncthreads();
  float* const kernels = reinterpret_cast<float*>(conv_memory);
  JET_UNROLL
  for (int i = 0; i < 4; ++i) {
    JET_UNROLL
    for (int j = 0; j < 4; ++j) {
      JET_UNROLL
      for (int half = 0; half < 2; ++half) {
        int const row = warp_token + 16 * i + lane / 4 + 8 * half;
        int const column = warp_column + 8 * j + 2 * (lane % 4);
        *reinterpret_cast<float2*>(kernels + row * T::kernel_stride + column) =
            make_float2(sum[i][j][2 * half], sum[i][j][2 * half + 1]);
      }
    }
  }
  __syncthreads();

  // A warp takes 16 tokens of the 32 channels, four at a time.
  i64 const channel = first_column / taps + lane;
  if (channel >= call.channels) {
    return;
  }
  constexpr int together = 4;
  constexpr int warp_rows = T::tokens / 8;
  float4 const bias = *reinterpret_cast<float4 const*>(generator.b2 + channel * taps);
  int const base = warp * warp_rows;
  int const count = static_cast<int>(min(i64{T::tokens}, call.batch.tokens - first_token)) - base;
  if (count <= 0) {
    return;
  }
  float* const out = call.y + (first_token + base) * call.y_stride + channel;
  float const* const kernel_row = kernels + base * T::kernel_stride + lane * taps;
  ConvToken const begin = table[base];
  if (begin.active && begin.local >= taps - 1 && count >= warp_rows &&
      table[base + warp_rows - 1].begin == begin.begin) {
    // all in the middle of one sequence: an input is read once
    auto const* const x = static_cast<bf16 const*>(call.x) + (first_token + base) * call.x_stride + channel;
    float input[warp_rows + taps - 1];
    JET_UNROLL
    for (int i = 0; i < warp_rows + taps - 1; ++i) {
      input[i] = float(x[(i - (taps - 1)) * call.x_stride]);
    }
    JET_UNROLL
    for (int i = 0; i < warp_rows; ++i) {
      ConvFour const window{{input[i], input[i + 1], input[i + 2], input[i + 3]}};
      out[i * call.y_stride] =
          window.output(*reinterpret_cast<float4 const*>(kernel_row + i * T::kernel_stride), bias);
    }
    return;
  }
  for (int i = 0; i < min(count, warp_rows); i += together) {
    ConvFour window[together];
    JET_UNROLL
    for (int j = 0; j < together; ++j) {
      if (i + j < count) {
        window[j].load(call, table[base + i + j], channel);
      }
    }
    JET_UNROLL
    for (int j = 0; j < together; ++j) {
      if (i + j < count && table[base + i + j].active) {
        out[(i + j) * call.y_stride] =
            window[j].output(*reinterpret_cast<float4 const*>(kernel_row + (i + j) * T::kernel_stride), bias);
        if (call.shift && call.state != nullptr) {
          window[j].shift(call, table[base + i + j], channel);
        }
      }
    }
  }
}

/// Any sizes and types, on the fp32 units: a block takes Rows tokens by as many channels as have at most 64 taps
/// together. 256 threads.
template <int Rows>
__global__ void __launch_bounds__(256) conv_generate_any(ConvCall const call, ConvGenerator const generator) {
  constexpr int columns = 64;
  constexpr int depth = 32;
  __shared__ float hidden[Rows][depth + 1];
  __shared__ float weights[columns][depth + 1];
  __shared__ float kernels[Rows][columns + 1];
  release_next();
  wait_for_previous();
  int const thread = static_cast<int>(threadIdx.x);
  int const channels = columns / call.taps;
  i64 const channel_blocks = (call.channels + channels - 1) / channels;
  i64 const first_channel = blockIdx.x % channel_blocks * channels;
  i64 const first_token = blockIdx.x / channel_blocks * Rows;
  i64 const first_row = first_channel * call.taps;
  i64 const last_row = min((first_channel + channels) * call.taps, call.channels * call.taps);
  int const ty = thread / 16;
  int const tx = thread % 16;
  float sum[Rows / 16][4] = {};
  for (int k0 = 0; k0 < generator.r; k0 += depth) {
    __syncthreads();
    for (int i = thread; i < Rows * depth; i += 256) {
      i64 const token = first_token + i / depth;
      int const k = k0 + i % depth;
      bool const valid = token < call.batch.tokens && k < generator.r;
      hidden[i / depth][i % depth] =
          valid ? rounded_to(generator.act, silu(generator.hidden[token * generator.hidden_stride + k])) : 0.0f;
    }
    for (int i = thread; i < columns * depth; i += 256) {
      i64 const row = first_row + i / depth;
      int const k = k0 + i % depth;
      bool const valid = row < last_row && k < generator.r;
      weights[i / depth][i % depth] =
          valid ? load_one(generator.w2, generator.w2_type, row * generator.w2_stride + k) : 0.0f;
    }
    __syncthreads();
    for (int k = 0; k < depth; ++k) {
      JET_UNROLL
      for (int i = 0; i < Rows / 16; ++i) {
        JET_UNROLL
        for (int j = 0; j < 4; ++j) {
          sum[i][j] = __fmaf_rn(hidden[ty + 16 * i][k], weights[tx + 16 * j][k], sum[i][j]);
        }
      }
    }
  }
  JET_UNROLL
  for (int i = 0; i < Rows / 16; ++i) {
    JET_UNROLL
    for (int j = 0; j < 4; ++j) {
      kernels[ty + 16 * i][tx + 16 * j] = sum[i][j];
    }
  }
  __syncthreads();
  for (int i = thread; i < Rows * channels; i += 256) {
    i64 const token = first_token + i / channels;
    i64 const channel = first_channel + i % channels;
    if (token < call.batch.tokens && channel < call.channels) {
      conv_output(call, &kernels[i / channels][i % channels * call.taps], generator.b2, token, channel);
    }
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
