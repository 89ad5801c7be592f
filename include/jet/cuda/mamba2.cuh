/// \file
/// The gates and the skip connection of Mamba2 (op/mamba2.hpp) on the device.
#pragma once

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/scan_call.cuh>
#include <jet/cuda/scan_norm.cuh>
#include <jet/fwd.hpp>
#include <jet/op/mamba2.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// The arguments of ssd_gates, all (rows, heads) or (heads).
struct SsdRows {
  float const* dt;
  float const* a_log;
  float const* dt_bias;
  float* g;
  float* delta;
  i64 dt_stride, g_stride, delta_stride, rows, heads;
  float least, most;
};

/// delta = softplus(dt + dt_bias) within [least, most] ;  g = -exp(a_log) delta
template <class = void> __global__ void ssd_gates(SsdRows const a) {
  release_next();
  wait_for_previous();
  i64 const step = i64{gridDim.x} * blockDim.x;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < a.rows * a.heads; n += step) {
    i64 const row = n / a.heads;
    i64 const h = n % a.heads;
    float delta = softplus(a.dt[row * a.dt_stride + h] + a.dt_bias[h]);
    delta = delta < a.least ? a.least : delta > a.most ? a.most : delta;  // NaN stays
    a.delta[row * a.delta_stride + h] = delta;
    a.g[row * a.g_stride + h] = -expf(a.a_log[h]) * delta;
  }
}

/// y[t, h] += d[h] x[t, h] for heads of `head` numbers. `four`: four numbers at a time.
template <class = void>
__global__ void head_skip(float const* d, float const* x, float* y, i64 x_stride, i64 y_stride, i64 rows, i64 heads,
                          i64 head, bool four) {
  release_next();
  wait_for_previous();
  i64 const step = i64{gridDim.x} * blockDim.x;
  i64 const pieces = four ? head / 4 : head;
  i64 const per_row = heads * pieces;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < rows * per_row; n += step) {
    i64 const row = n / per_row;
    i64 const i = n % per_row;
    float const skip = d[i / pieces];
    if (four) {
      float4 const from = reinterpret_cast<float4 const*>(x + row * x_stride)[i];
      float4& to = reinterpret_cast<float4*>(y + row * y_stride)[i];
      to.x = __fmaf_rn(skip, from.x, to.x);
      to.y = __fmaf_rn(skip, from.y, to.y);
      to.z = __fmaf_rn(skip, from.z, to.z);
      to.w = __fmaf_rn(skip, from.w, to.w);
    } else {
      y[row * y_stride + i] = __fmaf_rn(skip, x[row * x_stride + i], y[row * y_stride + i]);
    }
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::SsdGates, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::SsdGates const& op, View const& dt, Slot const& a_log, Slot const& dt_bias,
                  View const& g, View const& delta) {
    namespace kernel = cuda::kernel;
    i64 const rows = dt.tokens();
    i64 const heads = dt.width();
    for (View const* const v : {&dt, &g, &delta}) {
      kernel::check_f32_rows("ssd_gates", *v, "a tensor", rows, heads);
    }
    for (Slot const* const s : {&a_log, &dt_bias}) {
      JET_CHECK(s->dtype == DType::f32 && s->numel() == heads, "CUDA: ssd_gates: A_log and dt_bias must be f32 of ",
                heads, " elements");
    }
    kernel::SsdRows const a{dt.as<float>(),
                            a_log.as<float>(),
                            dt_bias.as<float>(),
                            g.as<float>(),
                            delta.as<float>(),
                            dt.stride[0],
                            g.stride[0],
                            delta.stride[0],
                            rows,
                            heads,
                            static_cast<float>(op.dt_min),
                            static_cast<float>(op.dt_max)};
    launch("ssd_gates", kernel::detail::grid_over(rows * heads, 128), ctx.backend().stream(), &kernel::ssd_gates<>,
           a);
  }
};

template <> struct Kernel<op::HeadSkip, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::HeadSkip const& op, Slot const& d, View const& x, View const& y) {
    namespace kernel = cuda::kernel;
    i64 const width = op.heads * op.head;
    kernel::check_f32_rows("head_skip", x, "x", x.tokens(), width);
    kernel::check_f32_rows("head_skip", y, "y", x.tokens(), width);
    JET_CHECK(d.dtype == DType::f32 && d.numel() == op.heads, "CUDA: head_skip: D must be f32 of ", op.heads,
              " elements");
    bool const four = kernel::by_four(x, op.head) && kernel::by_four(y, op.head);
    launch("head_skip", kernel::detail::grid_over(y.numel() / (four ? 4 : 1), 256), ctx.backend().stream(),
           &kernel::head_skip<>, static_cast<float const*>(d.as<float>()), static_cast<float const*>(x.as<float>()),
           y.as<float>(), x.stride[0], y.stride[0], x.tokens(), op.heads, op.head, four);
  }
};

JET_NAMESPACE_END
