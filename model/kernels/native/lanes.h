// Eight floats side by side: AVX2 where the compiler targets it, plain loops elsewhere. Both give the same bits.
// Where AVX-512 with VNNI is targeted too, the matmuls take sixteen, again with the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define WITH_AVX2 1
#else
#define WITH_AVX2 0
#endif
#if WITH_AVX2 && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#define WITH_AVX512 1
#else
#define WITH_AVX512 0
#endif

constexpr int kLanes = 8;
constexpr int kRowTile = WITH_AVX512 ? 8 : 4;  // rows that share one pass over the weights, as registers allow

inline float widen(float value) { return value; }
inline float widen(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}
inline float widen(int8_t value) { return value; }

#if WITH_AVX2
using Lanes = __m256;
inline Lanes zero() { return _mm256_setzero_ps(); }
inline Lanes load(const float* from) { return _mm256_loadu_ps(from); }
inline Lanes load(const uint16_t* from) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline Lanes load(const int8_t* from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
inline Lanes spread(float x) { return _mm256_set1_ps(x); }
inline Lanes fused(Lanes x, Lanes w, Lanes sum) { return _mm256_fmadd_ps(x, w, sum); }
inline Lanes times(Lanes x, Lanes y) { return _mm256_mul_ps(x, y); }
inline Lanes plus(Lanes x, Lanes y) { return _mm256_add_ps(x, y); }
inline Lanes minus(Lanes x, Lanes y) { return _mm256_sub_ps(x, y); }
inline Lanes between(float low, Lanes x, float high) {  // the second operand survives where x is NaN
  return _mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), x));
}
inline Lanes nearest(Lanes x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Lanes power_of_two(Lanes n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline Lanes zero_where_below(Lanes value, Lanes x, float bound) {
  return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(bound), _CMP_LT_OQ), value);
}
inline void store(Lanes value, float* to) { _mm256_storeu_ps(to, value); }
// Loads it once for several uses: as an operand in memory of each, it would take twice as long.
template <typename Register> inline void keep(Register& value) { asm("" : "+x"(value)); }
#else
struct Lanes { float at[kLanes]; };
inline Lanes zero() { return Lanes{}; }
template <typename Weight> inline Lanes load(const Weight* from) {
  Lanes out;
  for (int lane = 0; lane < kLanes; ++lane) out.at[lane] = widen(from[lane]);
  return out;
}
inline Lanes spread(float x) {
  Lanes out;
  for (float& lane : out.at) lane = x;
  return out;
}
template <typename Op> inline Lanes each(Lanes x, Lanes y, Op op) {
  for (int lane = 0; lane < kLanes; ++lane) x.at[lane] = op(x.at[lane], y.at[lane]);
  return x;
}
inline Lanes fused(Lanes x, Lanes w, Lanes sum) {
  for (int lane = 0; lane < kLanes; ++lane) sum.at[lane] = std::fma(x.at[lane], w.at[lane], sum.at[lane]);
  return sum;
}
inline Lanes times(Lanes x, Lanes y) { return each(x, y, [](float a, float b) { return a * b; }); }
inline Lanes plus(Lanes x, Lanes y) { return each(x, y, [](float a, float b) { return a + b; }); }
inline Lanes minus(Lanes x, Lanes y) { return each(x, y, [](float a, float b) { return a - b; }); }
inline Lanes between(float low, Lanes x, float high) {
  return each(x, x, [=](float a, float) { return a < low ? low : a > high ? high : a; });
}
inline Lanes nearest(Lanes x) { return each(x, x, [](float a, float) { return std::nearbyint(a); }); }
inline Lanes power_of_two(Lanes n) {
  return each(n, n, [](float a, float) { return a == a ? std::ldexp(1.0f, static_cast<int>(a)) : 1.0f; });
}
inline Lanes zero_where_below(Lanes value, Lanes x, float bound) {
  return each(value, x, [bound](float a, float b) { return b < bound ? 0.0f : a; });
}
inline void store(Lanes value, float* to) { std::memcpy(to, value.at, sizeof value.at); }
inline void keep(Lanes&) {}
#endif

// e**x within 2e-7 relative, exactly 1 at 0 and exactly 0 below -87: x = n ln2 + r, then a polynomial in r. Each
// multiplication and addition is rounded on its own, as in the torch twin (exact_math.py), whose bits it has.
inline Lanes exponential(Lanes x) {
  const Lanes clamped = between(-87.0f, x, 88.0f);
  const Lanes n = nearest(times(clamped, spread(1.4426950408889634f)));
  const Lanes r = minus(minus(clamped, times(n, spread(0.693145751953125f))), times(n, spread(1.42860682030941723e-6f)));
  Lanes sum = times(r, spread(1.0f / 5040));
  for (const float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f})
    sum = times(plus(sum, spread(coefficient)), r);
  return zero_where_below(times(plus(sum, spread(1.0f)), power_of_two(n)), x, -87.0f);
}

// Calls `run(size, row)` so that tiles of at most MOST rows cover all rows: one pass over the weights for each tile.
template <int MOST, bool IS_REST = false, typename Run>
void each_tile(int64_t rows, const Run& run, int64_t row = 0) {
  if constexpr (!IS_REST)
    for (; row + MOST <= rows; row += MOST) run(std::integral_constant<int, MOST>{}, row);
  if (IS_REST && rows - row == MOST) return run(std::integral_constant<int, MOST>{}, row);
  if constexpr (MOST > 1) each_tile<MOST - 1, true>(rows, run, row);
}
