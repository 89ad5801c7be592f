/// \file
/// What the kernels of the scan (op/gated_scan.hpp) share: their arguments, clusters of blocks, and the arithmetic
/// that must give the same bits wherever it stands: norms and gates of one head.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/op/gated_scan.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// One call of a scan. Rows of tokens have the strides given, in elements; a null pointer is an absent argument.
///   g, beta       as the op has them; or, with `a`, the logits of DeltaGates and its parameters
///   raw           q and k are still to be normalised (after silu if `silu`), eps 1e-6
///   z, weight, y  the gated norm behind the scan; only decode steps apply it themselves
///   qk_type, v_type, o_type  f32, or bf16 where only cuda/scan_hopper.cuh sees the call: what the pointers are to
struct ScanCall {
  float const* q;
  float const* k;
  float const* v;
  float const* g;
  float const* beta;
  float const* a;
  float const* b;
  float const* a_log;
  float const* dt_bias;
  void* state;
  float* o;
  float const* z;
  float const* weight;
  void* y;
  std::int64_t const* cu_seqlens;
  std::int32_t const* slot;
  i64 q_stride, k_stride, v_stride, g_stride, beta_stride, a_stride, b_stride, o_stride, z_stride, y_stride;
  i64 slot_stride, head_stride;
  i64 seqs;
  int heads, head_k, head_v;
  float scale, norm_eps;
  op::Decay decay;
  DType state_type, y_type;
  bool delta, raw, silu;
  DType qk_type = DType::f32, v_type = DType::f32, o_type = DType::f32;
};

inline constexpr float qk_eps = 1e-6f;

// ---- clusters: one block where there are none

__device__ inline int cluster_rank() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
#else
  return 0;
#endif
}
__device__ inline int cluster_size() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  unsigned size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return static_cast<int>(size);
#else
  return 1;
#endif
}
/// The two halves of a barrier of all threads of a cluster; what was written before the first is seen after the
/// second.
__device__ inline void cluster_arrive() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ inline void cluster_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
/// *at = value in the shared memory of another block of the cluster.
__device__ inline void store_in_cluster(float* at, int rank, float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  auto const local = static_cast<unsigned>(__cvta_generic_to_shared(at));
  unsigned remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(remote), "f"(value) : "memory");
#else
  *at = value;
#endif
}

// ---- one head

/// Element e of a lane's i-th group of four: groups of a head go round the lanes of a warp.
__device__ inline int head_element(int i, int e) {
  return 4 * (static_cast<int>(threadIdx.x) % warp_size + warp_size * i) + e;
}
constexpr int head_groups(int head) {
  return (head + 4 * warp_size - 1) / (4 * warp_size);
}

/// The sum of value(i)^2 for i < head, by a whole warp, in every lane; always in the same order.
template <class Value> __device__ float head_sum_squares(int head, Value const& value) {
  float sum = 0;
  for (int i = 0; i < head_groups(head); ++i) {
    JET_UNROLL
    for (int e = 0; e < 4; ++e) {
      int const n = head_element(i, e);
      if (n < head) {
        float const x = value(n);
        sum = __fmaf_rn(x, x, sum);
      }
    }
  }
  return warp_sum(sum);
}

__device__ inline float l2_scale(float sum_squares, float eps) {
  return 1.0f / sqrtf(__fadd_rn(sum_squares, eps));
}
__device__ inline float rms_scale(float sum_squares, int head, float eps) {
  return 1.0f / sqrtf(__fadd_rn(sum_squares / static_cast<float>(head), eps));
}
/// w * (x * scale) * silu(z)
__device__ inline float gated(float x, float scale, float weight, float silu_z) {
  return __fmul_rn(silu_z, __fmul_rn(weight, __fmul_rn(x, scale)));
}

__device__ inline float softplus(float x) {
  return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
}
__device__ inline float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}
__device__ inline float log_decay_of(float a, float a_log, float dt_bias) {
  return __fmul_rn(-expf(a_log), softplus(__fadd_rn(a, dt_bias)));
}

/// The log decay of a head, and beta, of a token row.
__device__ inline float scan_log_decay(ScanCall const& call, i64 row, int head) {
  if (call.a != nullptr) {
    return log_decay_of(call.a[row * call.a_stride + head], call.a_log[head], call.dt_bias[head]);
  }
  return call.g[row * call.g_stride + head];
}
__device__ inline float scan_beta(ScanCall const& call, i64 row, int head) {
  if (call.b != nullptr) {
    return sigmoid(call.b[row * call.b_stride + head]);
  }
  return call.beta != nullptr ? call.beta[row * call.beta_stride + head] : 1.0f;
}

/// A head of a row of q or k, normalised if the call says so, in the registers of a warp: element e of group i is
/// head_element(i, e). Rows are multiples of 4 long and 16-byte aligned.
template <int Head> struct HeadRow {
  static constexpr int groups = head_groups(Head);
  float v[groups][4];

  __device__ void load(float const* row) {
    JET_UNROLL
    for (int i = 0; i < groups; ++i) {
      int const n = head_element(i, 0);
      float4 const x = n < Head ? *reinterpret_cast<float4 const*>(row + n) : float4{0, 0, 0, 0};
      v[i][0] = x.x, v[i][1] = x.y, v[i][2] = x.z, v[i][3] = x.w;
    }
  }
  /// `Fast`: for factors that are rounded to 16 bits afterwards.
  template <bool Fast = false> __device__ void normalise(bool with_silu) {
    float sum = 0;
    JET_UNROLL
    for (int i = 0; i < groups; ++i) {
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        v[i][e] = !with_silu ? v[i][e] : Fast ? fast_silu(v[i][e]) : silu(v[i][e]);
        sum = __fmaf_rn(v[i][e], v[i][e], sum);  // what lies behind the end is 0
      }
    }
    float const scale = l2_scale(warp_sum(sum), qk_eps);
    JET_UNROLL
    for (int i = 0; i < groups; ++i) {
      JET_UNROLL
      for (int e = 0; e < 4; ++e) {
        v[i][e] = __fmul_rn(v[i][e], scale);
      }
    }
  }
};

/// One sequence of a call.
struct ScanSequence {
  i64 begin;
  i64 tokens;
  i64 slot;
  __device__ ScanSequence(ScanCall const& call, i64 i)
      : begin(call.cu_seqlens[i]), tokens(call.cu_seqlens[i + 1] - call.cu_seqlens[i]), slot(call.slot[i]) {}
};

}  // namespace kernel
JET_CUDA_NAMESPACE_END
