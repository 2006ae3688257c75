// A block of sixteen output features with AVX-512 and VNNI: two packed groups of eight side by side, a lane a feature.
//
// Integer sums are exact in any order, and each feature keeps the f32 operations of the narrow kernels in their order,
// so the bits are theirs.

#pragma once

#include "mxfp4_block.h"

#if WITH_AVX512
constexpr int kWideGroups = 2;  // packed groups that fill a register
constexpr int kWideRows = 16;   // rows that share one decoding of the weights

struct WideBlock {
  __m512i codes[kBlock / 4];  // unsigned doubled codes: inputs 4 j .. 4 j + 3 of each feature
  __m512 scales;
};

inline WideBlock decode(const uint8_t* first, const uint8_t* second) {
  const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kCodes)));
  const __m512i nibble = _mm512_set1_epi8(15);
  WideBlock block;
  for (int m = 0; m < 4; ++m) {
    const __m256i lower = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first + 32 * m));
    const __m256i upper = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second + 32 * m));
    const __m512i bytes = _mm512_inserti64x4(_mm512_castsi256_si512(lower), upper, 1);
    block.codes[2 * m] = _mm512_shuffle_epi8(table, _mm512_and_si512(bytes, nibble));
    block.codes[2 * m + 1] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble));
  }
  const __m128i lower = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(first + kCodeBytes));
  const __m128i upper = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(second + kCodeBytes));
  const __m512i exponents = _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(lower, upper));
  block.scales = _mm512_castsi512_ps(_mm512_slli_epi32(exponents, 23));
  return block;
}

inline void prefetch(const uint8_t* first, const uint8_t* second) {
  prefetch_block(first);
  prefetch_block(second);
}

inline __m512i sixteen_times(const void* four_bytes) {
  int32_t bytes;
  std::memcpy(&bytes, four_bytes, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

// The sum of a block's products with inputs [32] in eight bits, added to `sum`. In two chains: each step waits for its last.
inline __m512i wide_products(const WideBlock& block, const int8_t* inputs, __m512i sum) {
  __m512i other = _mm512_setzero_si512();
  for (int j = 0; j < kBlock / 4; j += 2) {
    sum = _mm512_dpbusd_epi32(sum, block.codes[j], sixteen_times(inputs + 4 * j));
    other = _mm512_dpbusd_epi32(other, block.codes[j + 1], sixteen_times(inputs + 4 * j + 4));
  }
  return _mm512_add_epi32(sum, other);
}
#endif
