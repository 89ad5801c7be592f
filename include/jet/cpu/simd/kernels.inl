// Everything but gemm_nt, over the vector vocabulary. See x86.hpp for how this file is included.
// No lambdas: g++ does not put them under the target of their surroundings.

// ---- C = A B
// ------------------------------------------------------------------------------------------------------

/// One tile of C: `Rows` rows and `Vecs` vectors, the last of which has `tail` columns if `Tail`.
template <class B> struct NnTile {
  i64 k;
  float const* a;
  i64 a_row, a_col;
  B const* b;
  i64 ldb;
  float* c;
  i64 ldc;
  float alpha, beta;
  i64 tail;
  bool first, last;  // of the blocks of k; between them C holds the sums
};

template <bool Tail, class S> JET_ALWAYS_INLINE V load_if(S const* p, i64 tail) {
  if constexpr (Tail) {
    return load_tail(p, tail);
  } else {
    return load(p);
  }
}
template <bool Tail> JET_ALWAYS_INLINE void store_if(float* p, V x, i64 tail) {
  if constexpr (Tail) {
    store_tail(p, x, tail);
  } else {
    store(p, x);
  }
}
/// *p in every lane; p may be at any byte.
JET_ALWAYS_INLINE V broadcast(float const* p) {
  float value;
  std::memcpy(&value, static_cast<void const*>(p), sizeof(value));
  return set(value);
}
JET_ALWAYS_INLINE float scalar(float const* p) {
  float value;
  std::memcpy(&value, static_cast<void const*>(p), sizeof(value));
  return value;
}

/// Every element: a fused multiply-add per k in ascending order, from 0.
template <int Rows, int Vecs, bool Tail, class B> void nn_tile(NnTile<B> const& t) {
  V acc[Rows][Vecs];
  JET_UNROLL
  for (int r = 0; r < Rows; ++r) {
    JET_UNROLL
    for (int v = 0; v < Vecs; ++v) {
      float const* const c = t.c + r * t.ldc + v * width;
      acc[r][v] = t.first ? zero() : v == Vecs - 1 ? load_if<Tail>(c, t.tail) : load(c);
    }
  }
  i64 const a_row = t.a_row;
  i64 const a_col = t.a_col;
  i64 const ldb = t.ldb;
  i64 const tail = t.tail;
  float const* a = t.a;
  B const* b = t.b;
  for (i64 p = 0; p < t.k; ++p) {
    if constexpr (Rows <= 4) {  // as fast as memory, where rows of B lie far apart
      JET_UNROLL
      for (int at = 0; at < Vecs * width; at += 64 / static_cast<int>(sizeof(B))) {
        prefetch(b + 16 * ldb + at);
      }
    }
    V right[Vecs];
    JET_UNROLL
    for (int v = 0; v < Vecs; ++v) {
      right[v] = v == Vecs - 1 ? load_if<Tail>(b + v * width, tail) : load(b + v * width);
    }
    JET_UNROLL
    for (int r = 0; r < Rows; ++r) {
      V const left = broadcast(a + r * a_row);
      JET_UNROLL
      for (int v = 0; v < Vecs; ++v) {
        acc[r][v] = fma(left, right[v], acc[r][v]);
      }
    }
    a += a_col;
    b += ldb;
  }
  JET_UNROLL
  for (int r = 0; r < Rows; ++r) {
    JET_UNROLL
    for (int v = 0; v < Vecs; ++v) {
      float* const c = t.c + r * t.ldc + v * width;
      V value = acc[r][v];
      if (t.last) {
        value = mul(set(t.alpha), value);
        if (t.beta != 0.0f) {
          value = fma(set(t.beta), v == Vecs - 1 ? load_if<Tail>(c, tail) : load(c), value);
        }
      }
      if (v == Vecs - 1) {
        store_if<Tail>(c, value, tail);
      } else {
        store(c, value);
      }
    }
  }
}

template <int Vecs, bool Tail, class B> void nn_columns(NnTile<B> t, i64 m) {
  i64 i = 0;
  for (; i + nn_rows <= m; i += nn_rows) {
    nn_tile<nn_rows, Vecs, Tail>(t);
    t.a += nn_rows * t.a_row;
    t.c += nn_rows * t.ldc;
  }
  if constexpr (nn_rows > 4) {
    if (i + 4 <= m) {
      nn_tile<4, Vecs, Tail>(t);
      t.a += 4 * t.a_row;
      t.c += 4 * t.ldc;
      i += 4;
    }
  }
  if (i + 2 <= m) {
    nn_tile<2, Vecs, Tail>(t);
    t.a += 2 * t.a_row;
    t.c += 2 * t.ldc;
    i += 2;
  }
  if (i < m) {
    nn_tile<1, Vecs, Tail>(t);
  }
}

