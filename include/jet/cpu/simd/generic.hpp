/// \file
/// The generic kernel table: plain loops, any processor, any accumulation type. It is the reference for the other
/// tables, the only table for double, and the fallback for float.
///
/// Products keep the promise of table.hpp by construction: gemm_nt sums over `lanes` interleaved partial sums in
/// ascending k, then adds those in one fixed tree; gemm_nn adds in ascending k. Inner loops have constant trip
/// counts, so that compilers vectorise them at -O2 without being allowed to reorder a sum.
///
/// Operands are read and written with memcpy: data mapped from a file may start at any byte.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include <jet/cpu/simd/table.hpp>

JET_NAMESPACE_BEGIN
namespace cpu::generic {

inline constexpr int lanes = 8;

/// Element i of an array of Storage, as T.
template <class Storage, class T> JET_ALWAYS_INLINE T get(void const* data, i64 i) {
  Storage value;
  std::memcpy(&value, static_cast<char const*>(data) + i * static_cast<i64>(sizeof(Storage)), sizeof(Storage));
  if constexpr (std::is_same_v<Storage, bf16>) {
    return static_cast<T>(static_cast<float>(value));
  } else {
    return value;
  }
}

template <class Storage, class T> JET_ALWAYS_INLINE void put(void* data, i64 i, T value) {
  auto const stored = static_cast<Storage>(value);
  std::memcpy(static_cast<char*>(data) + i * static_cast<i64>(sizeof(Storage)), &stored, sizeof(Storage));
}

template <class Storage> void const* at(void const* data, i64 i) {
  return static_cast<char const*>(data) + i * static_cast<i64>(sizeof(Storage));
}

/// The fixed tree over partial sums.
template <class T> T sum_lanes(T const* p) {
  return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
}

/// sum_k A[r,k] b[k] for `Rows` rows of A.
template <class T, class A, class B, int Rows>
void dot_rows(i64 k, void const* a, i64 lda, void const* b, T* sums) {
  T partial[Rows][lanes] = {};
  i64 p = 0;
  for (; p + lanes <= k; p += lanes) {
    T right[lanes];
    for (int l = 0; l < lanes; ++l) {
      right[l] = get<B, T>(b, p + l);
    }
    for (int r = 0; r < Rows; ++r) {
      void const* const row = at<A>(a, r * lda + p);
      for (int l = 0; l < lanes; ++l) {
        partial[r][l] += get<A, T>(row, l) * right[l];
      }
    }
  }
  for (int l = 0; p < k; ++p, ++l) {
    for (int r = 0; r < Rows; ++r) {
      partial[r][l] += get<A, T>(a, r * lda + p) * get<B, T>(b, p);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    sums[r] = sum_lanes(partial[r]);
  }
}

template <class T, class A, class B, class C> void gemm_nt(GemmNt<T> const& g) {
  constexpr int rows = 4;
  // Blocks of A's rows that stay in the second-level cache while all of B passes.
  constexpr i64 block = 64;
  for (i64 i0 = 0; i0 < g.m; i0 += block) {
    i64 const i1 = i0 + block < g.m ? i0 + block : g.m;
    for (i64 j = 0; j < g.n; ++j) {
      void const* const b = at<B>(g.b, j * g.ldb);
      for (i64 i = i0; i < i1;) {
        T sums[rows];
        int const count = i + rows <= i1 ? rows : 1;
        if (count == rows) {
          dot_rows<T, A, B, rows>(g.k, at<A>(g.a, i * g.lda), g.lda, b, sums);
        } else {
          dot_rows<T, A, B, 1>(g.k, at<A>(g.a, i * g.lda), g.lda, b, sums);
        }
        for (int r = 0; r < count; ++r, ++i) {
          T value = g.alpha * sums[r];
          if (g.bias != nullptr) {
            value += get<T, T>(g.bias, j);
          }
          if (g.beta != T(0)) {
            value += g.beta * get<C, T>(g.c, i * g.ldc + j);
          }
          put<C>(g.c, i * g.ldc + j, value);
        }
      }
    }
  }
}

template <class T, class B> void gemm_nn(GemmNn<T> const& g) {
  constexpr i64 block = 32;
  for (i64 j = 0; j < g.n; j += block) {
    i64 const width = j + block <= g.n ? block : g.n - j;
    for (i64 i = 0; i < g.m; ++i) {
      T sums[block] = {};
      for (i64 p = 0; p < g.k; ++p) {
        T const left = get<T, T>(g.a, i * g.a_row + p * g.a_col);
        void const* const b = at<B>(g.b, p * g.ldb + j);
        if (width == block) {
          for (i64 l = 0; l < block; ++l) {
            sums[l] += left * get<B, T>(b, l);
          }
        } else {
          for (i64 l = 0; l < width; ++l) {
            sums[l] += left * get<B, T>(b, l);
          }
        }
      }
      for (i64 l = 0; l < width; ++l) {
        T value = g.alpha * sums[l];
        if (g.beta != T(0)) {
          value += g.beta * get<T, T>(g.c, i * g.ldc + j + l);
        }
        put<T>(g.c, i * g.ldc + j + l, value);
      }
    }
  }
}

template <class T, class S> void transpose(i64 rows, i64 columns, void const* x, i64 ldx, T* y, i64 ldy) {
  for (i64 c = 0; c < columns; ++c) {
    for (i64 r = 0; r < rows; ++r) {
      put<T>(y, c * ldy + r, get<S, T>(x, r * ldx + c));
    }
  }
}

template <class T> void to_bf16(i64 n, T const* x, bf16* y) {
  for (i64 i = 0; i < n; ++i) {
    put<bf16>(y, i, get<T, T>(x, i));
  }
}
template <class T> void from_bf16(i64 n, bf16 const* x, T* y) {
  for (i64 i = 0; i < n; ++i) {
    put<T>(y, i, get<bf16, T>(x, i));
  }
}

/// 1 / (1 + e^-x) without overflow, so that tiny results keep their digits.
template <class T> T sigmoid_of(T x) {
  T const e = std::exp(-std::abs(x));
  return (x < T(0) ? e : T(1)) / (T(1) + e);
}

template <class T> void exp(i64 n, T const* x, T* y) {
  for (i64 i = 0; i < n; ++i) {
    put<T>(y, i, std::exp(get<T, T>(x, i)));
  }
}
template <class T> void sigmoid(i64 n, T const* x, T* y) {
  for (i64 i = 0; i < n; ++i) {
    put<T>(y, i, sigmoid_of(get<T, T>(x, i)));
  }
}
template <class T> void silu(i64 n, T const* x, T* y) {
  for (i64 i = 0; i < n; ++i) {
    T const value = get<T, T>(x, i);
    put<T>(y, i, value * sigmoid_of(value));
  }
}
template <class T> void softplus(i64 n, T const* x, T* y) {
  for (i64 i = 0; i < n; ++i) {
    T const value = get<T, T>(x, i);
    // The comparison is false for a NaN, which then stays one.
    put<T>(y, i, (value < T(0) ? T(0) : value) + std::log1p(std::exp(-std::abs(value))));
  }
}
template <class T> void silu_mul(i64 n, T const* x, T const* z, T* y) {
  for (i64 i = 0; i < n; ++i) {
    T const value = get<T, T>(x, i);
    put<T>(y, i, value * sigmoid_of(value) * get<T, T>(z, i));
  }
}
template <class T> void add(i64 n, T const* x, T const* z, T* y) {
  for (i64 i = 0; i < n; ++i) {
    put<T>(y, i, get<T, T>(x, i) + get<T, T>(z, i));
  }
}
template <class T> void scale(i64 n, T a, T const* x, T* y) {
  for (i64 i = 0; i < n; ++i) {
    put<T>(y, i, a * get<T, T>(x, i));
  }
}
template <class T> void axpy(i64 n, T a, T const* x, T* y) {
  for (i64 i = 0; i < n; ++i) {
    put<T>(y, i, get<T, T>(y, i) + a * get<T, T>(x, i));
  }
}
template <class T> void mul_scale(i64 n, T a, T const* x, T const* w, T* y) {
  for (i64 i = 0; i < n; ++i) {
    put<T>(y, i, (a * get<T, T>(x, i)) * get<T, T>(w, i));
  }
}

template <class T> T dot(i64 n, T const* x, T const* y) {
  T sum;
  dot_rows<T, T, T, 1>(n, x, 0, y, &sum);
  return sum;
}
template <class T> T sum_squares(i64 n, T const* x) {
  return dot(n, x, x);
}
template <class T> T max(i64 n, T const* x) {
  T largest = -std::numeric_limits<T>::infinity();
  for (i64 i = 0; i < n; ++i) {
    T const value = get<T, T>(x, i);
    largest = value > largest ? value : largest;
  }
  return largest;
}
template <class T> T exp_sum(i64 n, T shift, T const* x, T* y) {
  T partial[lanes] = {};
  for (i64 i = 0; i < n; ++i) {
    T const e = std::exp(get<T, T>(x, i) - shift);
    put<T>(y, i, e);
    partial[i % lanes] += e;
  }
  return sum_lanes(partial);
}

template <class T> void rope(i64 half, T const* cos, T const* sin, T* x) {
  for (i64 i = 0; i < half; ++i) {
    T const first = get<T, T>(x, i);
    T const second = get<T, T>(x, i + half);
    T const c = get<T, T>(cos, i);
    T const s = get<T, T>(sin, i);
    put<T>(x, i, first * c - second * s);
    put<T>(x, i + half, second * c + first * s);
  }
}

template <class T> void conv(i64 n, int taps, T const* const* x, T const* w, T const* bias, T* y) {
  for (i64 c = 0; c < n; ++c) {
    T sum = bias != nullptr ? get<T, T>(bias, c) : T(0);
    for (int i = 0; i < taps; ++i) {
      sum += get<T, T>(w, c * taps + i) * get<T, T>(x[i], c);
    }
    put<T>(y, c, sum);
  }
}

template <class T> void scan_step(ScanStep<T> const& s) {
  for (i64 c = 0; c < s.head_v; ++c) {
    put<T>(s.u, c, T(0));
    put<T>(s.o, c, T(0));
  }
  for (i64 r = 0; r < s.head_k; ++r) {
    T* const row = s.state + r * s.head_v;
    T const decay = get<T, T>(s.decay, s.decay_channel ? r : 0);
    T const key = get<T, T>(s.k, r);
    for (i64 c = 0; c < s.head_v; ++c) {
      T const decayed = decay * get<T, T>(row, c);
      put<T>(row, c, decayed);
      put<T>(s.u, c, get<T, T>(s.u, c) + key * decayed);
    }
  }
  for (i64 c = 0; c < s.head_v; ++c) {
    T const value = get<T, T>(s.v, c);
    put<T>(s.u, c, s.delta ? s.beta * (value - get<T, T>(s.u, c)) : s.beta * value);
  }
  for (i64 r = 0; r < s.head_k; ++r) {
    T* const row = s.state + r * s.head_v;
    T const key = get<T, T>(s.k, r);
    T const query = get<T, T>(s.q, r);
    for (i64 c = 0; c < s.head_v; ++c) {
      T const updated = get<T, T>(row, c) + key * get<T, T>(s.u, c);
      put<T>(row, c, updated);
      put<T>(s.o, c, get<T, T>(s.o, c) + query * updated);
    }
  }
  scale(s.head_v, s.scale, s.o, s.o);
}

/// The whole table.
template <class T> constexpr KernelTable<T> table() {
  KernelTable<T> t;
  t.isa = Isa::generic;
  t.gemm_nt[0][0][0] = gemm_nt<T, T, T, T>;
  t.gemm_nt[0][0][1] = gemm_nt<T, T, T, bf16>;
  t.gemm_nt[0][1][0] = gemm_nt<T, T, bf16, T>;
  t.gemm_nt[0][1][1] = gemm_nt<T, T, bf16, bf16>;
  t.gemm_nt[1][0][0] = gemm_nt<T, bf16, T, T>;
  t.gemm_nt[1][0][1] = gemm_nt<T, bf16, T, bf16>;
  t.gemm_nt[1][1][0] = gemm_nt<T, bf16, bf16, T>;
  t.gemm_nt[1][1][1] = gemm_nt<T, bf16, bf16, bf16>;
  t.gemm_nn[0] = gemm_nn<T, T>;
  t.gemm_nn[1] = gemm_nn<T, bf16>;
  t.transpose[0] = transpose<T, T>;
  t.transpose[1] = transpose<T, bf16>;
  t.to_bf16 = to_bf16<T>;
  t.from_bf16 = from_bf16<T>;
  t.exp = exp<T>;
  t.sigmoid = sigmoid<T>;
  t.silu = silu<T>;
  t.softplus = softplus<T>;
  t.silu_mul = silu_mul<T>;
  t.add = add<T>;
  t.scale = scale<T>;
  t.axpy = axpy<T>;
  t.mul_scale = mul_scale<T>;
  t.dot = dot<T>;
  t.sum_squares = sum_squares<T>;
  t.max = max<T>;
  t.exp_sum = exp_sum<T>;
  t.rope = rope<T>;
  t.conv = conv<T>;
  t.scan_step = scan_step<T>;
  return t;
}

}  // namespace cpu::generic
JET_NAMESPACE_END
