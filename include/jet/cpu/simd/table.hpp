/// \file
/// The CPU backend's micro-kernels as one table of function pointers, chosen once at run time by what the machine
/// has. Everything above this table (cpu/*.hpp) is written once over the accumulation type T: float goes through
/// the fastest table, double through the generic one, which is also the reference and the fallback for float.
///
/// Promise kept by every table: an element of a product is computed by one fixed sequence of operations that
/// depends on K alone, not on M, N, the position in a tile, or the number of threads. So the result for a token
/// does not depend, bit for bit, on the batch or the chunk that it is computed in.
#pragma once

#include <string_view>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

/// Instruction sets, weakest first. avx2 is x86-64-v3 (AVX2, FMA, F16C, BMI2); avx512 is F, BW, DQ, VL; avx512_bf16
/// adds vdpbf16ps.
enum class Isa : std::uint8_t { generic, avx2, avx512, avx512_bf16 };

constexpr std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::generic: return "generic";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512_bf16: return "avx512_bf16";
  }
  return "?";
}

/// C[m,n] = alpha * sum_k A[m,k] B[n,k] + bias[n] + beta * C[m,n]; A, B, C row-major with leading dimensions in
/// elements. The shape of every linear layer: y = x W^T + b. `bias` may be null and has type T. beta == 0 does not
/// read C. m, n, k may be 0 (k == 0 means the sum is 0).
template <class T> struct GemmNt {
  i64 m = 0, n = 0, k = 0;
  void const* a = nullptr;
  i64 lda = 0;
  void const* b = nullptr;
  i64 ldb = 0;
  void* c = nullptr;
  i64 ldc = 0;
  T const* bias = nullptr;
  T alpha = 1;
  T beta = 0;
};

/// C[m,n] = alpha * sum_k A(m,k) B[k,n] + beta * C[m,n] with A(m,k) = a[m * a_row + k * a_col] of type T (either
/// stride may be 1: A or A transposed), B row-major, C row-major of type T.
template <class T> struct GemmNn {
  i64 m = 0, n = 0, k = 0;
  T const* a = nullptr;
  i64 a_row = 0, a_col = 1;
  void const* b = nullptr;
  i64 ldb = 0;
  T* c = nullptr;
  i64 ldc = 0;
  T alpha = 1;
  T beta = 0;
};

/// C[m,n] = sum_p (A[m,2p] B[2p,n] + A[m,2p+1] B[2p+1,n]) (+ C[m,n] when `accumulate`): A row-major in bf16, C
/// row-major; B is packed: numbers 2p and 2p+1 of column n lie together at b[2 (p ldb + n)].
template <class T> struct GemmPairs {
  i64 m = 0, n = 0, pairs = 0;
  bf16 const* a = nullptr;
  i64 lda = 0;
  bf16 const* b = nullptr;
  i64 ldb = 0;  // in pairs
  T* c = nullptr;
  i64 ldc = 0;
  bool accumulate = false;
};

/// One token of the recurrence on one head's state S [head_k, head_v] (row stride head_v), in place:
///   S <- diag(decay) S ;  u = delta ? beta (v - S^T k) : beta v ;  S <- S + k u^T ;  o = scale * S^T q
/// `decay` holds multipliers (already exponentiated): decay_channel ? head_k of them : one.
/// `u` is scratch of head_v. o may not alias the inputs.
template <class T> struct ScanStep {
  i64 head_k = 0, head_v = 0;
  T* state = nullptr;
  T const* q = nullptr;
  T const* k = nullptr;
  T const* v = nullptr;
  T const* decay = nullptr;
  bool decay_channel = false;
  bool delta = true;
  T beta = 1;
  T scale = 1;
  T* u = nullptr;
  T* o = nullptr;
};

/// Storage kinds that the typed entries are indexed by: 0 is T itself, 1 is bf16.
inline constexpr int storage_index(DType t) {
  return t == DType::bf16 ? 1 : 0;
}