template <class B> void gemm_nn(GemmNn<float> const& g) {
  // Blocks of k keep a panel of B in the second-level cache. Between blocks the sums wait in C, which is exact, but
  // possible only where C's old contents are not needed.
  i64 const block = g.beta == 0.0f && g.k > 0 ? nn_block_k : g.k;
  i64 p = 0;
  do {
    NnTile<B> t{};
    t.first = p == 0;
    t.last = p + block >= g.k;
    t.k = t.last ? g.k - p : block;
    t.a_row = g.a_row;
    t.a_col = g.a_col;
    t.ldb = g.ldb;
    t.ldc = g.ldc;
    t.alpha = g.alpha;
    t.beta = g.beta;
    for (i64 j = 0; j < g.n;) {
      i64 const left = g.n - j;
      t.a = g.a + p * g.a_col;
      t.b = static_cast<B const*>(g.b) + p * g.ldb + j;
      t.c = g.c + j;
      if (left >= 3 * width) {
        nn_columns<3, false>(t, g.m);
        j += 3 * width;
      } else if (left == 2 * width) {
        nn_columns<2, false>(t, g.m);
        j += 2 * width;
      } else if (left > 2 * width) {
        t.tail = left - 2 * width;
        nn_columns<3, true>(t, g.m);
        j += left;
      } else if (left == width) {
        nn_columns<1, false>(t, g.m);
        j += left;
      } else if (left > width) {
        t.tail = left - width;
        nn_columns<2, true>(t, g.m);
        j += left;
      } else {
        t.tail = left;
        nn_columns<1, true>(t, g.m);
        j += left;
      }
    }
    p += block;
  } while (p < g.k);
}

// ---- transposition
// -----------------------------------------------------------------------------------------------

template <class S> void transpose(i64 rows, i64 columns, void const* from, i64 ldx, float* y, i64 ldy) {
  S const* const x = static_cast<S const*>(from);
  for (i64 r = 0; r < rows; r += width) {
    i64 const high = rows - r < width ? rows - r : width;
    for (i64 c = 0; c < columns; c += width) {
      i64 const wide = columns - c < width ? columns - c : width;
      V block[width];
      if (high == width && wide == width) {
        JET_UNROLL
        for (int i = 0; i < width; ++i) {
          block[i] = load(x + (r + i) * ldx + c);
        }
        transpose_block(block);
        JET_UNROLL
        for (int i = 0; i < width; ++i) {
          store(y + (c + i) * ldy + r, block[i]);
        }
      } else {
        for (int i = 0; i < width; ++i) {
          block[i] = i < high ? load_tail(x + (r + i) * ldx + c, wide) : zero();
        }
        transpose_block(block);
        for (int i = 0; i < wide; ++i) {
          store_tail(y + (c + i) * ldy + r, block[i], high);
        }
      }
    }
  }
}

// ---- elementary functions
// -----------------------------------------------------------------------------------------

/// e^x: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial of degree 6 in r interpolated at Chebyshev nodes
/// (relative error 1e-8), times 2^n. Gradual underflow and overflow are right; a NaN stays one.
JET_ALWAYS_INLINE V exp_of(V x) {
  x = min(set(89.0f), max(set(-105.0f), x));
  V const n = round(mul(x, set(1.44269504f)));
  V r = fnma(n, set(0.693147182f), x);
  r = fnma(n, set(-1.90465421e-9f), r);
  V q = set(0.00139269266f);
  q = fma(q, r, set(0.00836377387f));
  q = fma(q, r, set(0.0416665501f));
  q = fma(q, r, set(0.166665734f));
  q = fma(q, r, set(0.5f));
  return scale_by_power(add(fma(mul(r, r), q, r), set(1.0f)), n);
}

