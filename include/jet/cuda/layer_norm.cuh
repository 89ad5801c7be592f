/// \file
/// LayerNorm (op/norm.hpp).
#pragma once

#include <algorithm>

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/fwd.hpp>
#include <jet/op/norm.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// y = w * (x - mean(x)) / sqrt(var(x) + eps) + b, one block per row, in fp32 with one rounding on store. The
/// variance is that of the differences, not a difference of squares. y may be x. Any width, type and stride; w and
/// b f32. Cost: reads x three times, twice from cache.
template <class = void>
__global__ void layer_norm(void const* x, void* y, float const* w, float const* b, i64 x_stride, i64 y_stride,
                           DType x_type, DType y_type, i64 rows, i64 width, float eps) {
  release_next();
  wait_for_previous();
  __shared__ float partial[max_warps];
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    i64 const x0 = row * x_stride;
    float sum = 0;
    for (i64 i = threadIdx.x; i < width; i += blockDim.x) {
      sum += load_one(x, x_type, x0 + i);
    }
    float const mean = block_sum(sum, partial) / static_cast<float>(width);
    float squares = 0;
    for (i64 i = threadIdx.x; i < width; i += blockDim.x) {
      float const difference = load_one(x, x_type, x0 + i) - mean;
      squares += difference * difference;
    }
    float const scale = rsqrtf(block_sum(squares, partial) / static_cast<float>(width) + eps);
    for (i64 i = threadIdx.x; i < width; i += blockDim.x) {
      store_one(y, y_type, row * y_stride + i, (load_one(x, x_type, x0 + i) - mean) * scale * w[i] + b[i]);
    }
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::LayerNorm, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::LayerNorm const& op, Slot const& weight, Slot const& bias, View const& x,
                  View const& y) {
    i64 const width = x.width();
    cuda::kernel::detail::check_rows("layer_norm", x, "x", x.tokens(), width);
    cuda::kernel::detail::check_rows("layer_norm", y, "y", x.tokens(), width);
    for (Slot const* const vector : {&weight, &bias}) {
      JET_CHECK(vector->dtype == DType::f32 && vector->numel() == width,
                "CUDA: layer_norm: weight and bias must be f32 of ", width, " elements");
    }
    if (x.tokens() == 0 || width == 0) {
      return;
    }
    int const threads = width <= 128 ? 32 : width <= 1024 ? 128 : 256;
    cuda::launch("layer_norm", {std::min(x.tokens(), cuda::max_blocks), threads, 0, 1, true},
                 ctx.backend().stream(), &cuda::kernel::layer_norm<>, static_cast<void const*>(x.data), y.data,
                 static_cast<float const*>(weight.as<float>()), static_cast<float const*>(bias.as<float>()),
                 x.stride[0], y.stride[0], x.dtype, y.dtype, x.tokens(), width, static_cast<float>(op.eps));
  }
};

JET_NAMESPACE_END
