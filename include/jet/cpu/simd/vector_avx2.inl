// The vector vocabulary of the kernels in 8 lanes; what each function means stands in vector_avx512.inl.

using V = __m256;
inline constexpr int width = 8;

// Tiles of the products: rows and vectors of accumulators that fit in 16 registers.
inline constexpr int nt_rows = 3;
inline constexpr int nn_rows = 4;
inline constexpr int scan_vectors = 4;
inline constexpr bool native_bf16 = false;
inline constexpr bool widen_blocks = true;

JET_ALWAYS_INLINE __m256i first_lanes(i64 n) {
  __m256i const lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}

JET_ALWAYS_INLINE V zero() {
  return _mm256_setzero_ps();
}
JET_ALWAYS_INLINE V set(float x) {
  return _mm256_set1_ps(x);
}
JET_ALWAYS_INLINE V load(float const* p) {
  return _mm256_loadu_ps(p);
}
JET_ALWAYS_INLINE V load_tail(float const* p, i64 n) {
  return _mm256_maskload_ps(p, first_lanes(n));
}
JET_ALWAYS_INLINE V widen(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
JET_ALWAYS_INLINE V load(bf16 const* p) {
  return widen(_mm_loadu_si128(static_cast<__m128i const*>(static_cast<void const*>(p))));
}
JET_ALWAYS_INLINE V load_tail(bf16 const* p, i64 n) {
  // There are no masked loads of 16-bit elements.
  alignas(16) char buffer[16] = {};
  std::memcpy(buffer, static_cast<void const*>(p), static_cast<std::size_t>(n) * 2);
  return widen(_mm_load_si128(static_cast<__m128i const*>(static_cast<void const*>(buffer))));
}
JET_ALWAYS_INLINE void store(float* p, V x) {
  _mm256_storeu_ps(p, x);
}
JET_ALWAYS_INLINE void store_tail(float* p, V x, i64 n) {
  _mm256_maskstore_ps(p, first_lanes(n), x);
}
JET_ALWAYS_INLINE __m128i narrow(V x) {
  __m256i const bits = _mm256_castps_si256(x);
  __m256i const upper = _mm256_srli_epi32(bits, 16);
  __m256i const odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  __m256i const rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  __m256i const quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  __m256i const nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  __m256i const result = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
}
JET_ALWAYS_INLINE void store(bf16* p, V x) {
  _mm_storeu_si128(static_cast<__m128i*>(static_cast<void*>(p)), narrow(x));
}
JET_ALWAYS_INLINE void store_tail(bf16* p, V x, i64 n) {
  __m128i const narrowed = narrow(x);
  std::memcpy(static_cast<void*>(p), &narrowed, static_cast<std::size_t>(n) * 2);
}

JET_ALWAYS_INLINE V add(V a, V b) {
  return _mm256_add_ps(a, b);
}
JET_ALWAYS_INLINE V sub(V a, V b) {
  return _mm256_sub_ps(a, b);
}
JET_ALWAYS_INLINE V mul(V a, V b) {
  return _mm256_mul_ps(a, b);
}
JET_ALWAYS_INLINE V div(V a, V b) {
  return _mm256_div_ps(a, b);
}
JET_ALWAYS_INLINE V fma(V a, V b, V c) {
  return _mm256_fmadd_ps(a, b, c);
}
JET_ALWAYS_INLINE V fnma(V a, V b, V c) {
  return _mm256_fnmadd_ps(a, b, c);
}
JET_ALWAYS_INLINE V max(V a, V b) {
  return _mm256_max_ps(a, b);
}
JET_ALWAYS_INLINE V min(V a, V b) {
  return _mm256_min_ps(a, b);
}
JET_ALWAYS_INLINE V abs(V a) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
JET_ALWAYS_INLINE V round(V a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
JET_ALWAYS_INLINE V power_of_two(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
JET_ALWAYS_INLINE V scale_by_power(V a, V n) {
  // In two factors, because 2^n itself may be subnormal or too large.
  __m256i const whole = _mm256_cvtps_epi32(n);
  __m256i const half = _mm256_srai_epi32(whole, 1);
  return _mm256_mul_ps(_mm256_mul_ps(a, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
}
JET_ALWAYS_INLINE V select_less(V a, V b, V x, V y) {
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
JET_ALWAYS_INLINE V keep_first(V x, i64 n) {
  return _mm256_and_ps(x, _mm256_castsi256_ps(first_lanes(n)));
}
JET_ALWAYS_INLINE __m128 fold(V x) {
  return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
}
JET_ALWAYS_INLINE V load_quarters(float const* p) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 16), 1);
}
JET_ALWAYS_INLINE V unpack_low(V a, V b) {
  return _mm256_unpacklo_ps(a, b);
}
JET_ALWAYS_INLINE V unpack_high(V a, V b) {
  return _mm256_unpackhi_ps(a, b);
}
JET_ALWAYS_INLINE V join_low(V a, V b) {
  return _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}
JET_ALWAYS_INLINE V join_high(V a, V b) {
  return _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}
JET_ALWAYS_INLINE V repeat_four(float const* p) {
  return _mm256_broadcast_ps(static_cast<__m128 const*>(static_cast<void const*>(p)));
}
JET_ALWAYS_INLINE void transpose_block(V (&x)[width]) {
  V quads[width];
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
    x[j] = _mm256_permute2f128_ps(quads[j], quads[4 + j], 0x20);
    x[4 + j] = _mm256_permute2f128_ps(quads[j], quads[4 + j], 0x31);
  }
}
