/// \file
/// Norms (op/norm.hpp).
#pragma once

#include <algorithm>

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/fwd.hpp>
#include <jet/op/norm.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// y = w * x / sqrt(mean(x^2) + eps), one block per row (arXiv 1910.07467). Statistics in fp32, one rounding on
/// store. A row's result does not depend on the other rows. y may be x.
///   x (rows, width) of X, row stride x_stride;  w (width) of W;  y (rows, width) of Y, row stride y_stride
/// Cost: reads x twice (the second time from cache), writes y once.
template <class X, class W, class Y>
__global__ void rms_norm_kernel(X const* x, i64 x_stride, W const* w, Y* y, i64 y_stride, i64 rows, i64 width,
                                float eps) {
  __shared__ float partial[max_warps];
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    X const* const from = x + row * x_stride;
    Y* const to = y + row * y_stride;
    float sum = 0;
    for (i64 i = threadIdx.x; i < width; i += blockDim.x) {
      float const value = static_cast<float>(from[i]);
      sum += value * value;
    }
    float const scale = rsqrtf(block_sum(sum, partial) / static_cast<float>(width) + eps);
    for (i64 i = threadIdx.x; i < width; i += blockDim.x) {
      to[i] = static_cast<Y>(static_cast<float>(w[i]) * (static_cast<float>(from[i]) * scale));
    }
  }
}

namespace detail {

/// Calls `body` with a value of the type that `type` names.
template <class Body> void with_type(DType type, char const* what, Body const& body) {
  switch (type) {
    case DType::f32: return body(float{});
    case DType::bf16: return body(bf16{});
    default: fail("CUDA: rms_norm: ", what, " has dtype ", name_of(type), ", expected f32 or bf16");
  }
}

inline void check_rows(View const& view, char const* what, i64 rows, i64 width) {
  JET_CHECK(view.rank == 2 && view.extent[0] == rows && view.extent[1] == width, "CUDA: rms_norm: ", what,
            " must have the shape (", rows, ", ", width, ")");
  JET_CHECK(view.stride[1] == 1 || width <= 1, "CUDA: rms_norm: ", what, " has a stride of ", view.stride[1],
            " between columns, expected 1");
}

}  // namespace detail

/// Queues the kernel on `stream`. Each of weight, x and y may be f32 or bf16; x and y (rows, width) may have any
/// row stride; weight (width). Throws jet::Error on other shapes and dtypes.
inline void rms_norm(cudaStream_t stream, float eps, View const& weight, View const& x, View const& y) {
  JET_CHECK(x.rank == 2, "CUDA: rms_norm: x has rank ", x.rank, ", expected (tokens, width)");
  i64 const rows = x.extent[0];
  i64 const width = x.extent[1];
  detail::check_rows(x, "x", rows, width);
  detail::check_rows(y, "y", rows, width);
  JET_CHECK(weight.rank == 1 && weight.extent[0] == width && (weight.stride[0] == 1 || width <= 1),
            "CUDA: rms_norm: weight must be a vector of ", width, " elements");
  if (rows == 0 || width == 0) {
    return;
  }
  // Full warps, and few elements for each thread: the choice depends on the width alone.
  int const threads = width <= 128 ? 32 : width <= 1024 ? 128 : width <= 4096 ? 256 : 512;
  Grid const grid{std::min(rows, max_blocks), threads};
  detail::with_type(x.dtype, "x", [&](auto x_type) {
    detail::with_type(weight.dtype, "weight", [&](auto w_type) {
      detail::with_type(y.dtype, "y", [&](auto y_type) {
        using X = decltype(x_type);
        using W = decltype(w_type);
        using Y = decltype(y_type);
        launch("rms_norm", grid, stream, &rms_norm_kernel<X, W, Y>, static_cast<X const*>(x.data), x.stride[0],
               static_cast<W const*>(weight.data), static_cast<Y*>(y.data), y.stride[0], rows, width, eps);
      });
    });
  });
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::RmsNorm, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::RmsNorm const& op, Slot const& weight, View const& x, View const& y) {
    cuda::kernel::rms_norm(ctx.backend().stream(), static_cast<float>(op.eps), weight, x, y);
  }
};

JET_NAMESPACE_END
