// Products of pairs of bf16 whose right side is packed, and what packs it and the left side. See x86.hpp for how
// this file is included: only where products of pairs are an instruction.

/// One tile of C: `Rows` rows and `Vecs` vectors, the last of which has `tail` columns if `Tail`.
struct PairsTile {
  i64 pairs;
  bf16 const* a;
  i64 lda;
  bf16 const* b;
  i64 ldb;  // in numbers, two for each column
  float* c;
  i64 ldc;
  bool accumulate;
  i64 tail;
};

/// A pair of numbers in every lane.
JET_ALWAYS_INLINE V broadcast_pair(bf16 const* p) {
  int bits;
  std::memcpy(&bits, static_cast<void const*>(p), sizeof(bits));
  return _mm512_castsi512_ps(_mm512_set1_epi32(bits));
}

/// Every element: one sum over pairs in ascending order, from 0, added to C afterwards.
template <int Rows, int Vecs, bool Tail> void pairs_tile(PairsTile const& t) {
  V acc[Rows][Vecs];
  JET_UNROLL
  for (int r = 0; r < Rows; ++r) {
    JET_UNROLL
    for (int v = 0; v < Vecs; ++v) {
      acc[r][v] = zero();
    }
  }
  i64 const lda = t.lda;
  i64 const ldb = t.ldb;
  i64 const tail = t.tail;
  bf16 const* a = t.a;
  bf16 const* b = t.b;
  for (i64 p = 0; p < t.pairs; ++p) {
    V right[Vecs];
    JET_UNROLL
    for (int v = 0; v < Vecs; ++v) {
      right[v] =
          Tail && v == Vecs - 1 ? load_pairs_tail(b + v * 2 * width, 2 * tail) : load_pairs(b + v * 2 * width);
    }
    JET_UNROLL
    for (int r = 0; r < Rows; ++r) {
      V const left = broadcast_pair(a + r * lda);
      JET_UNROLL
      for (int v = 0; v < Vecs; ++v) {
        acc[r][v] = fma_pairs(left, right[v], acc[r][v]);
      }
    }
    a += 2;
    b += ldb;
  }
  JET_UNROLL
  for (int r = 0; r < Rows; ++r) {
    JET_UNROLL
    for (int v = 0; v < Vecs; ++v) {
      float* const c = t.c + r * t.ldc + v * width;
      if (Tail && v == Vecs - 1) {
        store_tail(c, t.accumulate ? add(load_tail(c, tail), acc[r][v]) : acc[r][v], tail);
      } else {
        store(c, t.accumulate ? add(load(c), acc[r][v]) : acc[r][v]);
      }
    }
  }
}

template <int Vecs, bool Tail> void pairs_columns(PairsTile t, i64 m) {
  i64 i = 0;
  for (; i + 6 <= m; i += 6) {
    pairs_tile<6, Vecs, Tail>(t);
    t.a += 6 * t.lda;
    t.c += 6 * t.ldc;
  }
  for (; i + 2 <= m; i += 2) {
    pairs_tile<2, Vecs, Tail>(t);
    t.a += 2 * t.lda;
    t.c += 2 * t.ldc;
  }
  if (i < m) {
    pairs_tile<1, Vecs, Tail>(t);
  }
}

inline void gemm_pairs(GemmPairs<float> const& g) {
  PairsTile t{g.pairs, g.a, g.lda, g.b, 2 * g.ldb, g.c, g.ldc, g.accumulate, 0};
  i64 left = g.n;
  while (left > 0) {
    t.tail = (left - 1) % width + 1;
    i64 const vecs = (left + width - 1) / width;
    i64 done = left;
    if (left >= 4 * width) {
      pairs_columns<4, false>(t, g.m);
      done = 4 * width;
    } else if (left == vecs * width) {
      if (vecs == 3) {
        pairs_columns<3, false>(t, g.m);
      } else if (vecs == 2) {
        pairs_columns<2, false>(t, g.m);
      } else {
        pairs_columns<1, false>(t, g.m);
      }
    } else if (vecs == 4) {
      pairs_columns<4, true>(t, g.m);
    } else if (vecs == 3) {
      pairs_columns<3, true>(t, g.m);
    } else if (vecs == 2) {
      pairs_columns<2, true>(t, g.m);
    } else {
      pairs_columns<1, true>(t, g.m);
    }
    t.b += 2 * done;
    t.c += done;
    left -= done;
  }
}

/// x[0] z[0] x[1] z[1] ...
inline void interleave(i64 n, bf16 const* x, bf16 const* z, bf16* y) {
  i64 i = 0;
  for (; i + width <= n; i += width) {
    __m256i const low = _mm256_loadu_si256(static_cast<__m256i const*>(static_cast<void const*>(x + i)));
    __m256i const high = _mm256_loadu_si256(static_cast<__m256i const*>(static_cast<void const*>(z + i)));
    _mm512_storeu_si512(
        static_cast<void*>(y + 2 * i),
        _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16)));
  }
  for (; i < n; ++i) {
    std::memcpy(static_cast<void*>(y + 2 * i), static_cast<void const*>(x + i), sizeof(bf16));
    std::memcpy(static_cast<void*>(y + 2 * i + 1), static_cast<void const*>(z + i), sizeof(bf16));
  }
}

/// e^x rounded to bf16: x / ln 2 = n + r with |r| <= 1 / 2, a polynomial of degree 4 in r interpolated at Chebyshev
/// nodes (relative error 4e-6), times 2^n. 0 below the normal numbers; a NaN stays one.
JET_ALWAYS_INLINE __m256i exp_bf16(V x) {
  x = mul(max(set(-140.0f), x), set(1.44269504f));
  V const n = round(x);
  V const r = sub(x, n);
  V q = set(0.00966636837f);
  q = fma(q, r, set(0.0559219755f));
  q = fma(q, r, set(0.240223497f));
  q = fma(q, r, set(0.693121016f));
  return (__m256i)_mm512_cvtneps_pbh(scale_by_power(fma(q, r, set(1.0f)), n));
}

/// The exponentials are summed as rounded.
inline float exp_sum_bf16(i64 n, float shift, float const* x, bf16* y) {
  V const offset = set(shift);
  V acc = zero();
  i64 i = 0;
  for (; i + width <= n; i += width) {
    __m256i const e = exp_bf16(sub(load(x + i), offset));
    _mm256_storeu_si256(static_cast<__m256i*>(static_cast<void*>(y + i)), e);
    acc = add(acc, widen(e));
  }
  if (i < n) {
    __m256i const e = exp_bf16(sub(load_tail(x + i, n - i), offset));
    _mm256_mask_storeu_epi16(y + i, first_lanes(n - i), e);
    acc = add(acc, keep_first(widen(e), n - i));
  }
  return sum_of(acc);
}