/// log(1 + t) for t in [0, 1]: 1 + t = 2^h (1 + f) with h in {0, 1} and f in [-0.293, 0.415], log(1 + f) =
/// 2 atanh(s) with s = f / (2 + f).
JET_ALWAYS_INLINE V log1p_of(V t) {
  V const one = set(1.0f);
  V const bound = set(0.41421356f);
  V const f = select_less(bound, t, mul(sub(t, one), set(0.5f)), t);
  V const s = div(f, add(set(2.0f), f));
  V const z = mul(s, s);
  V q = set(2.0f / 9.0f);
  q = fma(q, z, set(2.0f / 7.0f));
  q = fma(q, z, set(2.0f / 5.0f));
  q = fma(q, z, set(2.0f / 3.0f));
  // 2 s = f - s f, so that f, which is exact, carries the leading digits.
  V const small = fnma(s, sub(f, mul(z, q)), f);
  return add(small, select_less(bound, t, set(0.693147182f), zero()));
}

/// 1 / (1 + e^-x) by e^-|x|, so that nothing overflows and tiny results keep their digits.
JET_ALWAYS_INLINE V sigmoid_of(V x) {
  V const one = set(1.0f);
  V const e = exp_of(sub(zero(), abs(x)));
  return div(select_less(x, zero(), e, one), add(one, e));
}

struct ExpOp {
  JET_ALWAYS_INLINE V operator()(V x) const { return exp_of(x); }
};
struct SigmoidOp {
  JET_ALWAYS_INLINE V operator()(V x) const { return sigmoid_of(x); }
};
struct SiluOp {
  JET_ALWAYS_INLINE V operator()(V x) const { return mul(x, sigmoid_of(x)); }
  JET_ALWAYS_INLINE V operator()(V x, V z) const { return mul(mul(x, sigmoid_of(x)), z); }
};
struct SoftplusOp {
  JET_ALWAYS_INLINE V operator()(V x) const {
    // max(0, x) is x for a NaN
    return add(max(zero(), x), log1p_of(exp_of(sub(zero(), abs(x)))));
  }
};
struct AddOp {
  JET_ALWAYS_INLINE V operator()(V x, V z) const { return add(x, z); }
};
struct ScaleOp {
  float a;
  JET_ALWAYS_INLINE V operator()(V x) const { return mul(set(a), x); }
};
struct AxpyOp {
  float a;
  JET_ALWAYS_INLINE V operator()(V x, V y) const { return fma(set(a), x, y); }
};
struct MulScaleOp {
  float a;
  JET_ALWAYS_INLINE V operator()(V x, V w) const { return mul(mul(set(a), x), w); }
};
struct CopyOp {
  JET_ALWAYS_INLINE V operator()(V x) const { return x; }
};

/// y[i] = op(x[i]...) over arrays that may be the same.
template <class Op, class Y, class... X> JET_ALWAYS_INLINE void map(Op op, i64 n, Y* y, X const*... x) {
  i64 i = 0;
  for (; i + width <= n; i += width) {
    store(y + i, op(load(x + i)...));
  }
  if (i < n) {
    store_tail(y + i, op(load_tail(x + i, n - i)...), n - i);
  }
}

inline void to_bf16(i64 n, float const* x, bf16* y) {
  map(CopyOp{}, n, y, x);
}
inline void from_bf16(i64 n, bf16 const* x, float* y) {
  map(CopyOp{}, n, y, x);
}
inline void exp(i64 n, float const* x, float* y) {
  map(ExpOp{}, n, y, x);
}
inline void sigmoid(i64 n, float const* x, float* y) {
  map(SigmoidOp{}, n, y, x);
}
inline void silu(i64 n, float const* x, float* y) {
  map(SiluOp{}, n, y, x);
}
inline void softplus(i64 n, float const* x, float* y) {
  map(SoftplusOp{}, n, y, x);
}
inline void silu_mul(i64 n, float const* x, float const* z, float* y) {
  map(SiluOp{}, n, y, x, z);
}
inline void add(i64 n, float const* x, float const* z, float* y) {
  map(AddOp{}, n, y, x, z);
}
inline void scale(i64 n, float a, float const* x, float* y) {
  map(ScaleOp{a}, n, y, x);
}
inline void axpy(i64 n, float a, float const* x, float* y) {
  map(AxpyOp{a}, n, y, x, y);
}
inline void mul_scale(i64 n, float a, float const* x, float const* w, float* y) {
  map(MulScaleOp{a}, n, y, x, w);
}

// ---- reductions
// ---------------------------------------------------------------------------------------------------

/// The lanes of x in one fixed tree.
JET_ALWAYS_INLINE float sum_of(V x) {
  return _mm_cvtss_f32(sum_four(x, x, x, x));
}

