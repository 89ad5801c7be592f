/// \file
/// What RWKV-7 computes between its products (op/rwkv7.hpp) on the device; its scan is in cuda/general_delta.cuh.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/conv_window.cuh>
#include <jet/cuda/general_delta.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/scan_call.cuh>
#include <jet/cuda/scan_norm.cuh>
#include <jet/cuda/short_conv.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/fwd.hpp>
#include <jet/op/rwkv7.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// A call of token_shift: a convolution of two taps with N outputs (tokens, channels) of one dtype.
template <int N> struct ShiftCall {
  ConvCall in;
  float const* mix[N];
  void* y[N];
  i64 y_stride[N];
  DType y_type;
};

/// y_i[t] = x[t] + (x[t - 1] - x[t]) mix_i. `eight`: eight channels at a time.
template <int N> __global__ void token_shift(ShiftCall<N> const __grid_constant__ call, bool eight) {
  release_next();
  wait_for_previous();
  ConvCall const& in = call.in;
  i64 const step = i64{gridDim.x} * blockDim.x;
  i64 const pieces = eight ? in.channels / 8 : in.channels;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < in.batch.tokens * pieces; n += step) {
    i64 const token = n / pieces;
    ConvToken const at(in, token);
    if (!at.active) {
      continue;
    }
    i64 const channel = n % pieces * (eight ? 8 : 1);
    if (eight) {
      i64 const kept = at.state + in.channels + channel;  // the newer row
      Float8 const now = load_eight(in.x, in.type, token * in.x_stride + channel);
      Float8 before{};
      if (at.local > 0) {
        before = load_eight(in.x, in.type, (token - 1) * in.x_stride + channel);
      } else if (in.state != nullptr) {
        before = load_eight(in.state, in.type, kept);
      }
      JET_UNROLL
      for (int i = 0; i < N; ++i) {
        Float8 y = load_eight(call.mix[i], DType::f32, channel);
        JET_UNROLL
        for (int e = 0; e < 8; ++e) {
          y.v[e] = __fmaf_rn(before.v[e] - now.v[e], y.v[e], now.v[e]);
        }
        store_eight(call.y[i], call.y_type, token * call.y_stride[i] + channel, y);
      }
      if (in.shift && in.state != nullptr) {
        store_eight(in.state, in.type, at.state + channel, before);
        store_eight(in.state, in.type, kept, now);
      }
    } else {
      float const before = conv_input(in, at, channel, 0);
      float const now = conv_input(in, at, channel, 1);
      JET_UNROLL
      for (int i = 0; i < N; ++i) {
        store_one(call.y[i], call.y_type, token * call.y_stride[i] + channel,
                  __fmaf_rn(before - now, call.mix[i][channel], now));
      }
      if (in.shift) {
        conv_shift(in, at, channel);
      }
    }
  }
}

/// x += weight (target - x), all (rows, width) f32. `four`: four numbers at a time.
template <class = void>
__global__ void interpolate(float const* target, float const* weight, float* x, i64 target_stride,
                            i64 weight_stride, i64 x_stride, i64 rows, i64 width, bool four) {
  release_next();
  wait_for_previous();
  i64 const step = i64{gridDim.x} * blockDim.x;
  i64 const pieces = four ? width / 4 : width;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < rows * pieces; n += step) {
    i64 const row = n / pieces;
    i64 const i = n % pieces;
    float const* const to = target + row * target_stride;
    float const* const w = weight + row * weight_stride;
    float* const at = x + row * x_stride;
    if (four) {
      float4 const a = reinterpret_cast<float4 const*>(to)[i];
      float4 const b = reinterpret_cast<float4 const*>(w)[i];
      float4& v = reinterpret_cast<float4*>(at)[i];
      v = make_float4(__fmaf_rn(b.x, a.x - v.x, v.x), __fmaf_rn(b.y, a.y - v.y, v.y),
                      __fmaf_rn(b.z, a.z - v.z, v.z), __fmaf_rn(b.w, a.w - v.w, v.w));
    } else {
      at[i] = __fmaf_rn(w[i], to[i] - at[i], at[i]);
    }
  }
}

