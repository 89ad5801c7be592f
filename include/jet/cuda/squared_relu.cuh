/// \file
/// The activation of RWKV's channel mixing (op/squared_relu.hpp).
#pragma once

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/fwd.hpp>
#include <jet/op/squared_relu.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// y = max(x, 0)^2, both (rows, width), one rounding on store; NaN stays NaN. `eight`: eight numbers at a time.
template <class = void>
__global__ void squared_relu(void const* x, void* y, i64 x_stride, i64 y_stride, DType x_type, DType y_type,
                             i64 rows, i64 width, bool eight) {
  release_next();
  wait_for_previous();
  auto const f = [](float v) {
    float const positive = v < 0 ? 0.0F : v;
    return positive * positive;
  };
  i64 const step = eight ? 8 : 1;
  i64 const per_row = width / step;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < rows * per_row; n += i64{gridDim.x} * blockDim.x) {
    i64 const row = n / per_row;
    i64 const i = n % per_row * step;
    if (eight) {
      Float8 v = load_eight(x, x_type, row * x_stride + i);
      JET_UNROLL
      for (int e = 0; e < 8; ++e) {
        v.v[e] = f(v.v[e]);
      }
      store_eight(y, y_type, row * y_stride + i, v);
    } else {
      store_one(y, y_type, row * y_stride + i, f(load_one(x, x_type, row * x_stride + i)));
    }
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::SquaredRelu, tag::cuda> {
  template <class B> static void run(Context<B>& ctx, op::SquaredRelu const&, View const& x, View const& y) {
    for (View const* const v : {&x, &y}) {
      cuda::kernel::detail::check_rows("squared_relu", *v, "a tensor", x.tokens(), x.width());
    }
    bool const eight = cuda::by_eight(x) && cuda::by_eight(y);
    cuda::launch("squared_relu", cuda::kernel::detail::grid_over(y.numel() / (eight ? 8 : 1), 256),
                 ctx.backend().stream(), &cuda::kernel::squared_relu<>, static_cast<void const*>(x.data), y.data,
                 x.stride[0], y.stride[0], x.dtype, y.dtype, y.tokens(), y.width(), eight);
  }
};

JET_NAMESPACE_END
