// C = A B^T in dot-product form. See x86.hpp for how this file is included.
//
// Both operands are contiguous along k, so nothing is packed: a tile of nt_rows x 4 elements keeps one vector
// accumulator per element, lane l of which sums the products at k = l, l + width, ... in ascending order (pairs of
// them in the bf16 instruction). A last partial vector is filled with zeros. The lanes are then added in one fixed
// tree. Every path below keeps this sequence, whatever the tile: also where k is cut into blocks, the vector
// accumulators are carried over as they are.

/// Lanes of four accumulators added, as one vector: ((x0 + x2) + (x1 + x3)) after fold().
JET_ALWAYS_INLINE __m128 sum_four(V a, V b, V c, V d) {
  __m128 const fa = fold(a), fb = fold(b), fc = fold(c), fd = fold(d);
  __m128 const ab = _mm_add_ps(_mm_unpacklo_ps(fa, fb), _mm_unpackhi_ps(fa, fb));
  __m128 const cd = _mm_add_ps(_mm_unpacklo_ps(fc, fd), _mm_unpackhi_ps(fc, fd));
  return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

/// To the second-level cache: into the first, 14 GB/s of bf16 weights instead of 20 arrive (Zen 4, one thread).
template <class S> JET_ALWAYS_INLINE void prefetch(S const* p) {
  _mm_prefetch(static_cast<char const*>(static_cast<void const*>(p)), _MM_HINT_T1);
}

/// Numbers of a tile's sums, in whole vectors.
inline constexpr int nt_sums = (nt_rows * 4 + width - 1) / width * width;

/// One tile's work on k elements: rows a + r * lda against the four rows b[0..3].
template <class A, class B> struct NtTile {
  i64 k;
  A const* a;
  i64 lda;
  B const* b[4];
  float* carry;  // accumulators between blocks of k, or null
  bool first, last;
  float* sums;  // [rows][4] (room for nt_sums), written by the last block where there is no c
  float* c;     // where the last block's finished sums go: alpha sums + bias (may be null), rows ldc apart
  i64 ldc;
  float alpha;
  float const* bias;
  i64 ahead;  // elements of B from here to what to fetch meanwhile, or 0
};

template <int Rows, class A, class B> void nt_tile(NtTile<A, B> const& t) {
  constexpr bool pairs = native_bf16 && std::is_same_v<A, bf16> && std::is_same_v<B, bf16>;
  constexpr int step = pairs ? 2 * width : width;
  V acc[Rows][4];
  JET_UNROLL
  for (int r = 0; r < Rows; ++r) {
    JET_UNROLL
    for (int j = 0; j < 4; ++j) {
      acc[r][j] = t.first ? zero() : load(t.carry + (r * 4 + j) * width);
    }
  }
  i64 const k = t.k;
  i64 const lda = t.lda;
  A const* const a = t.a;
  B const* const b0 = t.b[0];
  B const* const b1 = t.b[1];
  B const* const b2 = t.b[2];
  B const* const b3 = t.b[3];
  i64 const ahead = t.ahead;
  i64 p = 0;
  for (; p + step <= k; p += step) {
    if (ahead != 0) {
      prefetch(b0 + p + ahead);
      prefetch(b1 + p + ahead);
      prefetch(b2 + p + ahead);
      prefetch(b3 + p + ahead);
    }
    V right[4];
    if constexpr (pairs) {
      right[0] = load_pairs(b0 + p);
      right[1] = load_pairs(b1 + p);
      right[2] = load_pairs(b2 + p);
      right[3] = load_pairs(b3 + p);
    } else {
      right[0] = load(b0 + p);
      right[1] = load(b1 + p);
      right[2] = load(b2 + p);
      right[3] = load(b3 + p);
    }
    JET_UNROLL
    for (int r = 0; r < Rows; ++r) {
      if constexpr (pairs) {
        V const left = load_pairs(a + r * lda + p);
        JET_UNROLL
        for (int j = 0; j < 4; ++j) {
          acc[r][j] = fma_pairs(left, right[j], acc[r][j]);
        }
      } else {
        V const left = load(a + r * lda + p);
        JET_UNROLL
        for (int j = 0; j < 4; ++j) {
          acc[r][j] = fma(left, right[j], acc[r][j]);
        }
      }
    }
  }
  if (p < k) {
    i64 const rest = k - p;
    V right[4];
    JET_UNROLL
    for (int j = 0; j < 4; ++j) {
      if constexpr (pairs) {
        right[j] = load_pairs_tail(t.b[j] + p, rest);
      } else {
        right[j] = load_tail(t.b[j] + p, rest);
      }
    }
    JET_UNROLL
    for (int r = 0; r < Rows; ++r) {
      JET_UNROLL
      for (int j = 0; j < 4; ++j) {
        if constexpr (pairs) {
          acc[r][j] = fma_pairs(load_pairs_tail(a + r * lda + p, rest), right[j], acc[r][j]);
        } else {
          acc[r][j] = fma(load_tail(a + r * lda + p, rest), right[j], acc[r][j]);
        }
      }
    }
  }
  if (!t.last) {
    JET_UNROLL
    for (int r = 0; r < Rows; ++r) {
      JET_UNROLL
      for (int j = 0; j < 4; ++j) {
        store(t.carry + (r * 4 + j) * width, acc[r][j]);
      }
    }
    return;
  }
  int r = 0;
  if constexpr (width == 16) {
    V const alpha = set(t.alpha);
    V const bias = t.bias != nullptr ? repeat_four(t.bias) : zero();
    if constexpr (Rows >= 4) {
      V const sums = sum_rows(acc[0], acc[1], acc[2], acc[3]);
      if (t.c != nullptr) {
        V const value = fma(alpha, sums, bias);
        store_part<0>(t.c, value);
        store_part<1>(t.c + t.ldc, value);
        store_part<2>(t.c + 2 * t.ldc, value);
        store_part<3>(t.c + 3 * t.ldc, value);
      } else {
        store(t.sums, sums);
      }
      r = 4;
    }
    if constexpr (Rows % 4 == 2) {
      V const sums = sum_rows(acc[Rows - 2], acc[Rows - 1]);
      if (t.c != nullptr) {
        V const value = fma(alpha, sums, bias);
        store_part<0>(t.c + r * t.ldc, value);
        store_part<1>(t.c + (r + 1) * t.ldc, value);
      } else {
        store(t.sums + r * 4, sums);
      }
      r += 2;
    }
  }
  __m128 const alpha = _mm_set1_ps(t.alpha);
  __m128 const bias = t.bias != nullptr ? _mm_loadu_ps(t.bias) : _mm_setzero_ps();
  JET_UNROLL
  for (; r < Rows; ++r) {
    __m128 const sums = sum_four(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
    if (t.c != nullptr) {
      _mm_storeu_ps(t.c + r * t.ldc, _mm_fmadd_ps(alpha, sums, bias));
    } else {
      _mm_storeu_ps(t.sums + r * 4, sums);
    }
  }
}

/// `rows` is what a call of nt_any can do of `left` rows: nt_rows, else the largest power of two.
inline int nt_rows_of(i64 left) {
  return left >= nt_rows ? nt_rows : left >= 4 && nt_rows > 4 ? 4 : left >= 2 ? 2 : 1;
}
template <class A, class B> void nt_any(int rows, NtTile<A, B> const& t) {
  if (rows == nt_rows) {
    nt_tile<nt_rows>(t);
  } else if (rows == 4) {
    if constexpr (nt_rows > 4) {
      nt_tile<4>(t);
    }
  } else if (rows == 2) {
    nt_tile<2>(t);
  } else {
    nt_tile<1>(t);
  }
}

/// alpha, bias, beta and the rounding, on `count` <= 4 elements of one row of C.
template <class C> void nt_finish(GemmNt<float> const& g, float const* sums, i64 i, i64 j, i64 count) {
  C* const c = static_cast<C*>(g.c) + i * g.ldc + j;
  V value = load_tail(sums, 4);
  value = fma(set(g.alpha), value, g.bias != nullptr ? load_tail(g.bias + j, count) : zero());
  if (g.beta != 0.0f) {
    value = fma(set(g.beta), load_tail(c, count), value);
  }
  store_tail(c, value, count);
}

/// Where a tile of columns j and up of C can put its sums itself, it is told to.
template <class C, class A, class B>
JET_ALWAYS_INLINE void nt_aim(GemmNt<float> const& g, NtTile<A, B>& t, i64 i, i64 j, i64 count) {
  if (std::is_same_v<C, float> && count == 4 && g.beta == 0.0f) {
    t.c = static_cast<float*>(g.c) + i * g.ldc + j;
    t.ldc = g.ldc;
    t.alpha = g.alpha;
    t.bias = g.bias != nullptr ? g.bias + j : nullptr;
  } else {
    t.c = nullptr;
    t.bias = nullptr;
  }
}

/// The tile's sums, finished: rows i and up, columns j and up of C. `sums` has room for whole vectors.
template <class C>
JET_ALWAYS_INLINE void nt_finish_tile(GemmNt<float> const& g, float const* sums, int rows, i64 i, i64 j,
                                      i64 count) {
  if (count < 4 || g.beta != 0.0f) {
    for (int r = 0; r < rows; ++r) {
      nt_finish<C>(g, sums + r * 4, i + r, j, count);
    }
    return;
  }
  V const alpha = set(g.alpha);
  V const bias = g.bias != nullptr ? repeat_four(g.bias + j) : zero();
  C finished[nt_sums];
  JET_UNROLL
  for (int at = 0; at < nt_sums; at += width) {
    store(finished + at, fma(alpha, load(sums + at), bias));
  }
  C* c = static_cast<C*>(g.c) + i * g.ldc + j;
  for (int r = 0; r < rows; ++r) {
    std::memcpy(static_cast<void*>(c), static_cast<void const*>(finished + r * 4), 4 * sizeof(C));
    c += g.ldc;
  }
}

/// bf16 to float, in whole rows of a block.
JET_ALWAYS_INLINE void widen_row(i64 n, bf16 const* x, float* y) {
  i64 i = 0;
  for (; i + width <= n; i += width) {
    store(y + i, load(x + i));
  }
  if (i < n) {
    store_tail(y + i, load_tail(x + i, n - i), n - i);
  }
}

/// Many rows: blocks of k, so that a tile's rows of A stay in the first-level cache while a block of B's rows,
/// which stays in the second level, passes.
template <class A, class B, class C> void nt_blocked(GemmNt<float> const& g) {
  constexpr bool widened = widen_blocks && std::is_same_v<B, bf16>;
  using Wide = std::conditional_t<widened, float, B>;
  NtScratch const scratch = nt_scratch();
  float sums[nt_sums] = {};
  NtTile<A, Wide> t{};
  t.lda = g.lda;
  t.sums = sums;
  // Blocks of k of one length, in whole vectors.
  constexpr i64 most = nt_block_bytes / static_cast<i64>(sizeof(A) + sizeof(Wide));
  i64 const blocks = (g.k + most - 1) / most;
  i64 const block = blocks <= 1 ? g.k : ((g.k + blocks - 1) / blocks + 31) / 32 * 32;
  for (i64 i0 = 0; i0 < g.m; i0 += nt_block_m) {
    i64 const i1 = i0 + nt_block_m < g.m ? i0 + nt_block_m : g.m;
    for (i64 j0 = 0; j0 < g.n; j0 += nt_block_n) {
      i64 const j1 = j0 + nt_block_n < g.n ? j0 + nt_block_n : g.n;
      i64 p = 0;
      do {
        t.first = p == 0;
        t.last = p + block >= g.k;
        t.k = t.last ? g.k - p : block;
        B const* const b = static_cast<B const*>(g.b) + j0 * g.ldb + p;
        Wide const* wide;
        i64 stride;
        if constexpr (widened) {
          for (i64 j = 0; j < j1 - j0; ++j) {
            widen_row(t.k, b + j * g.ldb, scratch.widened + j * block);
          }
          wide = scratch.widened;
          stride = block;
        } else {
          wide = b;
          stride = g.ldb;
        }
        float* carry = scratch.carry;
        for (i64 i = i0; i < i1;) {
          int const rows = nt_rows_of(i1 - i);
          t.a = static_cast<A const*>(g.a) + i * g.lda + p;
          for (i64 j = j0; j < j1; j += 4) {
            i64 const count = j1 - j < 4 ? j1 - j : 4;
            for (i64 q = 0; q < 4; ++q) {
              // Past the end the last row is used again and its sums are dropped.
              t.b[q] = wide + ((q < count ? j + q : j1 - 1) - j0) * stride;
            }
            t.carry = carry;
            carry += rows * 4 * width;
            nt_aim<C>(g, t, i, j, count);
            nt_any(rows, t);
            if (t.last && t.c == nullptr) {
              nt_finish_tile<C>(g, sums, rows, i, j, count);
            }
          }
          i += rows;
        }
        p += block;
      } while (p < g.k);
    }
  }
}

/// Few rows: one pass over B at the speed of memory; while four rows of it are used, later ones are fetched: the
/// next four, or, where rows are short, as many as make about two thousand elements.
template <class A, class B, class C> void nt_streamed(GemmNt<float> const& g) {
  float sums[nt_sums] = {};
  NtTile<A, B> t{};
  t.lda = g.lda;
  t.sums = sums;
  t.first = t.last = true;
  t.k = g.k;
  i64 const rows_ahead = g.k < 256 ? 4 * (2048 / (4 * (g.k + 1))) : 4;
  for (i64 j = 0; j < g.n; j += 4) {
    i64 const count = g.n - j < 4 ? g.n - j : 4;
    for (i64 q = 0; q < 4; ++q) {
      t.b[q] = static_cast<B const*>(g.b) + (q < count ? j + q : g.n - 1) * g.ldb;
    }
    t.ahead = j + rows_ahead + 4 <= g.n ? rows_ahead * g.ldb : 0;
    for (i64 i = 0; i < g.m;) {
      int const rows = nt_rows_of(g.m - i);
      t.a = static_cast<A const*>(g.a) + i * g.lda;
      nt_aim<C>(g, t, i, j, count);
      nt_any(rows, t);
      if (t.c == nullptr) {
        nt_finish_tile<C>(g, sums, rows, i, j, count);
      }
      t.ahead = 0;
      i += rows;
    }
  }
}

template <class A, class B, class C> void gemm_nt(GemmNt<float> const& g) {
  if (g.m > 2 * nt_rows) {
    nt_blocked<A, B, C>(g);
  } else {
    nt_streamed<A, B, C>(g);
  }
}
