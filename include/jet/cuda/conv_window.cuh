/// \file
/// What the short convolutions (op/short_conv.hpp) share: their arguments, the inputs that a token sees, and the
/// state they leave.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include <jet/core/batch.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/batch.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/vector.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// One call of a convolution: x (tokens, channels) and the state's rows [taps, channels] of one dtype, y (tokens,
/// channels) f32. `shift`: no sequence has more than one token, and whoever makes an output moves the state on.
struct ConvCall {
  void const* x;
  void* state;
  float* y;
  i64 x_stride, y_stride, slot_stride;
  i64 channels;
  BatchView batch;
  int taps;
  DType type;
  bool shift;
};

/// Where a token stands: input i of its window is local - (taps - 1) + i of the sequence, and from the state where
/// that is negative.
struct ConvToken {
  i64 begin;  // first row of the sequence
  i64 local;  // tokens of the sequence before this one in the call
  i64 state;  // first element of the slot's state
  bool active;
  __device__ ConvToken(ConvCall const& call, i64 token) {
    // In a decode step the token's own number is right, and saves the search.
    bool const step = call.shift && token < call.batch.seqs && call.batch.cu_seqlens[token] == token &&
                      call.batch.cu_seqlens[token + 1] == token + 1;
    i64 const sequence = step ? token : sequence_of(call.batch, token);
    i64 const slot = call.batch.slot[sequence];
    begin = call.batch.cu_seqlens[sequence];
    local = token - begin;
    state = slot * call.slot_stride;
    active = slot >= 0;
  }
};

/// Input `i` of a token's window.
__device__ inline float conv_input(ConvCall const& call, ConvToken const& at, i64 channel, int i) {
  i64 const t = at.local - (call.taps - 1) + i;
  if (t >= 0) {
    return load_one(call.x, call.type, (at.begin + t) * call.x_stride + channel);
  }
  return call.state == nullptr
             ? 0.0f
             : load_one(call.state, call.type, at.state + (call.taps + t) * call.channels + channel);
}

/// All inputs of a token, of 4 taps and x and state in bf16: loads that do not wait for each other.
struct ConvFour {
  float input[4];
  __device__ void load(ConvCall const& call, ConvToken const& at, i64 channel) {
    auto const* const x = static_cast<bf16 const*>(call.x) + (at.begin + at.local - 3) * call.x_stride + channel;
    auto const* const state = static_cast<bf16 const*>(call.state) + at.state + channel;
    JET_UNROLL
    for (int i = 0; i < 4; ++i) {
      i64 const t = at.local - 3 + i;
      bf16 const* const from = t >= 0 ? x + i * call.x_stride : state + (4 + t) * call.channels;
      input[i] = at.active && (t >= 0 || call.state != nullptr) ? float(*from) : 0.0f;
    }
  }
  /// The sum with kernel + bias, and silu of it.
  __device__ float output(float4 const& kernel, float4 const& bias) const {
    float y = __fmul_rn(__fadd_rn(kernel.x, bias.x), input[0]);
    y = __fmaf_rn(__fadd_rn(kernel.y, bias.y), input[1], y);
    y = __fmaf_rn(__fadd_rn(kernel.z, bias.z), input[2], y);
    y = __fmaf_rn(__fadd_rn(kernel.w, bias.w), input[3], y);
    return fast_silu(y);
  }
  /// The state after the only token of a sequence.
  __device__ void shift(ConvCall const& call, ConvToken const& at, i64 channel) const {
    JET_UNROLL
    for (int i = 0; i < 4; ++i) {
      static_cast<bf16*>(call.state)[at.state + i * call.channels + channel] = bf16(input[i]);
    }
  }
};

/// The state of a channel after the only token of its sequence.
__device__ inline void conv_shift(ConvCall const& call, ConvToken const& at, i64 channel) {
  if (call.state == nullptr) {
    return;
  }
  for (int i = 0; i + 1 < call.taps; ++i) {
    store_one(call.state, call.type, at.state + i * call.channels + channel,
              load_one(call.state, call.type, at.state + (i + 1) * call.channels + channel));
  }
  store_one(call.state, call.type, at.state + (call.taps - 1) * call.channels + channel,
            load_one(call.x, call.type, at.begin * call.x_stride + channel));
}

/// state <- the last `taps` rows of (state, x), a thread per sequence and channel.
template <class = void> __global__ void conv_keep(ConvCall const call) {
  release_next();
  wait_for_previous();
  i64 const step = i64{gridDim.x} * blockDim.x;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < call.batch.seqs * call.channels; n += step) {
    i64 const sequence = n / call.channels;
    i64 const channel = n % call.channels;
    i64 const slot = call.batch.slot[sequence];
    i64 const begin = call.batch.cu_seqlens[sequence];
    i64 const tokens = call.batch.cu_seqlens[sequence + 1] - begin;
    if (slot < 0 || tokens == 0) {
      continue;
    }
    for (int i = 0; i < call.taps; ++i) {  // upwards: what is read has not been written yet
      i64 const t = tokens - call.taps + i;
      float const value = t >= 0 ? load_one(call.x, call.type, (begin + t) * call.x_stride + channel)
                                 : load_one(call.state, call.type,
                                            slot * call.slot_stride + (call.taps + t) * call.channels + channel);
      store_one(call.state, call.type, slot * call.slot_stride + i * call.channels + channel, value);
    }
  }
}

/// y = [silu](bias + sum_i w[c, i] input i), a thread per token and channel.
template <class = void>
__global__ void short_conv(ConvCall const call, float const* weight, float const* bias, bool with_silu) {
  release_next();
  wait_for_previous();
  i64 const step = i64{gridDim.x} * blockDim.x;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < call.batch.tokens * call.channels; n += step) {
    i64 const token = n / call.channels;
    i64 const channel = n % call.channels;
    ConvToken const at(call, token);
    if (!at.active) {
      continue;
    }
    float sum = bias != nullptr ? bias[channel] : 0.0f;
    for (int i = 0; i < call.taps; ++i) {
      sum = __fmaf_rn(weight[channel * call.taps + i], conv_input(call, at, channel, i), sum);
    }
    call.y[token * call.y_stride + channel] = with_silu ? silu(sum) : sum;
    if (call.shift) {
      conv_shift(call, at, channel);
    }
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
