/// \file
/// Norms and gates of the linear-attention blocks (op/norm.hpp, op/gated_scan.hpp), a warp per token and head.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include <jet/core/context.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/scan_call.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/fwd.hpp>
#include <jet/op/gated_scan.hpp>
#include <jet/op/norm.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Elements [n, n + 4) of a head, zeros behind its end; `four`: heads are multiples of 4 long, 16-byte aligned.
__device__ inline void load_group(float (&to)[4], float const* head_row, int n, int head, bool four) {
  if (four) {
    float4 const x = n < head ? *reinterpret_cast<float4 const*>(head_row + n) : float4{0, 0, 0, 0};
    to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
  } else {
    JET_UNROLL
    for (int e = 0; e < 4; ++e) {
      to[e] = n + e < head ? head_row[n + e] : 0.0f;
    }
  }
}
__device__ inline void store_group(void* row, DType type, i64 at, float const (&from)[4], int n, int head,
                                   bool four) {
  if (four && n < head && type == DType::f32) {
    *reinterpret_cast<float4*>(static_cast<float*>(row) + at + n) = make_float4(from[0], from[1], from[2], from[3]);
  } else if (four && n < head && type == DType::bf16) {
    *reinterpret_cast<uint2*>(static_cast<bf16*>(row) + at + n) = {pack_bf16(from[0], from[1]),
                                                                   pack_bf16(from[2], from[3])};
  } else {
    JET_UNROLL
    for (int e = 0; e < 4; ++e) {
      if (n + e < head) {
        store_one(row, type, at + n + e, from[e]);
      }
    }
  }
}

/// x = x / sqrt(sum(x^2) + eps) per head, in place, after silu if `with_silu`. x (tokens, heads * head).
template <class = void>
__global__ void l2_norm(float* x, i64 x_stride, i64 tokens, int heads, int head, float eps, bool with_silu,
                        bool four) {
  release_next();
  wait_for_previous();
  i64 const warps = i64{gridDim.x} * (blockDim.x / warp_size);
  for (i64 n = (blockIdx.x * i64{blockDim.x} + threadIdx.x) / warp_size; n < tokens * heads; n += warps) {
    float* const row = x + n / heads * x_stride + n % heads * head;
    float sum = 0;
    for (int i = 0; i < head_groups(head); ++i) {
      float v[4];
      load_group(v, row, head_element(i, 0), head, four);
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        v[e] = with_silu ? silu(v[e]) : v[e];
        sum = __fmaf_rn(v[e], v[e], sum);
      }
    }
    float const scale = l2_scale(warp_sum(sum), eps);
    for (int i = 0; i < head_groups(head); ++i) {
      float v[4];
      load_group(v, row, head_element(i, 0), head, four);
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        v[e] = __fmul_rn(with_silu ? silu(v[e]) : v[e], scale);
      }
      store_group(row, DType::f32, 0, v, head_element(i, 0), head, four);
    }
  }
}

/// The arguments of gated_rms_norm: x, z (tokens, heads * head), w (head) or, gate first, (heads * head).
struct GatedRows {
  float const* x;
  float const* z;
  float const* w;
  void* y;
  i64 x_stride, z_stride, y_stride, tokens;
  int heads, head;
  float eps;
  DType y_type;
  bool gate_first, four;
};

/// y = w * rms(x) * silu(z) per head, or y = w * rms(x * silu(z)).
template <class = void> __global__ void gated_rms_norm(GatedRows const a) {
  release_next();
  wait_for_previous();
  i64 const warps = i64{gridDim.x} * (blockDim.x / warp_size);
  for (i64 n = (blockIdx.x * i64{blockDim.x} + threadIdx.x) / warp_size; n < a.tokens * a.heads; n += warps) {
    i64 const row = n / a.heads;
    i64 const first = n % a.heads * a.head;
    float const* const x = a.x + row * a.x_stride + first;
    float const* const z = a.z + row * a.z_stride + first;
    float const* const w = a.w + (a.gate_first ? first : 0);
    auto const load = [&](int i, float(&v)[4], float(&gate)[4]) {
      int const at = head_element(i, 0);
      load_group(v, x, at, a.head, a.four);
      load_group(gate, z, at, a.head, a.four);
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        gate[e] = silu(gate[e]);
        v[e] = a.gate_first ? __fmul_rn(v[e], gate[e]) : v[e];
      }
    };
    float sum = 0;
    for (int i = 0; i < head_groups(a.head); ++i) {
      float v[4];
      float gate[4];
      load(i, v, gate);
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        sum = __fmaf_rn(v[e], v[e], sum);
      }
    }
    float const scale = rms_scale(warp_sum(sum), a.head, a.eps);
    for (int i = 0; i < head_groups(a.head); ++i) {
      float v[4];
      float gate[4];
      float weight[4];
      load(i, v, gate);
      int const at = head_element(i, 0);
      load_group(weight, w, at, a.head, a.four);
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        v[e] = a.gate_first ? __fmul_rn(weight[e], __fmul_rn(v[e], scale)) : gated(v[e], scale, weight[e], gate[e]);
      }
      store_group(a.y, a.y_type, row * a.y_stride + first, v, at, a.head, a.four);
    }
  }
}

