/// \file
/// The MLP's activation (op/swiglu.hpp).
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
#include <jet/op/swiglu.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// y = silu(gate) * up, all (rows, width), one rounding on store. `eight`: eight numbers at a time.
template <class = void>
__global__ void swiglu(void const* gate, void const* up, void* y, i64 gate_stride, i64 up_stride, i64 y_stride,
                       DType gate_type, DType up_type, DType y_type, i64 rows, i64 width, bool eight) {
  release_next();
  wait_for_previous();
  i64 const step = eight ? 8 : 1;
  i64 const per_row = width / step;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < rows * per_row; n += i64{gridDim.x} * blockDim.x) {
    i64 const row = n / per_row;
    i64 const i = n % per_row * step;
    if (eight) {
      Float8 g = load_eight(gate, gate_type, row * gate_stride + i);
      Float8 const u = load_eight(up, up_type, row * up_stride + i);
      JET_UNROLL
      for (int e = 0; e < 8; ++e) {
        g.v[e] = silu(g.v[e]) * u.v[e];
      }
      store_eight(y, y_type, row * y_stride + i, g);
    } else {
      float const g = load_one(gate, gate_type, row * gate_stride + i);
      store_one(y, y_type, row * y_stride + i, silu(g) * load_one(up, up_type, row * up_stride + i));
    }
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::SwiGlu, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::SwiGlu const&, View const& gate, View const& up, View const& y) {
    for (View const* const v : {&gate, &up, &y}) {
      cuda::kernel::detail::check_rows("swiglu", *v, "a tensor", gate.tokens(), gate.width());
    }
    bool const eight = cuda::by_eight(gate) && cuda::by_eight(up) && cuda::by_eight(y);
    cuda::launch("swiglu", cuda::kernel::detail::grid_over(y.numel() / (eight ? 8 : 1), 256),
                 ctx.backend().stream(), &cuda::kernel::swiglu<>, static_cast<void const*>(gate.data),
                 static_cast<void const*>(up.data), y.data, gate.stride[0], up.stride[0], y.stride[0], gate.dtype,
                 up.dtype, y.dtype, y.tokens(), y.width(), eight);
  }
};

JET_NAMESPACE_END