/// The arguments of rwkv7_keys and rwkv7_output: rows of heads (tokens, heads * head) f32, weights (heads * head).
struct Rwkv7KeyRows {
  float const* k_k;
  float const* k_a;
  float const* a;
  float* k;
  float* removal;
  float* replacement;
  i64 a_stride, k_stride, removal_stride, replacement_stride, tokens;
  int heads, head;
  bool four;
};
struct Rwkv7OutputRows {
  float const* weight;
  float const* bias;
  float const* r_k;
  float const* o;
  float const* r;
  float const* k;
  float const* v;
  float const* g;
  void* y;
  i64 o_stride, r_stride, k_stride, v_stride, g_stride, y_stride, tokens;
  int heads, head;
  float eps;
  DType y_type;
  bool four;
};

/// kappa = k k_k / |k k_k| per head;  removal = -kappa ;  replacement = kappa a ;  k = k (1 + (a - 1) k_a). A warp
/// per token and head.
template <class = void> __global__ void rwkv7_keys(Rwkv7KeyRows const call) {
  release_next();
  wait_for_previous();
  i64 const warps = i64{gridDim.x} * (blockDim.x / warp_size);
  int const head = call.head;
  bool const four = call.four;
  for (i64 n = (blockIdx.x * i64{blockDim.x} + threadIdx.x) / warp_size; n < call.tokens * call.heads; n += warps) {
    i64 const row = n / call.heads;
    i64 const first = n % call.heads * head;
    float* const key = call.k + row * call.k_stride + first;
    float sum = 0;
    for (int i = 0; i < head_groups(head); ++i) {
      int const at = head_element(i, 0);
      float k[4];
      float w[4];
      load_group(k, key, at, head, four);
      load_group(w, call.k_k + first, at, head, four);
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        float const x = __fmul_rn(k[e], w[e]);
        sum = __fmaf_rn(x, x, sum);
      }
    }
    float const norm = sqrtf(warp_sum(sum));
    float const scale = -1.0f / (norm < 1e-12f ? 1e-12f : norm);  // NaN stays
    for (int i = 0; i < head_groups(head); ++i) {
      int const at = head_element(i, 0);
      float k[4];
      float out[4];
      float in[4];
      float rate[4];
      float share[4];
      load_group(k, key, at, head, four);
      load_group(out, call.k_k + first, at, head, four);
      load_group(share, call.k_a + first, at, head, four);
      load_group(rate, call.a + row * call.a_stride + first, at, head, four);
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        out[e] = __fmul_rn(scale, __fmul_rn(k[e], out[e]));
        in[e] = __fmul_rn(-out[e], rate[e]);
        k[e] = __fmul_rn(k[e], __fmaf_rn(rate[e] - 1.0f, share[e], 1.0f));
      }
      store_group(call.removal, DType::f32, row * call.removal_stride + first, out, at, head, four);
      store_group(call.replacement, DType::f32, row * call.replacement_stride + first, in, at, head, four);
      store_group(call.k, DType::f32, row * call.k_stride + first, k, at, head, four);
    }
  }
}