/// g = -exp(a_log) softplus(a + dt_bias), beta = sigmoid(b), all (tokens, heads).
template <class = void>
__global__ void delta_gates(float const* a, float const* b, float const* a_log, float const* dt_bias, float* g,
                            float* beta, i64 a_stride, i64 b_stride, i64 g_stride, i64 beta_stride, i64 tokens,
                            i64 heads) {
  release_next();
  wait_for_previous();
  i64 const step = i64{gridDim.x} * blockDim.x;
  for (i64 n = blockIdx.x * i64{blockDim.x} + threadIdx.x; n < tokens * heads; n += step) {
    i64 const row = n / heads;
    i64 const h = n % heads;
    g[row * g_stride + h] = log_decay_of(a[row * a_stride + h], a_log[h], dt_bias[h]);
    beta[row * beta_stride + h] = sigmoid(b[row * b_stride + h]);
  }
}

/// Whether rows of heads may be read and written four numbers at a time.
inline bool by_four(View const& view, i64 head) {
  auto const at = reinterpret_cast<std::uintptr_t>(view.data);
  return head % 4 == 0 && at % static_cast<std::uintptr_t>(4 * size_of(view.dtype)) == 0 &&
         (view.rank < 2 || view.stride[0] % 4 == 0);
}
inline void check_f32_rows(char const* name, View const& view, char const* what, i64 rows, i64 width) {
  detail::check_rows(name, view, what, rows, width);
  JET_CHECK(view.dtype == DType::f32, "CUDA: ", name, ": ", what, " has dtype ", name_of(view.dtype),
            ", expected f32");
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::L2Norm, tag::cuda> {
  template <class B> static void run(Context<B>& ctx, op::L2Norm const& op, View const& x) {
    namespace kernel = cuda::kernel;
    kernel::check_f32_rows("l2_norm", x, "x", x.tokens(), op.heads * op.head);
    launch("l2_norm", kernel::detail::grid_over(x.tokens() * op.heads * cuda::warp_size, 128),
           ctx.backend().stream(), &kernel::l2_norm<>, x.as<float>(), x.stride[0], x.tokens(),
           static_cast<int>(op.heads), static_cast<int>(op.head), static_cast<float>(op.eps), op.silu,
           kernel::by_four(x, op.head));
  }
};

template <> struct Kernel<op::GatedRmsNorm, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::GatedRmsNorm const& op, Slot const& weight, View const& x, View const& z,
                  View const& y) {
    namespace kernel = cuda::kernel;
    i64 const width = op.heads * op.head;
    kernel::check_f32_rows("gated_rms_norm", x, "x", x.tokens(), width);
    kernel::check_f32_rows("gated_rms_norm", z, "z", x.tokens(), width);
    kernel::detail::check_rows("gated_rms_norm", y, "y", x.tokens(), width);
    JET_CHECK(weight.numel() == (op.gate_first ? width : op.head), "CUDA: gated_rms_norm: weight has ",
              weight.numel(), " elements, expected ", op.gate_first ? width : op.head);
    bool const four = kernel::by_four(x, op.head) && kernel::by_four(z, op.head) && kernel::by_four(y, op.head) &&
                      kernel::by_four(weight, op.head);
    kernel::GatedRows const rows{x.as<float>(),
                                 z.as<float>(),
                                 weight.as<float>(),
                                 y.data,
                                 x.stride[0],
                                 z.stride[0],
                                 y.stride[0],
                                 x.tokens(),
                                 static_cast<int>(op.heads),
                                 static_cast<int>(op.head),
                                 static_cast<float>(op.eps),
                                 y.dtype,
                                 op.gate_first,
                                 four};
    launch("gated_rms_norm", kernel::detail::grid_over(x.tokens() * op.heads * cuda::warp_size, 128),
           ctx.backend().stream(), &kernel::gated_rms_norm<>, rows);
  }
};

template <> struct Kernel<op::DeltaGates, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::DeltaGates const&, View const& a, View const& b, Slot const& a_log,
                  Slot const& dt_bias, View const& g, View const& beta) {
    namespace kernel = cuda::kernel;
    i64 const heads = a.width();
    for (View const* const v : {&a, &b, &g, &beta}) {
      kernel::check_f32_rows("delta_gates", *v, "a tensor", a.tokens(), heads);
    }
    launch("delta_gates", kernel::detail::grid_over(a.tokens() * heads, 128), ctx.backend().stream(),
           &kernel::delta_gates<>, static_cast<float const*>(a.as<float>()),
           static_cast<float const*>(b.as<float>()), static_cast<float const*>(a_log.as<float>()),
           static_cast<float const*>(dt_bias.as<float>()), g.as<float>(), beta.as<float>(), a.stride[0],
           b.stride[0], g.stride[0], beta.stride[0], a.tokens(), heads);
  }
};

JET_NAMESPACE_END
