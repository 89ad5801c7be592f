// The vector vocabulary of the kernels in 16 lanes. See x86.hpp.

using V = __m512;
inline constexpr int width = 16;

// Tiles of the products: rows and vectors of accumulators that fit in 32 registers.
inline constexpr int nt_rows = 6;
inline constexpr int nn_rows = 8;
inline constexpr int scan_vectors = 8;
/// Whether products of bf16 pairs are an instruction here.
inline constexpr bool native_bf16 = false;
/// Whether blocks of B in bf16 are widened in memory, before use, or on every load (AMD EPYC of the Zen 4
/// generation: 90 against 83 GFLOP/s for the latter here, 45 against 81 in 8 lanes, where a tile has fewer rows).
inline constexpr bool widen_blocks = false;

JET_ALWAYS_INLINE __mmask16 first_lanes(i64 n) {
  return static_cast<__mmask16>((1u << n) - 1u);
}

JET_ALWAYS_INLINE V zero() {
  return _mm512_setzero_ps();
}
JET_ALWAYS_INLINE V set(float x) {
  return _mm512_set1_ps(x);
}
JET_ALWAYS_INLINE V load(float const* p) {
  return _mm512_loadu_ps(p);
}
JET_ALWAYS_INLINE V load_tail(float const* p, i64 n) {
  return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
JET_ALWAYS_INLINE V widen(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
JET_ALWAYS_INLINE V load(bf16 const* p) {
  return widen(_mm256_loadu_si256(static_cast<__m256i const*>(static_cast<void const*>(p))));
}
JET_ALWAYS_INLINE V load_tail(bf16 const* p, i64 n) {
  return widen(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
JET_ALWAYS_INLINE void store(float* p, V x) {
  _mm512_storeu_ps(p, x);
}
JET_ALWAYS_INLINE void store_tail(float* p, V x, i64 n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), x);
}
/// Rounds to nearest even; a NaN stays one.
JET_ALWAYS_INLINE __m256i narrow(V x) {
  __m512i const bits = _mm512_castps_si512(x);
  __m512i const upper = _mm512_srli_epi32(bits, 16);
  __m512i const odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  __m512i const rounded =
      _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  __mmask16 const nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
}
JET_ALWAYS_INLINE void store(bf16* p, V x) {
  _mm256_storeu_si256(static_cast<__m256i*>(static_cast<void*>(p)), narrow(x));
}
JET_ALWAYS_INLINE void store_tail(bf16* p, V x, i64 n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), narrow(x));
}

