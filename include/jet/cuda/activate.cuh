/// \file
/// Element-wise functions (op/activate.hpp) and repeated heads (op/repeat_heads.hpp) on the device.
#pragma once

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/scan_call.cuh>
#include <jet/cuda/scan_norm.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/fwd.hpp>
#include <jet/op/activate.hpp>
#include <jet/op/repeat_heads.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// f(x); the function is the same for all threads.
__device__ inline float activated(Activation function, float x) {
  switch (function) {
    case Activation::silu: return silu(x);
    case Activation::relu: return x < 0 ? 0.0f : x;
    case Activation::elu_plus_one: return x > 0 ? x + 1.0f : expf(x);
    case Activation::sigmoid: return sigmoid(x);
    case Activation::tanh: return tanhf(x);
    case Activation::log_sigmoid: return -softplus(-x);
    default: return x;
  }
}

/// x = max(scale f(x), least) in place, x (rows, width) f32. `four`: four numbers at a time.
template <class = void>
__global__ void activate(float* x, i64 x_stride, i64 rows, i64 width, Activation function, float scale, float least,
                         bool four) {
  release_next();
  wait_for_previous();
  auto const of = [&](float v) {
    v = scale * activated(function, v);
    return v < least ? least : v;  // NaN stays
  };
  i64 const step = i64{gridDim.x} * blockDim.x;
  i64 const per_row = four ? width / 4 : width;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < rows * per_row; n += step) {
    float* const at = x + n / per_row * x_stride;
    if (four) {
      float4& v = reinterpret_cast<float4*>(at)[n % per_row];
      v = make_float4(of(v.x), of(v.y), of(v.z), of(v.w));
    } else {
      at[n % per_row] = of(at[n % per_row]);
    }
  }
}

/// y[t, h] = x[t, h / repeat], heads of `head` numbers. `four`: four numbers at a time.
template <class = void>
__global__ void repeat_heads(float const* x, float* y, i64 x_stride, i64 y_stride, i64 rows, i64 heads, i64 head,
                             i64 repeat, bool four) {
  release_next();
  wait_for_previous();
  i64 const step = i64{gridDim.x} * blockDim.x;
  i64 const pieces = four ? head / 4 : head;
  i64 const per_row = heads * repeat * pieces;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < rows * per_row; n += step) {
    i64 const row = n / per_row;
    i64 const to = n % per_row;
    i64 const from = to / pieces / repeat * pieces + to % pieces;
    if (four) {
      reinterpret_cast<float4*>(y + row * y_stride)[to] = reinterpret_cast<float4 const*>(x + row * x_stride)[from];
    } else {
      y[row * y_stride + to] = x[row * x_stride + from];
    }
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::Activate, tag::cuda> {
  template <class B> static void run(Context<B>& ctx, op::Activate const& op, View const& x) {
    namespace kernel = cuda::kernel;
    kernel::check_f32_rows("activate", x, "x", x.tokens(), x.width());
    bool const four = kernel::by_four(x, x.width());
    launch("activate", kernel::detail::grid_over(x.numel() / (four ? 4 : 1), 256), ctx.backend().stream(),
           &kernel::activate<>, x.as<float>(), x.stride[0], x.tokens(), x.width(), op.function,
           static_cast<float>(op.scale), static_cast<float>(op.at_least), four);
  }
};

template <> struct Kernel<op::RepeatHeads, tag::cuda> {
  template <class B> static void run(Context<B>& ctx, op::RepeatHeads const& op, View const& x, View const& y) {
    namespace kernel = cuda::kernel;
    kernel::check_f32_rows("repeat_heads", x, "x", x.tokens(), op.heads * op.head);
    kernel::check_f32_rows("repeat_heads", y, "y", x.tokens(), op.heads * op.repeat * op.head);
    bool const four = kernel::by_four(x, op.head) && kernel::by_four(y, op.head);
    launch("repeat_heads", kernel::detail::grid_over(y.numel() / (four ? 4 : 1), 256), ctx.backend().stream(),
           &kernel::repeat_heads<>, static_cast<float const*>(x.as<float>()), y.as<float>(), x.stride[0],
           y.stride[0], x.tokens(), op.heads, op.head, op.repeat, four);
  }
};

JET_NAMESPACE_END
