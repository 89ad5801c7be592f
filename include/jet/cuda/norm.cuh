/// \file
/// Norms and residual additions (op/norm.hpp), except those of the linear-attention blocks.
#pragma once

#include <algorithm>

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/backend.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/fwd.hpp>
#include <jet/op/norm.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// A row kernel's tensors: rows of `width` numbers, row strides in elements.
struct NormRows {
  void const* delta;  // null: nothing is added
  void* x;
  void const* weight;
  void* y;
  i64 delta_stride, x_stride, y_stride;
  DType delta_type, x_type, weight_type, y_type;
  i64 rows, width;
  float eps;
};

/// x += delta, rounded to x's type, when there is a delta; then y = w * x / sqrt(mean(x^2) + eps), one block per
/// row (arXiv 1910.07467). Statistics in fp32 of the stored sum, one rounding on store. A row's result depends on
/// the row and on the launch's shape, which depends on the width alone. y may be x. Any width, type and stride.
/// Cost: reads x twice (the second time from cache), writes y once.
template <class = void> __global__ void norm_rows_any(NormRows const a) {
  release_next();
  wait_for_previous();
  __shared__ float partial[max_warps];
  for (i64 row = blockIdx.x; row < a.rows; row += gridDim.x) {
    i64 const x0 = row * a.x_stride;
    float sum = 0;
    for (i64 i = threadIdx.x; i < a.width; i += blockDim.x) {
      float value = load_one(a.x, a.x_type, x0 + i);
      if (a.delta != nullptr) {
        value = rounded_to(a.x_type, value + load_one(a.delta, a.delta_type, row * a.delta_stride + i));
        store_one(a.x, a.x_type, x0 + i, value);
      }
      sum += value * value;
    }
    float const scale = rsqrtf(block_sum(sum, partial) / static_cast<float>(a.width) + a.eps);
    for (i64 i = threadIdx.x; i < a.width; i += blockDim.x) {
      float const value = load_one(a.x, a.x_type, x0 + i);
      store_one(a.y, a.y_type, row * a.y_stride + i, load_one(a.weight, a.weight_type, i) * (value * scale));
    }
  }
}

/// The same with eight numbers at a time (by_eight) and the row in registers: widths up to Pieces * 8 * blockDim.x.
template <int Pieces> __global__ void __launch_bounds__(1024) norm_rows(NormRows const a) {
  __shared__ float partial[max_warps];
  release_next();
  auto const column = [](int piece) {
    return 8 * (static_cast<i64>(threadIdx.x) + piece * static_cast<i64>(blockDim.x));
  };
  Float8 weight[Pieces];
  JET_UNROLL
  for (int p = 0; p < Pieces; ++p) {
    if (column(p) < a.width) {
      weight[p] = load_eight(a.weight, a.weight_type, column(p));
    }
  }
  wait_for_previous();
  for (i64 row = blockIdx.x; row < a.rows; row += gridDim.x) {
    Float8 value[Pieces];
    float sum = 0;
    JET_UNROLL
    for (int p = 0; p < Pieces; ++p) {
      i64 const i = column(p);
      if (i < a.width) {
        value[p] = load_eight(a.x, a.x_type, row * a.x_stride + i);
        if (a.delta != nullptr) {
          Float8 const d = load_eight(a.delta, a.delta_type, row * a.delta_stride + i);
          JET_UNROLL
          for (int e = 0; e < 8; ++e) {
            value[p].v[e] = rounded_to(a.x_type, value[p].v[e] + d.v[e]);
          }
          store_eight(a.x, a.x_type, row * a.x_stride + i, value[p]);
        }
        JET_UNROLL
        for (int e = 0; e < 8; ++e) {
          sum += value[p].v[e] * value[p].v[e];
        }
      }
    }
    float const scale = rsqrtf(block_sum(sum, partial) / static_cast<float>(a.width) + a.eps);
    JET_UNROLL
    for (int p = 0; p < Pieces; ++p) {
      i64 const i = column(p);
      if (i < a.width) {
        JET_UNROLL
        for (int e = 0; e < 8; ++e) {
          value[p].v[e] = weight[p].v[e] * (value[p].v[e] * scale);
        }
        store_eight(a.y, a.y_type, row * a.y_stride + i, value[p]);
      }
    }
  }
}

