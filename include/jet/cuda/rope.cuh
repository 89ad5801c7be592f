/// \file
/// Rotary positions (op/rope.hpp).
#pragma once

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/batch.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/fwd.hpp>
#include <jet/op/rope.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Frequencies of the pairs of a head, computed on the host: the same doubles as the CPU's.
struct RopeFrequencies {
  static constexpr i64 most = 256;
  double inv_freq[most];
};

/// cos and sin of every token's position, angles in double. table (tokens, 2 * half) f32, dense.
template <class = void>
__global__ void rope_table(BatchView const batch, RopeFrequencies const f, i64 half, float* table, i64 stride) {
  release_next();
  wait_for_previous();
  i64 const all = batch.tokens * half;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < all; n += i64{gridDim.x} * blockDim.x) {
    i64 const t = n / half;
    i64 const m = n % half;
    i64 const s = sequence_of(batch, t);
    double const position = static_cast<double>(batch.position[s] + t - batch.cu_seqlens[s]);
    double sine;
    double cosine;
    sincos(position * f.inv_freq[m], &sine, &cosine);
    table[t * stride + m] = static_cast<float>(cosine);
    table[t * stride + half + m] = static_cast<float>(sine);
  }
}

/// Rotates every head of x (tokens, heads * 2 half) f32 in place, one pair per thread.
template <class = void>
__global__ void rope(float const* table, i64 table_stride, float* x, i64 x_stride, i64 tokens, i64 heads,
                     i64 half) {
  release_next();
  wait_for_previous();
  i64 const per_token = heads * half;
  i64 const all = tokens * per_token;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < all; n += i64{gridDim.x} * blockDim.x) {
    i64 const t = n / per_token;
    i64 const m = n % half;
    float const cosine = table[t * table_stride + m];
    float const sine = table[t * table_stride + half + m];
    float* const at = x + t * x_stride + n % per_token / half * 2 * half + m;
    float const a = at[0];
    float const b = at[half];
    at[0] = a * cosine - b * sine;
    at[half] = b * cosine + a * sine;
  }
}

/// Queries or keys of rotate_heads.
struct HeadRows {
  float* x;           // (tokens, heads * head)
  float const* norm;  // (head) or null
  i64 stride, heads;
};

/// HeadNorm (where there is a weight) and Rope of queries and keys in place, one warp per token and head. `room` in
/// shared memory holds a head per warp.
template <class = void>
__global__ void rotate_heads(float const* table, i64 table_stride, HeadRows const q, HeadRows const k, i64 tokens,
                             int head, float eps) {
  extern __shared__ float room[];
  release_next();
  wait_for_previous();
  int const lane = static_cast<int>(threadIdx.x) % warp_size;
  float* const mine = room + static_cast<int>(threadIdx.x) / warp_size * head;
  int const half = head / 2;
  i64 const heads = q.heads + k.heads;
  i64 const warps = i64{gridDim.x} * (blockDim.x / warp_size);
  for (i64 n = (blockIdx.x * i64{blockDim.x} + threadIdx.x) / warp_size; n < tokens * heads; n += warps) {
    i64 const t = n / heads;
    bool const query = n % heads < q.heads;
    HeadRows const& rows = query ? q : k;
    float* const x = rows.x + t * rows.stride + (n % heads - (query ? 0 : q.heads)) * head;
    float sum = 0;
    for (int i = lane; i < head; i += warp_size) {
      float const value = x[i];
      mine[i] = value;
      sum += value * value;
    }
    float const scale = rows.norm == nullptr ? 1.0f : rsqrtf(warp_sum(sum) / static_cast<float>(head) + eps);
    __syncwarp();
    for (int m = lane; m < half; m += warp_size) {
      float a = mine[m];
      float b = mine[half + m];
      if (rows.norm != nullptr) {
        a = rows.norm[m] * (a * scale);
        b = rows.norm[half + m] * (b * scale);
      }
      float const cosine = table[t * table_stride + m];
      float const sine = table[t * table_stride + half + m];
      x[m] = a * cosine - b * sine;
      x[half + m] = b * cosine + a * sine;
    }
    __syncwarp();
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::RopeTable, tag::cuda> {
  template <class B> static void run(Context<B>& ctx, op::RopeTable const& op, View const& table) {
    i64 const half = op.head / 2;
    JET_CHECK(half <= cuda::kernel::RopeFrequencies::most, "CUDA: rope_table: a head of ", op.head, ", at most ",
              2 * cuda::kernel::RopeFrequencies::most, " is possible");
    cuda::kernel::RopeFrequencies f{};
    for (i64 m = 0; m < half; ++m) {
      f.inv_freq[m] = rope_inv_freq(op.rope, op.head, m);
    }
    cuda::launch("rope_table", cuda::kernel::detail::grid_over(ctx.tokens() * half, 128), ctx.backend().stream(),
                 &cuda::kernel::rope_table<>, ctx.batch(), f, half, table.as<float>(), table.stride[0]);
  }
};

template <> struct Kernel<op::Rope, tag::cuda> {
  template <class B> static void run(Context<B>& ctx, op::Rope const& op, View const& table, View const& x) {
    cuda::kernel::detail::check_rows("rope", x, "x", x.tokens(), op.heads * op.head);
    i64 const half = op.head / 2;
    cuda::launch("rope", cuda::kernel::detail::grid_over(x.tokens() * op.heads * half, 128), ctx.backend().stream(),
                 &cuda::kernel::rope<>, static_cast<float const*>(table.as<float>()), table.stride[0],
                 x.as<float>(), x.stride[0], x.tokens(), op.heads, half);
  }
};

template <> struct Kernel<op::RotateHeads, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::RotateHeads const& op, View const& table, Slot const& q_norm,
                  Slot const& k_norm, View const& q, View const& k) {
    cuda::kernel::detail::check_rows("rotate_heads", q, "q", q.tokens(), op.heads * op.head);
    cuda::kernel::detail::check_rows("rotate_heads", k, "k", q.tokens(), op.kv_heads * op.head);
    auto const rows = [](View const& x, Slot const& norm, i64 heads) {
      return cuda::kernel::HeadRows{x.as<float>(), norm ? norm.as<float>() : nullptr, x.stride[0], heads};
    };
    int const threads = 128;
    cuda::Grid grid =
        cuda::kernel::detail::grid_over(q.tokens() * (op.heads + op.kv_heads) * cuda::warp_size, threads);
    grid.shared_bytes = threads / cuda::warp_size * op.head * i64{sizeof(float)};
    cuda::launch("rotate_heads", grid, ctx.backend().stream(), &cuda::kernel::rotate_heads<>,
                 static_cast<float const*>(table.as<float>()), table.stride[0], rows(q, q_norm, op.heads),
                 rows(k, k_norm, op.kv_heads), q.tokens(), static_cast<int>(op.head), static_cast<float>(op.eps));
  }
};

JET_NAMESPACE_END
