/// \file
/// Products of many rows through cuBLASLt: what the backend owns of it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string_view>
#include <type_traits>

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>

JET_CUDA_NAMESPACE_BEGIN

inline void blas_check(cublasStatus_t status, std::string_view what) {
  JET_CHECK(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt: ", what, ": ", cublasLtGetStatusString(status), " (",
            cublasLtGetStatusName(status), ")");
}

/// A cuBLASLt handle and the algorithms chosen so far. Serves one stream at a time. Takes its workspace from the
/// caller and allocates nothing on the device.
class BlasLt {
 public:
  /// Bytes of workspace that products are given: what NVIDIA recommends for Hopper.
  static constexpr i64 workspace_bytes = i64{32} << 20;
  static constexpr i64 workspace_alignment = 256;

  BlasLt() {
    cublasLtHandle_t handle = nullptr;
    blas_check(cublasLtCreate(&handle), "cublasLtCreate");
    handle_.reset(handle);
  }

  /// Queues y = x W^T (+ bias) (+ y): W (n, k), x (rows, k), y (rows, n), all with dense columns. x and W both f32
  /// (computed in fp32, without TF32) or both bf16; y f32 or theirs; bias (n) f32, only with y f32.
  /// Returns false, with nothing queued, if cuBLASLt has no algorithm for this shape.
  bool product(cudaStream_t stream, View const& weight, void const* bias, View const& x, View const& y,
               bool accumulate, void* workspace) {
    Shape const shape{weight.extent[0],
                      x.extent[0],
                      weight.extent[1],
                      weight.stride[0],
                      x.stride[0],
                      y.stride[0],
                      static_cast<i64>(x.dtype),
                      static_cast<i64>(y.dtype),
                      alignment_of(weight.data),
                      alignment_of(x.data),
                      alignment_of(y.data),
                      bias != nullptr ? 1 : 0};
    Plan const& plan = find(shape);
    if (!plan.found) {
      return false;
    }
    if (bias != nullptr) {
      set(plan.operation.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    }
    float const one = 1.0f;
    float const beta = accumulate ? 1.0f : 0.0f;
    blas_check(cublasLtMatmul(handle_.get(), plan.operation.get(), &one, weight.data, plan.a.get(), x.data,
                              plan.b.get(), &beta, y.data, plan.d.get(), y.data, plan.d.get(), &plan.algorithm,
                              workspace, static_cast<std::size_t>(workspace_bytes), stream),
               concat("product of (", shape[1], ", ", shape[2], ") and (", shape[0], ", ", shape[2], ")"));
    return true;
  }

  /// Shapes met so far.
  i64 plans() const { return static_cast<i64>(plans_.size()); }

 private:
  using Shape = std::array<i64, 12>;  // n, rows, k, three strides, two dtypes, three alignments, bias
  template <class T, auto F> struct Destroy {
    void operator()(T* p) const { (void)F(p); }
  };
  template <class P, auto F>
  using Owner = std::unique_ptr<std::remove_pointer_t<P>, Destroy<std::remove_pointer_t<P>, F>>;
  using Layout = Owner<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
  struct Plan {
    bool found = false;
    Owner<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> operation;
    Layout a, b, d;
    cublasLtMatmulAlgo_t algorithm{};
  };
  /// Ragged prompts have many lengths: beyond this many shapes the cache starts anew.
  static constexpr std::size_t most_plans = 4096;

  static i64 alignment_of(void const* p) {
    auto const at = reinterpret_cast<std::uintptr_t>(p);
    return at % 256 == 0 ? 256 : at % 16 == 0 ? 16 : at % 4 == 0 ? 4 : 2;
  }
  static cudaDataType_t cuda_type(i64 dtype) {
    return static_cast<DType>(dtype) == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
  }
  template <class T>
  static void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t which, T value) {
    blas_check(cublasLtMatmulDescSetAttribute(operation, which, &value, sizeof value), "matmul attribute");
  }
  static Layout layout(i64 dtype, i64 rows, i64 columns, i64 stride) {
    cublasLtMatrixLayout_t made = nullptr;
    blas_check(cublasLtMatrixLayoutCreate(&made, cuda_type(dtype), static_cast<std::uint64_t>(rows),
                                          static_cast<std::uint64_t>(columns), stride),
               "matrix layout");
    return Layout(made);
  }

  Plan const& find(Shape const& s) {
    auto const at = plans_.find(s);
    if (at != plans_.end()) {
      return at->second;
    }
    if (plans_.size() >= most_plans) {
      plans_.clear();
    }
    Plan& plan = plans_[s];
    // Row-major y = x W^T is column-major y^T = W x^T: W^T stored with leading dimension k, x^T and y^T as they
    // are.
    cublasLtMatmulDesc_t operation = nullptr;
    blas_check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "matmul description");
    plan.operation.reset(operation);
    set(operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (s[11] != 0) {
      set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
    }
    plan.a = layout(s[6], s[2], s[0], s[3]);
    plan.b = layout(s[6], s[2], s[1], s[4]);
    plan.d = layout(s[7], s[0], s[1], s[5]);
    cublasLtMatmulPreference_t made = nullptr;
    blas_check(cublasLtMatmulPreferenceCreate(&made), "matmul preference");
    Owner<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> const preference(made);
    auto const prefer = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
      blas_check(cublasLtMatmulPreferenceSetAttribute(made, which, &value, sizeof value), "matmul preference");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(workspace_bytes));
    // A sum that is split is added up in fp32, not in the type of y.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<std::uint32_t>(s[8]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<std::uint32_t>(s[9]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<std::uint32_t>(s[10]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<std::uint32_t>(s[10]));
    cublasLtMatmulHeuristicResult_t result{};
    int count = 0;
    cublasStatus_t const status = cublasLtMatmulAlgoGetHeuristic(
        handle_.get(), operation, plan.a.get(), plan.b.get(), plan.d.get(), plan.d.get(), made, 1, &result, &count);
    if (status == CUBLAS_STATUS_SUCCESS && count > 0 && result.state == CUBLAS_STATUS_SUCCESS) {
      plan.found = true;
      plan.algorithm = result.algo;
    }
    return plan;
  }

  Owner<cublasLtHandle_t, cublasLtDestroy> handle_;
  std::map<Shape, Plan> plans_;
};

JET_CUDA_NAMESPACE_END