JET_ALWAYS_INLINE V add(V a, V b) {
  return _mm512_add_ps(a, b);
}
JET_ALWAYS_INLINE V sub(V a, V b) {
  return _mm512_sub_ps(a, b);
}
JET_ALWAYS_INLINE V mul(V a, V b) {
  return _mm512_mul_ps(a, b);
}
JET_ALWAYS_INLINE V div(V a, V b) {
  return _mm512_div_ps(a, b);
}
/// a b + c
JET_ALWAYS_INLINE V fma(V a, V b, V c) {
  return _mm512_fmadd_ps(a, b, c);
}
/// c - a b
JET_ALWAYS_INLINE V fnma(V a, V b, V c) {
  return _mm512_fnmadd_ps(a, b, c);
}
/// The second where either is a NaN.
JET_ALWAYS_INLINE V max(V a, V b) {
  return _mm512_max_ps(a, b);
}
JET_ALWAYS_INLINE V min(V a, V b) {
  return _mm512_min_ps(a, b);
}
JET_ALWAYS_INLINE V abs(V a) {
  return _mm512_abs_ps(a);
}
JET_ALWAYS_INLINE V round(V a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/// a 2^n for integral n in [-160, 130]
JET_ALWAYS_INLINE V scale_by_power(V a, V n) {
  return _mm512_scalef_ps(a, n);
}
/// a < b ? x : y, lane by lane; false for NaN
JET_ALWAYS_INLINE V select_less(V a, V b, V x, V y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
/// Zero from lane n on.
JET_ALWAYS_INLINE V keep_first(V x, i64 n) {
  return _mm512_maskz_mov_ps(first_lanes(n), x);
}
/// The first steps of every sum over lanes: lane i + lane i + 8, then lane i + lane i + 4.
JET_ALWAYS_INLINE __m128 fold(V x) {
  __m256 const upper = _mm512_extractf32x8_ps(x, 1);
  __m256 const half = _mm256_add_ps(_mm512_castps512_ps256(x), upper);
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
/// 16 consecutive floats from p into lanes of four: {p, p + 16, p + 32, p + 48}.
JET_ALWAYS_INLINE V load_quarters(float const* p) {
  V x = _mm512_castps128_ps512(_mm_loadu_ps(p));
  x = _mm512_insertf32x4(x, _mm_loadu_ps(p + 16), 1);
  x = _mm512_insertf32x4(x, _mm_loadu_ps(p + 32), 2);
  return _mm512_insertf32x4(x, _mm_loadu_ps(p + 48), 3);
}
/// Within each 128-bit part.
JET_ALWAYS_INLINE V unpack_low(V a, V b) {
  return _mm512_unpacklo_ps(a, b);
}
JET_ALWAYS_INLINE V unpack_high(V a, V b) {
  return _mm512_unpackhi_ps(a, b);
}
JET_ALWAYS_INLINE V join_low(V a, V b) {
  return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
JET_ALWAYS_INLINE V join_high(V a, V b) {
  return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
/// The four floats at p in every 128-bit part.
JET_ALWAYS_INLINE V repeat_four(float const* p) {
  return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
}
/// Row i of the square block becomes column i.
JET_ALWAYS_INLINE void transpose_block(V (&x)[width]) {
  V quads[width];  // quads[4 g + j], part p: column 4 p + j of rows 4 g and up
  JET_UNROLL
  for (int g = 0; g < width; g += 4) {
    V const low0 = unpack_low(x[g], x[g + 1]), high0 = unpack_high(x[g], x[g + 1]);
    V const low1 = unpack_low(x[g + 2], x[g + 3]), high1 = unpack_high(x[g + 2], x[g + 3]);
    quads[g] = join_low(low0, low1);
    quads[g + 1] = join_high(low0, low1);
    quads[g + 2] = join_low(high0, high1);
    quads[g + 3] = join_high(high0, high1);
  }
  JET_UNROLL
  for (int j = 0; j < 4; ++j) {
    V const low0 = _mm512_shuffle_f32x4(quads[j], quads[4 + j], 0x44);
    V const high0 = _mm512_shuffle_f32x4(quads[j], quads[4 + j], 0xee);
    V const low1 = _mm512_shuffle_f32x4(quads[8 + j], quads[12 + j], 0x44);
    V const high1 = _mm512_shuffle_f32x4(quads[8 + j], quads[12 + j], 0xee);
    x[j] = _mm512_shuffle_f32x4(low0, low1, 0x88);
    x[4 + j] = _mm512_shuffle_f32x4(low0, low1, 0xdd);
    x[8 + j] = _mm512_shuffle_f32x4(high0, high1, 0x88);
    x[12 + j] = _mm512_shuffle_f32x4(high0, high1, 0xdd);
  }
}
/// fold() of the vectors of two rows and of four, as far as two and one vector; fewer operations than one by one.
JET_ALWAYS_INLINE V fold_two(V a, V b) {
  return add(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e));
}
JET_ALWAYS_INLINE V fold_four(V ab, V cd) {
  return add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}
/// sum_four() of four rows, in one vector.
JET_ALWAYS_INLINE V sum_rows(V const (&a)[4], V const (&b)[4], V const (&c)[4], V const (&d)[4]) {
  V const x0 = fold_four(fold_two(a[0], b[0]), fold_two(c[0], d[0]));
  V const x1 = fold_four(fold_two(a[1], b[1]), fold_two(c[1], d[1]));
  V const x2 = fold_four(fold_two(a[2], b[2]), fold_two(c[2], d[2]));
  V const x3 = fold_four(fold_two(a[3], b[3]), fold_two(c[3], d[3]));
  V const x01 = add(unpack_low(x0, x1), unpack_high(x0, x1));
  V const x23 = add(unpack_low(x2, x3), unpack_high(x2, x3));
  return add(join_low(x01, x23), join_high(x01, x23));
}
/// sum_four() of two rows, in half a vector.
JET_ALWAYS_INLINE V sum_rows(V const (&a)[4], V const (&b)[4]) {
  V const x01 = fold_four(fold_two(a[0], b[0]), fold_two(a[1], b[1]));
  V const x23 = fold_four(fold_two(a[2], b[2]), fold_two(a[3], b[3]));
  V const even_odd = add(unpack_low(x01, x23), unpack_high(x01, x23));
  __m256 const even = _mm512_castps512_ps256(even_odd);
  __m256 const odd = _mm512_extractf32x8_ps(even_odd, 1);
  return _mm512_castps256_ps512(_mm256_add_ps(_mm256_unpacklo_ps(even, odd), _mm256_unpackhi_ps(even, odd)));
}
/// Part `I` of four floats to p.
template <int I> JET_ALWAYS_INLINE void store_part(float* p, V x) {
  _mm_storeu_ps(p, _mm512_extractf32x4_ps(x, I));
}