/// y = (weight (o - mean) / sqrt(var + eps) + bias + (sum r k r_k) v) g per head. A warp per token and head.
template <class = void> __global__ void rwkv7_output(Rwkv7OutputRows const call) {
  release_next();
  wait_for_previous();
  i64 const warps = i64{gridDim.x} * (blockDim.x / warp_size);
  int const head = call.head;
  bool const four = call.four;
  auto const count = static_cast<float>(head);
  for (i64 n = (blockIdx.x * i64{blockDim.x} + threadIdx.x) / warp_size; n < call.tokens * call.heads; n += warps) {
    i64 const row = n / call.heads;
    i64 const first = n % call.heads * head;
    float const* const o = call.o + row * call.o_stride + first;
    float sum = 0;
    float own = 0;
    for (int i = 0; i < head_groups(head); ++i) {
      int const at = head_element(i, 0);
      float x[4];
      float r[4];
      float k[4];
      float w[4];
      load_group(x, o, at, head, four);
      load_group(r, call.r + row * call.r_stride + first, at, head, four);
      load_group(k, call.k + row * call.k_stride + first, at, head, four);
      load_group(w, call.r_k + first, at, head, four);
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        sum += x[e];
        own = __fmaf_rn(__fmul_rn(r[e], k[e]), w[e], own);
      }
    }
    own = warp_sum(own);
    float const mean = warp_sum(sum) / count;
    float squares = 0;
    for (int i = 0; i < head_groups(head); ++i) {
      int const at = head_element(i, 0);
      float x[4];
      load_group(x, o, at, head, four);
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        float const d = at + e < head ? x[e] - mean : 0.0f;
        squares = __fmaf_rn(d, d, squares);
      }
    }
    float const scale = rms_scale(warp_sum(squares), head, call.eps);
    for (int i = 0; i < head_groups(head); ++i) {
      int const at = head_element(i, 0);
      float x[4];
      float w[4];
      float b[4];
      float v[4];
      float g[4];
      load_group(x, o, at, head, four);
      load_group(w, call.weight + first, at, head, four);
      load_group(b, call.bias + first, at, head, four);
      load_group(v, call.v + row * call.v_stride + first, at, head, four);
      load_group(g, call.g + row * call.g_stride + first, at, head, four);
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        float const normed = __fmaf_rn(w[e], __fmul_rn(scale, x[e] - mean), b[e]);
        x[e] = __fmul_rn(__fmaf_rn(own, v[e], normed), g[e]);
      }
      store_group(call.y, call.y_type, row * call.y_stride + first, x, at, head, four);
    }
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::TokenShift, tag::cuda> {
  template <class B, std::size_t N>
  static void run(Context<B>& ctx, op::TokenShift const&, View const& x, Slot const& state,
                  std::array<Slot, N> const& mix, std::array<View, N> const& y) {
    namespace kernel = cuda::kernel;
    constexpr i64 taps = 2;  // the token and the one before it
    kernel::ShiftCall<static_cast<int>(N)> call{};
    call.in = kernel::conv_inputs("token_shift", ctx, taps, x, state);
    call.y_type = y[0].dtype;
    bool eight = cuda::by_eight(x);
    for (std::size_t i = 0; i < N; ++i) {
      kernel::detail::check_rows("token_shift", y[i], "an output", x.tokens(), x.width());
      JET_CHECK(mix[i].dtype == DType::f32 && mix[i].numel() == x.width() && y[i].dtype == call.y_type,
                "CUDA: token_shift: mix must be f32 of ", x.width(), " elements, and all outputs of one dtype");
      call.mix[i] = mix[i].template as<float>();
      call.y[i] = y[i].data;
      call.y_stride[i] = y[i].stride[0];
      eight = eight && cuda::by_eight(y[i]) && reinterpret_cast<std::uintptr_t>(call.mix[i]) % 16 == 0;
    }
    if (state) {
      eight = eight && reinterpret_cast<std::uintptr_t>(state.data) % 16 == 0 &&
              state.stride[0] * size_of(state.dtype) % 16 == 0;
    }
    cudaStream_t const stream = ctx.backend().stream();
    launch("token_shift", kernel::detail::grid_over(x.numel() / (eight ? 8 : 1), 256), stream,
           &kernel::token_shift<static_cast<int>(N)>, call, eight);
    kernel::keep_inputs(stream, call.in);
  }
};