/// x += delta, rounded to x's type. `eight`: the views allow eight numbers at a time.
template <class = void> __global__ void add_rows(NormRows const a, bool eight) {
  release_next();
  wait_for_previous();
  i64 const step = eight ? 8 : 1;
  i64 const per_row = a.width / step;
  i64 const all = a.rows * per_row;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < all; n += i64{gridDim.x} * blockDim.x) {
    i64 const row = n / per_row;
    i64 const i = n % per_row * step;
    i64 const x = row * a.x_stride + i;
    i64 const d = row * a.delta_stride + i;
    if (eight) {
      Float8 value = load_eight(a.x, a.x_type, x);
      Float8 const delta = load_eight(a.delta, a.delta_type, d);
      JET_UNROLL
      for (int e = 0; e < 8; ++e) {
        value.v[e] += delta.v[e];
      }
      store_eight(a.x, a.x_type, x, value);
    } else {
      store_one(a.x, a.x_type, x, load_one(a.x, a.x_type, x) + load_one(a.delta, a.delta_type, d));
    }
  }
}

/// RMSNorm of each head in place, one warp per (token, head).
///   x (tokens, heads * head) f32, row stride x_stride;  w (head) f32
template <class = void>
__global__ void head_norm(float* x, i64 x_stride, float const* w, i64 tokens, i64 heads, i64 head, float eps) {
  release_next();
  wait_for_previous();
  int const lane = static_cast<int>(threadIdx.x) % warp_size;
  i64 const warps = i64{gridDim.x} * (blockDim.x / warp_size);
  for (i64 n = (blockIdx.x * i64{blockDim.x} + threadIdx.x) / warp_size; n < tokens * heads; n += warps) {
    float* const row = x + n / heads * x_stride + n % heads * head;
    float sum = 0;
    for (i64 i = lane; i < head; i += warp_size) {
      sum += row[i] * row[i];
    }
    float const scale = rsqrtf(warp_sum(sum) / static_cast<float>(head) + eps);
    for (i64 i = lane; i < head; i += warp_size) {
      row[i] = w[i] * (row[i] * scale);
    }
  }
}

namespace detail {

inline void check_rows(char const* name, View const& view, char const* what, i64 rows, i64 width) {
  JET_CHECK(view.rank == 2 && view.extent[0] == rows && view.extent[1] == width, "CUDA: ", name, ": ", what,
            " must have the shape (", rows, ", ", width, ")");
  JET_CHECK(view.stride[1] == 1 || width <= 1, "CUDA: ", name, ": ", what, " has a stride of ", view.stride[1],
            " between columns, expected 1");
  JET_CHECK(view.dtype == DType::f32 || view.dtype == DType::bf16, "CUDA: ", name, ": ", what, " has dtype ",
            name_of(view.dtype), ", expected f32 or bf16");
}

/// A grid for work of `items` threads, each of which strides.
inline Grid grid_over(i64 items, int threads) {
  return {std::min<i64>((items + threads - 1) / threads, 1 << 16), threads, 0, 1, true};
}

}  // namespace detail

/// Queues x += delta (a null delta adds nothing) and y = norm(x) on `stream`. Each of weight, delta, x and y may be
/// f32 or bf16; delta, x and y (rows, width) may have any row stride; weight (width). Throws jet::Error on other
/// shapes and dtypes.
template <class = void>
void add_rms_norm(cudaStream_t stream, float eps, View const& weight, View const& delta, View const& x,
                  View const& y) {
  JET_CHECK(x.rank == 2, "CUDA: rms_norm: x has rank ", x.rank, ", expected (tokens, width)");
  i64 const rows = x.extent[0];
  i64 const width = x.extent[1];
  detail::check_rows("rms_norm", x, "x", rows, width);
  detail::check_rows("rms_norm", y, "y", rows, width);
  if (delta) {
    detail::check_rows("rms_norm", delta, "delta", rows, width);
  }
  JET_CHECK(weight.rank == 1 && weight.extent[0] == width && (weight.stride[0] == 1 || width <= 1),
            "CUDA: rms_norm: weight must be a vector of ", width, " elements");
  JET_CHECK(weight.dtype == DType::f32 || weight.dtype == DType::bf16, "CUDA: rms_norm: weight has dtype ",
            name_of(weight.dtype), ", expected f32 or bf16");
  if (rows == 0 || width == 0) {
    return;
  }
  NormRows const a{delta.data,  x.data,      weight.data, y.data,  delta.stride[0],
                   x.stride[0], y.stride[0], delta.dtype, x.dtype, weight.dtype,
                   y.dtype,     rows,        width,       eps};
  bool const eight = by_eight(x) && by_eight(y) && by_eight(weight) && (!delta || by_eight(delta));
  // Full warps, and few numbers for each thread: the choice depends on the width alone.
  if (eight && width <= 8 * 1024) {
    int const threads = static_cast<int>((width / 8 + warp_size - 1) / warp_size) * warp_size;
    launch("rms_norm", {std::min(rows, max_blocks), threads, 0, 1, true}, stream, &norm_rows<1>, a);
  } else if (eight && width <= 4 * 8 * 1024) {
    launch("rms_norm", {std::min(rows, max_blocks), 1024, 0, 1, true}, stream, &norm_rows<4>, a);
  } else {
    int const threads = width <= 128 ? 32 : width <= 1024 ? 128 : width <= 4096 ? 256 : 512;
    launch("rms_norm", {std::min(rows, max_blocks), threads, 0, 1, true}, stream, &norm_rows_any<>, a);
  }
}
template <class = void>
void rms_norm(cudaStream_t stream, float eps, View const& weight, View const& x, View const& y) {
  add_rms_norm(stream, eps, weight, View{}, x, y);
}

