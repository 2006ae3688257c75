// The layout of a packed MXFP4 weight, as every kernel that reads one knows it.
//
// A packed weight is [N/8][K/32][136]: 128 bytes of codes, then the 8 scale bytes of the block's 8 output features.
// Byte 32 m + 4 r + i of the codes holds feature r: inputs 8 m + i (low nibble) and 8 m + 4 + i (high nibble).

#pragma once

#include <algorithm>

#include "lanes.h"

constexpr int kBlock = 32;         // MXFP4 values that share a scale
constexpr int kCodeBytes = 128;    // codes of 8 features times 32 inputs
constexpr int kBlockBytes = kCodeBytes + kLanes;
constexpr int kCodeOffset = 12;    // doubled code values -12..12 are looked up unsigned as 0..24
constexpr int kNarrowRows = 4;     // rows that share one decoding of the weights where registers are few
constexpr int8_t kCodes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};  // doubled value + 12

// Packed groups of a task: an even number, so that none is left over for the narrow kernel before the end.
inline int64_t groups_per_task(int64_t groups, int threads) {
  return std::max<int64_t>(2, std::min<int64_t>(32, groups / (threads * 4)) / 2 * 2);
}

#if WITH_AVX2
inline __m256i four_inputs(const int8_t* from) {
  int32_t bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return _mm256_set1_epi32(bytes);
}
// Asks for what comes some blocks later: where few rows are computed, memory is what takes the time.
inline void prefetch_block(const uint8_t* block) {
  for (const int ahead : {3072, 3136, 3200}) _mm_prefetch(reinterpret_cast<const char*>(block + ahead), _MM_HINT_T0);
}
#endif
