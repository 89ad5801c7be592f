/// \file
/// What kernels of matrix products (op/linear.hpp) share: their arguments and how a sum is stored.
#pragma once

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/backend.cuh>
#include <jet/cuda/vector.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// One projection of a launch.
struct Product {
  void const* weight;  // (n, k)
  void const* up;      // (n, k) of a gated product: y = silu(x weight^T) * (x up^T)
  float const* bias;   // (n) or null
  void* y;             // (rows, n)
  i64 weight_stride, up_stride, y_stride, n;
  i64 first_tile;  // of the grid's x
  DType y_type;
};

/// Projections of one input x (rows, k).
struct Products {
  static constexpr int most = 8;
  Product part[most];
  int count;
  int tile;  // outputs of a tile
  void const* x;
  i64 x_stride, rows, k, tiles;
  bool accumulate;
  NormFirst norm;  // norm.y is x, formed first; null: x is there
  bf16* sum;       // (rows, n) of the only part, whose y is bf16: y is added to it, too; null: nothing
  i64 sum_stride;
};

/// Which projection a tile belongs to.
__device__ inline int part_of(Products const& a, i64 tile) {
  int p = 0;
  while (p + 1 < a.count && tile >= a.part[p + 1].first_tile) {
    ++p;
  }
  return p;
}

__device__ inline void store_sum(Products const& a, Product const& p, i64 row, i64 n, float sum) {
  i64 const at = row * p.y_stride + n;
  sum += p.bias != nullptr ? p.bias[n] : 0.0f;
  sum += a.accumulate ? load_one(p.y, p.y_type, at) : 0.0f;
  store_one(p.y, p.y_type, at, sum);
  if (a.sum != nullptr) {
    bf16& to = a.sum[row * a.sum_stride + n];
    to = bf16(float(to) + float(bf16(sum)));
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