/// Queues x += delta on `stream`, both (rows, width) of f32 or bf16 with any row stride.
template <class = void> void add(cudaStream_t stream, View const& delta, View const& x) {
  JET_CHECK(x.rank == 2, "CUDA: add: x has rank ", x.rank, ", expected (tokens, width)");
  detail::check_rows("add", x, "x", x.extent[0], x.extent[1]);
  detail::check_rows("add", delta, "delta", x.extent[0], x.extent[1]);
  NormRows a{};
  a.delta = delta.data;
  a.x = x.data;
  a.delta_stride = delta.stride[0];
  a.x_stride = x.stride[0];
  a.delta_type = delta.dtype;
  a.x_type = x.dtype;
  a.rows = x.extent[0];
  a.width = x.extent[1];
  bool const eight = by_eight(x) && by_eight(delta);
  launch("add", detail::grid_over(x.numel() / (eight ? 8 : 1), 256), stream, &add_rows<>, a, eight);
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::RmsNorm, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::RmsNorm const& op, Slot const& weight, View const& x, View const& y) {
    // A product of few rows of y may follow that forms them itself: a launch less, in a chain of short ones.
    auto const rows = [&](View const& v) {
      return v.dtype == DType::bf16 && v.rank == 2 && v.extent[0] == x.extent[0] && v.extent[1] == x.extent[1] &&
             cuda::by_eight(v);
    };
    if (rows(x) && rows(y) && x.data != y.data && cuda::can_be_normed_first(x.tokens()) && x.width() <= 8 * 1024 &&
        weight.dtype == DType::f32 && weight.rank == 1 && weight.extent[0] == x.extent[1] &&
        cuda::by_eight(weight)) {
      float const eps = static_cast<float>(op.eps);
      ctx.backend().put_off_norm({x.as<bf16>(), y.as<bf16>(), weight.as<float>(), x.stride[0], y.stride[0], eps},
                                 [=](cudaStream_t stream) { cuda::kernel::rms_norm(stream, eps, weight, x, y); });
      return;
    }
    cuda::kernel::rms_norm(ctx.backend().stream(), static_cast<float>(op.eps), weight, x, y);
  }
};

template <> struct Kernel<op::AddRmsNorm, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::AddRmsNorm const& op, Slot const& weight, View const& delta, View const& x,
                  View const& y) {
    // A product of few rows that was put off adds them itself.
    if (x.dtype == DType::bf16 && delta.dtype == DType::bf16 && x.rank == 2 && delta.rank == 2 &&
        delta.extent[0] == x.extent[0] && delta.extent[1] == x.extent[1] && x.stride[1] == 1 &&
        ctx.backend().add_put_off(delta.data, x.as<bf16>(), x.stride[0])) {
      Kernel<op::RmsNorm, tag::cuda>::run(ctx, {op.eps}, weight, x, y);
      return;
    }
    cuda::kernel::add_rms_norm(ctx.backend().stream(), static_cast<float>(op.eps), weight, delta, x, y);
  }
};

template <> struct Kernel<op::Add, tag::cuda> {
  template <class B> static void run(Context<B>& ctx, op::Add const&, View const& delta, View const& x) {
    cuda::kernel::add(ctx.backend().stream(), delta, x);
  }
};

template <> struct Kernel<op::HeadNorm, tag::cuda> {
  template <class B> static void run(Context<B>& ctx, op::HeadNorm const& op, Slot const& weight, View const& x) {
    cuda::kernel::detail::check_rows("head_norm", x, "x", x.tokens(), op.heads * op.head);
    cuda::launch("head_norm", cuda::kernel::detail::grid_over(x.tokens() * op.heads * cuda::warp_size, 128),
                 ctx.backend().stream(), &cuda::kernel::head_norm<>, x.as<float>(), x.stride[0],
                 static_cast<float const*>(weight.as<float>()), x.tokens(), op.heads, op.head,
                 static_cast<float>(op.eps));
  }
};

JET_NAMESPACE_END