template <class T> struct KernelTable {
  Isa isa = Isa::generic;

  /// [type of A][type of B][type of C], each T or bf16 (storage_index). bf16 results are rounded to nearest even.
  /// In the avx512_bf16 table, A and B both bf16 use vdpbf16ps; every other pair expands to T exactly.
  void (*gemm_nt[2][2][2])(GemmNt<T> const&) = {};
  /// [type of B]
  void (*gemm_nn[2])(GemmNn<T> const&) = {};

  /// y[c * ldy + r] = x[r * ldx + c] for `rows` rows and `columns` columns of x: T (32-bit patterns stay as they
  /// are) or bf16, which is widened.
  void (*transpose[2])(i64 rows, i64 columns, void const* x, i64 ldx, T* y, i64 ldy) = {};

  // Products of pairs of bf16 with a packed right side: null where those are no instruction.
  void (*gemm_pairs)(GemmPairs<T> const&) = nullptr;
  void (*interleave)(i64 n, bf16 const* x, bf16 const* z, bf16* y) = nullptr;  // x[0] z[0] x[1] z[1] ...
  /// y = exp(x - shift) rounded, returns the sum of y. y may begin where x begins.
  T (*exp_sum_bf16)(i64 n, T shift, T const* x, bf16* y) = nullptr;

  void (*to_bf16)(i64 n, T const* x, bf16* y) = nullptr;    // round to nearest even, NaN stays NaN
  void (*from_bf16)(i64 n, bf16 const* x, T* y) = nullptr;  // exact

  // Element-wise; x and y may be the same array. Relative error at most a few ulp over the whole range; results for
  // infinities and NaN as in the formula; large negative inputs give 0 (exp), -0 or tiny (silu), never NaN.
  void (*exp)(i64 n, T const* x, T* y) = nullptr;
  void (*sigmoid)(i64 n, T const* x, T* y) = nullptr;                     // 1 / (1 + e^-x)
  void (*silu)(i64 n, T const* x, T* y) = nullptr;                        // x / (1 + e^-x)
  void (*softplus)(i64 n, T const* x, T* y) = nullptr;                    // max(x, 0) + log1p(e^-|x|)
  void (*silu_mul)(i64 n, T const* x, T const* z, T* y) = nullptr;        // y = silu(x) * z
  void (*add)(i64 n, T const* x, T const* z, T* y) = nullptr;             // y = x + z
  void (*scale)(i64 n, T a, T const* x, T* y) = nullptr;                  // y = a x
  void (*axpy)(i64 n, T a, T const* x, T* y) = nullptr;                   // y = y + a x
  void (*mul_scale)(i64 n, T a, T const* x, T const* w, T* y) = nullptr;  // y = (a x) * w

  // Reductions, in one fixed order that depends on n alone.
  T (*dot)(i64 n, T const* x, T const* y) = nullptr;
  T (*sum_squares)(i64 n, T const* x) = nullptr;
  T (*max)(i64 n, T const* x) = nullptr;  // -infinity for n == 0; not NaN-propagating
  /// y = exp(x - shift), returns the sum of y. x and y may be the same array.
  T (*exp_sum)(i64 n, T shift, T const* x, T* y) = nullptr;

  /// rotate-half RoPE on one head in place: (x[i], x[i+half]) <- (x[i] c - x[i+half] s, x[i+half] c + x[i] s).
  void (*rope)(i64 half, T const* cos, T const* sin, T* x) = nullptr;

  /// Causal depthwise convolution at one token over n channels: y[c] = sum_i w[c * taps + i] x[i][c] (+ bias[c]);
  /// x[0] is the oldest row, x[taps-1] the current token. bias may be null. No activation.
  void (*conv)(i64 n, int taps, T const* const* x, T const* w, T const* bias, T* y) = nullptr;

  void (*scan_step)(ScanStep<T> const&) = nullptr;
};

/// The table for an instruction set. float: any Isa that this build and this machine have (an Isa that is not
/// available is refused with jet::Error by `Cpu`); double: always the generic table.
template <class T> KernelTable<T> const& kernels(Isa isa);

}  // namespace cpu
JET_NAMESPACE_END
