/// \file
/// Token embedding and row gathering (op/embedding.hpp).
#pragma once

#include <algorithm>
#include <cstdint>

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/batch.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/fwd.hpp>
#include <jet/op/embedding.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// x[t] = E[ids[t]], 0 for rows of inactive sequences; one block per row.
template <class = void>
__global__ void embed(BatchView const batch, void const* table, i64 table_stride, DType table_type,
                      std::int32_t const* ids, void* x, i64 x_stride, DType x_type, i64 width, bool eight) {
  release_next();
  wait_for_previous();
  for (i64 t = blockIdx.x; t < batch.tokens; t += gridDim.x) {
    bool const active = batch.slot[sequence_of(batch, t)] >= 0;
    i64 const from = active ? ids[t] * table_stride : 0;
    for (i64 n = threadIdx.x; n < (eight ? width / 8 : width); n += blockDim.x) {
      if (eight) {
        store_eight(x, x_type, t * x_stride + 8 * n,
                    active ? load_eight(table, table_type, from + 8 * n) : Float8{});
      } else {
        store_one(x, x_type, t * x_stride + n, active ? load_one(table, table_type, from + n) : 0.0f);
      }
    }
  }
}

/// y[i] = x[rows[i]], one block per row.
template <class = void>
__global__ void gather_rows(void const* x, i64 x_stride, DType x_type, std::int64_t const* rows, void* y,
                            i64 y_stride, DType y_type, i64 count, i64 width, bool eight) {
  release_next();
  wait_for_previous();
  for (i64 r = blockIdx.x; r < count; r += gridDim.x) {
    i64 const from = rows[r] * x_stride;
    for (i64 n = threadIdx.x; n < (eight ? width / 8 : width); n += blockDim.x) {
      if (eight) {
        store_eight(y, y_type, r * y_stride + 8 * n, load_eight(x, x_type, from + 8 * n));
      } else {
        store_one(y, y_type, r * y_stride + n, load_one(x, x_type, from + n));
      }
    }
  }
}

namespace detail {

inline Grid grid_of_rows(i64 rows, i64 width) {
  int const threads = static_cast<int>(std::clamp<i64>((width / 8 + 31) / 32 * 32, 32, 256));
  return {std::min(rows, max_blocks), threads, 0, 1, true};
}

}  // namespace detail
}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::Embedding, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::Embedding const&, Slot const& table, std::int32_t const* ids,
                  View const& x) {
    cuda::kernel::detail::check_rows("embedding", x, "x", ctx.tokens(), table.extent[1]);
    cuda::launch("embedding", cuda::kernel::detail::grid_of_rows(x.tokens(), x.width()), ctx.backend().stream(),
                 &cuda::kernel::embed<>, ctx.batch(), static_cast<void const*>(table.data), table.stride[0],
                 table.dtype, ids, x.data, x.stride[0], x.dtype, x.width(),
                 cuda::by_eight(table) && cuda::by_eight(x));
  }
};

template <> struct Kernel<op::GatherRows, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::GatherRows const&, View const& x, std::int64_t const* rows, View const& y) {
    cuda::launch("gather_rows", cuda::kernel::detail::grid_of_rows(y.tokens(), y.width()), ctx.backend().stream(),
                 &cuda::kernel::gather_rows<>, static_cast<void const*>(x.data), x.stride[0], x.dtype, rows, y.data,
                 y.stride[0], y.dtype, y.tokens(), y.width(), cuda::by_eight(x) && cuda::by_eight(y));
  }
};

JET_NAMESPACE_END