template <> struct Kernel<op::Interpolate, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::Interpolate const&, View const& target, View const& weight, View const& x) {
    namespace kernel = cuda::kernel;
    bool four = true;
    for (View const* const v : {&target, &weight, &x}) {
      kernel::check_f32_rows("interpolate", *v, "a tensor", x.tokens(), x.width());
      four = four && kernel::by_four(*v, x.width());
    }
    launch("interpolate", kernel::detail::grid_over(x.numel() / (four ? 4 : 1), 256), ctx.backend().stream(),
           &kernel::interpolate<>, static_cast<float const*>(target.as<float>()),
           static_cast<float const*>(weight.as<float>()), x.as<float>(), target.stride[0], weight.stride[0],
           x.stride[0], x.tokens(), x.width(), four);
  }
};

template <> struct Kernel<op::Rwkv7Keys, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::Rwkv7Keys const& op, Slot const& k_k, Slot const& k_a, View const& a,
                  View const& k, View const& removal, View const& replacement) {
    namespace kernel = cuda::kernel;
    i64 const width = op.heads * op.head;
    bool four = kernel::by_four(k_k, op.head) && kernel::by_four(k_a, op.head);
    for (View const* const v : {&a, &k, &removal, &replacement}) {
      kernel::check_f32_rows("rwkv7_keys", *v, "a tensor", k.tokens(), width);
      four = four && kernel::by_four(*v, op.head);
    }
    for (Slot const* const s : {&k_k, &k_a}) {
      JET_CHECK(s->dtype == DType::f32 && s->numel() == width, "CUDA: rwkv7_keys: k_k and k_a must be f32 of ",
                width, " elements");
    }
    kernel::Rwkv7KeyRows const rows{k_k.as<float>(),
                                    k_a.as<float>(),
                                    a.as<float>(),
                                    k.as<float>(),
                                    removal.as<float>(),
                                    replacement.as<float>(),
                                    a.stride[0],
                                    k.stride[0],
                                    removal.stride[0],
                                    replacement.stride[0],
                                    k.tokens(),
                                    static_cast<int>(op.heads),
                                    static_cast<int>(op.head),
                                    four};
    launch("rwkv7_keys", kernel::detail::grid_over(k.tokens() * op.heads * cuda::warp_size, 128),
           ctx.backend().stream(), &kernel::rwkv7_keys<>, rows);
  }
};

template <> struct Kernel<op::Rwkv7Output, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::Rwkv7Output const& op, Slot const& weight, Slot const& bias, Slot const& r_k,
                  View const& o, View const& r, View const& k, View const& v, View const& g, View const& y) {
    namespace kernel = cuda::kernel;
    i64 const width = op.heads * op.head;
    kernel::detail::check_rows("rwkv7_output", y, "y", o.tokens(), width);
    bool four = kernel::by_four(y, op.head);
    for (View const* const x : {&o, &r, &k, &v, &g}) {
      kernel::check_f32_rows("rwkv7_output", *x, "a tensor", o.tokens(), width);
      four = four && kernel::by_four(*x, op.head);
    }
    for (Slot const* const s : {&weight, &bias, &r_k}) {
      JET_CHECK(s->dtype == DType::f32 && s->numel() == width, "CUDA: rwkv7_output: weight, bias and r_k must be ",
                "f32 of ", width, " elements");
      four = four && reinterpret_cast<std::uintptr_t>(s->data) % 16 == 0;
    }
    kernel::Rwkv7OutputRows const rows{weight.as<float>(),
                                       bias.as<float>(),
                                       r_k.as<float>(),
                                       o.as<float>(),
                                       r.as<float>(),
                                       k.as<float>(),
                                       v.as<float>(),
                                       g.as<float>(),
                                       y.data,
                                       o.stride[0],
                                       r.stride[0],
                                       k.stride[0],
                                       v.stride[0],
                                       g.stride[0],
                                       y.stride[0],
                                       o.tokens(),
                                       static_cast<int>(op.heads),
                                       static_cast<int>(op.head),
                                       static_cast<float>(op.eps),
                                       y.dtype,
                                       four};
    launch("rwkv7_output", kernel::detail::grid_over(o.tokens() * op.heads * cuda::warp_size, 128),
           ctx.backend().stream(), &kernel::rwkv7_output<>, rows);
  }
};

JET_NAMESPACE_END