inline float dot(i64 n, float const* x, float const* y) {
  V acc[4] = {zero(), zero(), zero(), zero()};
  i64 i = 0;
  for (; i + 4 * width <= n; i += 4 * width) {
    JET_UNROLL
    for (int u = 0; u < 4; ++u) {
      acc[u] = fma(load(x + i + u * width), load(y + i + u * width), acc[u]);
    }
  }
  for (; i + width <= n; i += width) {
    acc[0] = fma(load(x + i), load(y + i), acc[0]);
  }
  if (i < n) {
    acc[1] = fma(load_tail(x + i, n - i), load_tail(y + i, n - i), acc[1]);
  }
  return sum_of(add(add(acc[0], acc[1]), add(acc[2], acc[3])));
}
inline float sum_squares(i64 n, float const* x) {
  return dot(n, x, x);
}
inline float max(i64 n, float const* x) {
  V acc = set(-std::numeric_limits<float>::infinity());
  i64 i = 0;
  for (; i + width <= n; i += width) {
    acc = max(load(x + i), acc);
  }
  float lanes[width];
  store(lanes, acc);
  float largest = lanes[0];
  for (int l = 1; l < width; ++l) {
    largest = lanes[l] > largest ? lanes[l] : largest;
  }
  for (; i < n; ++i) {
    float const value = scalar(x + i);
    largest = value > largest ? value : largest;
  }
  return largest;
}
inline float exp_sum(i64 n, float shift, float const* x, float* y) {
  V const offset = set(shift);
  V acc = zero();
  i64 i = 0;
  for (; i + width <= n; i += width) {
    V const e = exp_of(sub(load(x + i), offset));
    store(y + i, e);
    acc = add(acc, e);
  }
  if (i < n) {
    V const e = exp_of(sub(load_tail(x + i, n - i), offset));
    store_tail(y + i, e, n - i);
    acc = add(acc, keep_first(e, n - i));
  }
  return sum_of(acc);
}

// ---- rope, convolution, recurrence
// --------------------------------------------------------------------------------

template <bool Tail>
JET_ALWAYS_INLINE void rope_part(i64 half, float const* cos, float const* sin, float* x, i64 tail) {
  V const c = load_if<Tail>(cos, tail);
  V const s = load_if<Tail>(sin, tail);
  V const first = load_if<Tail>(x, tail);
  V const second = load_if<Tail>(x + half, tail);
  store_if<Tail>(x, fnma(second, s, mul(first, c)), tail);
  store_if<Tail>(x + half, fma(first, s, mul(second, c)), tail);
}
inline void rope(i64 half, float const* cos, float const* sin, float* x) {
  i64 i = 0;
  for (; i + width <= half; i += width) {
    rope_part<false>(half, cos + i, sin + i, x + i, 0);
  }
  if (i < half) {
    rope_part<true>(half, cos + i, sin + i, x + i, half - i);
  }
}

inline void conv(i64 n, int taps, float const* const* x, float const* w, float const* bias, float* y) {
  i64 c = 0;
  if (taps == 4) {
    for (; c + width <= n; c += width) {
      // Four channels' taps per 128-bit part, transposed.
      V const w0 = load_quarters(w + c * 4);
      V const w1 = load_quarters(w + c * 4 + 4);
      V const w2 = load_quarters(w + c * 4 + 8);
      V const w3 = load_quarters(w + c * 4 + 12);
      V const low01 = unpack_low(w0, w1);
      V const low23 = unpack_low(w2, w3);
      V const high01 = unpack_high(w0, w1);
      V const high23 = unpack_high(w2, w3);
      V sum = bias != nullptr ? load(bias + c) : zero();
      sum = fma(join_low(low01, low23), load(x[0] + c), sum);
      sum = fma(join_high(low01, low23), load(x[1] + c), sum);
      sum = fma(join_low(high01, high23), load(x[2] + c), sum);
      sum = fma(join_high(high01, high23), load(x[3] + c), sum);
      store(y + c, sum);
    }
  } else {
    for (; c + width <= n; c += width) {
      V sum = bias != nullptr ? load(bias + c) : zero();
      for (int i = 0; i < taps; ++i) {
        float weights[width];
        for (int l = 0; l < width; ++l) {
          weights[l] = scalar(w + (c + l) * taps + i);
        }
        sum = fma(load(weights), load(x[i] + c), sum);
      }
      store(y + c, sum);
    }
  }
  for (; c < n; ++c) {
    float sum = bias != nullptr ? scalar(bias + c) : 0.0f;
    for (int i = 0; i < taps; ++i) {
      sum = __builtin_fmaf(scalar(w + c * taps + i), scalar(x[i] + c), sum);
    }
    std::memcpy(static_cast<void*>(y + c), &sum, sizeof(sum));
  }
}

