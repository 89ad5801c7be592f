/// \file
/// The constant decays of multi-scale retention (op/retention.hpp) on the device.
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
#include <jet/cuda/scan_norm.cuh>
#include <jet/fwd.hpp>
#include <jet/op/retention.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// g[t, h] = log(1 - 2^(-5 - h)). The logarithm of a head is taken once per thread.
template <class = void> __global__ void retention_decay(float* g, i64 g_stride, i64 rows, i64 heads) {
  release_next();
  wait_for_previous();
  i64 const step = i64{gridDim.x} * blockDim.x / heads;  // rows; a thread stays with its head
  i64 const n = blockIdx.x * i64{blockDim.x} + threadIdx.x;
  if (n / heads >= step) {
    return;
  }
  i64 const h = n % heads;
  auto const decay = static_cast<float>(log1p(-exp2(-5.0 - static_cast<double>(h))));
  for (i64 row = n / heads; row < rows; row += step) {
    g[row * g_stride + h] = decay;
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::RetentionDecay, tag::cuda> {
  template <class B> static void run(Context<B>& ctx, op::RetentionDecay const&, View const& g) {
    namespace kernel = cuda::kernel;
    i64 const heads = g.width();
    kernel::check_f32_rows("retention_decay", g, "g", g.tokens(), heads);
    JET_CHECK(heads <= 1 << 16, "CUDA: retention_decay: ", heads, " heads, expected at most 65536");
    if (g.numel() == 0) {
      return;
    }
    // sixteen rows per thread, and at least one thread per head
    i64 const threads = std::max(heads, g.numel() / 16);
    launch("retention_decay", kernel::detail::grid_over(std::min<i64>(threads, 1 << 20), 128),
           ctx.backend().stream(), &kernel::retention_decay<>, g.as<float>(), g.stride[0], g.tokens(), heads);
  }
};

JET_NAMESPACE_END