/// `Vecs` vectors of columns from column c, the whole recurrence on them; u stays in registers. The first pass
/// reads the state, the second, which finds it in the cache, updates it.
template <int Vecs, bool Tail> void scan_columns(ScanStep<float> const& s, i64 c, i64 tail) {
  V u[Vecs];
  V o[Vecs];
  JET_UNROLL
  for (int v = 0; v < Vecs; ++v) {
    u[v] = zero();
    o[v] = zero();
  }
  i64 const stride = s.head_v;
  i64 const decay_stride = s.decay_channel ? 1 : 0;
  if (s.delta) {
    for (i64 r = 0; r < s.head_k; ++r) {
      float const* const row = s.state + r * stride + c;
      V const decay = broadcast(s.decay + r * decay_stride);
      V const key = broadcast(s.k + r);
      JET_UNROLL
      for (int v = 0; v < Vecs; ++v) {
        u[v] = fma(key, mul(decay, load_if<Tail>(row + v * width, tail)), u[v]);
      }
    }
  }
  V const beta = set(s.beta);
  JET_UNROLL
  for (int v = 0; v < Vecs; ++v) {
    u[v] = mul(beta, sub(load_if<Tail>(s.v + c + v * width, tail), u[v]));
  }
  for (i64 r = 0; r < s.head_k; ++r) {
    float* const row = s.state + r * stride + c;
    V const decay = broadcast(s.decay + r * decay_stride);
    V const key = broadcast(s.k + r);
    V const query = broadcast(s.q + r);
    JET_UNROLL
    for (int v = 0; v < Vecs; ++v) {
      V const updated = fma(key, u[v], mul(decay, load_if<Tail>(row + v * width, tail)));
      store_if<Tail>(row + v * width, updated, tail);
      o[v] = fma(query, updated, o[v]);
    }
  }
  V const scale = set(s.scale);
  JET_UNROLL
  for (int v = 0; v < Vecs; ++v) {
    store_if<Tail>(s.o + c + v * width, mul(scale, o[v]), tail);
  }
}

inline void scan_step(ScanStep<float> const& s) {
  i64 c = 0;
  for (; c + scan_vectors * width <= s.head_v; c += scan_vectors * width) {
    scan_columns<scan_vectors, false>(s, c, 0);
  }
  for (; c + 2 * width <= s.head_v; c += 2 * width) {
    scan_columns<2, false>(s, c, 0);
  }
  for (; c + width <= s.head_v; c += width) {
    scan_columns<1, false>(s, c, 0);
  }
  if (c < s.head_v) {
    scan_columns<1, true>(s, c, s.head_v - c);
  }
}

/// All entries.
constexpr KernelTable<float> table(Isa isa) {
  KernelTable<float> t;
  t.isa = isa;
  t.gemm_nt[0][0][0] = gemm_nt<float, float, float>;
  t.gemm_nt[0][0][1] = gemm_nt<float, float, bf16>;
  t.gemm_nt[0][1][0] = gemm_nt<float, bf16, float>;
  t.gemm_nt[0][1][1] = gemm_nt<float, bf16, bf16>;
  t.gemm_nt[1][0][0] = gemm_nt<bf16, float, float>;
  t.gemm_nt[1][0][1] = gemm_nt<bf16, float, bf16>;
  t.gemm_nt[1][1][0] = gemm_nt<bf16, bf16, float>;
  t.gemm_nt[1][1][1] = gemm_nt<bf16, bf16, bf16>;
  t.gemm_nn[0] = gemm_nn<float>;
  t.gemm_nn[1] = gemm_nn<bf16>;
  t.transpose[0] = transpose<float>;
  t.transpose[1] = transpose<bf16>;
  t.to_bf16 = to_bf16;
  t.from_bf16 = from_bf16;
  t.exp = exp;
  t.sigmoid = sigmoid;
  t.silu = silu;
  t.softplus = softplus;
  t.silu_mul = silu_mul;
  t.add = add;
  t.scale = scale;
  t.axpy = axpy;
  t.mul_scale = mul_scale;
  t.dot = dot;
  t.sum_squares = sum_squares;
  t.max = max;
  t.exp_sum = exp_sum;
  t.rope = rope;
  t.conv = conv;
  t.scan_step = scan_step;
  return t;
}
