// A matrix in 8-bit blocks (Q8_0) times rows, in 16-bit integers.
//
// Row-independent by construction: an output element is one sum in one fixed order, whatever rows are computed beside
// it and however many threads share the work.
//
// A packed weight is [N/8][K/32][272]: 256 bytes of codes, then the f16 scales of the block's 8 output features. Byte
// 16 p + 2 r + i of the codes is input 2 p + i of feature r, so that 16 bytes meet one pair of inputs.

#include <vector>

#include "lanes.h"
#include "pool.h"

namespace {

constexpr int kBlock = 32;        // values that share a scale
constexpr int kStoredBytes = 34;  // of a block in a file: an f16 scale, then the codes
constexpr int kScaleBytes = 2;
constexpr int kCodeBytes = kBlock * kLanes;
constexpr int kPackedBytes = kCodeBytes + kScaleBytes * kLanes;
constexpr int kPairs = kBlock / 2;
constexpr float kLargestValue = 32767.0f;  // 32 products with a byte stay below 2^27
constexpr float kSmallestBlock = 0x1p-100f;
constexpr int64_t kRowsPerTask = 16;

struct QuantizedWords {
  std::vector<int16_t> values;  // [rows, K]
  std::vector<float> steps;     // [rows, K/32]
};

float half_to_float(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float magnitude = exponent == 0    ? std::ldexp(static_cast<float>(fraction), -24)
                          : exponent == 31 ? (fraction ? std::nanf("") : HUGE_VALF)
                                           : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return half >> 15 ? -magnitude : magnitude;
}

// A block whose largest value is tiny counts as zero; one with an infinity or a NaN makes its outputs NaN.
void quantize_block(const float* from, int16_t* values, float* step) {
  float largest = 0;
  bool is_finite = true;
  for (int i = 0; i < kBlock; ++i) {
    largest = std::max(largest, std::fabs(from[i]));
    is_finite &= std::isfinite(from[i]);
  }
  if (!is_finite || largest < kSmallestBlock) {
    std::memset(values, 0, kBlock * sizeof *values);
    *step = is_finite ? 0.0f : std::nanf("");
    return;
  }
  const float inverse = kLargestValue / largest;
  for (int i = 0; i < kBlock; ++i) values[i] = static_cast<int16_t>(std::nearbyint(from[i] * inverse));
  *step = largest / kLargestValue;
}

void quantize(const float* x, int64_t rows, int64_t k_size, QuantizedWords& out, int threads) {
  const int64_t blocks = k_size / kBlock;
  out.values.resize(rows * k_size);
  out.steps.resize(rows * blocks);
  pool().run(threads, (rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task) {
    const int64_t end = std::min(rows, (task + 1) * kRowsPerTask) * blocks;
    for (int64_t block = task * kRowsPerTask * blocks; block < end; ++block)
      quantize_block(x + block * kBlock, &out.values[block * kBlock], &out.steps[block]);
  });
}

#if WITH_AVX2 && defined(__F16C__)
inline __m256i plus_products(__m256i sum, __m256i codes, __m256i inputs) {
#if WITH_AVX512
  return _mm256_dpwssd_epi32(sum, codes, inputs);
#else
  return _mm256_add_epi32(sum, _mm256_madd_epi16(codes, inputs));
#endif
}
inline __m256i spread_pair(const int16_t* from) {
  int32_t pair;
  std::memcpy(&pair, from, sizeof pair);
  return _mm256_set1_epi32(pair);
}

// Integer sums are exact in any order; across blocks the f32 sum runs in block order. ROWS and GROUPS of eight features
// only interleave independent sums. The weights come from memory for the first tile of rows only.
template <int ROWS, int GROUPS, bool IS_FIRST>
void q8_tile(const QuantizedWords& x, int64_t row, int64_t k_size, const uint8_t* w, float* out, int64_t out_stride) {
  const int64_t blocks = k_size / kBlock;
  __m256 totals[ROWS][GROUPS];
  for (int r = 0; r < ROWS; ++r)
    for (int g = 0; g < GROUPS; ++g) totals[r][g] = _mm256_setzero_ps();
  for (int64_t block = 0; block < blocks; ++block, w += kPackedBytes) {
    __m256i sums[ROWS][GROUPS];
    for (int r = 0; r < ROWS; ++r)
      for (int g = 0; g < GROUPS; ++g) sums[r][g] = _mm256_setzero_si256();
    if (IS_FIRST)
      for (int g = 0; g < GROUPS; ++g)
        for (int line = 0; line < kPackedBytes; line += 64)
          _mm_prefetch(reinterpret_cast<const char*>(w + g * blocks * kPackedBytes + 3072 + line), _MM_HINT_T0);
    for (int p = 0; p < kPairs; ++p) {
      __m256i codes[GROUPS];
      for (int g = 0; g < GROUPS; ++g)
        codes[g] = _mm256_cvtepi8_epi16(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(w + g * blocks * kPackedBytes + 2 * kLanes * p)));
      for (int r = 0; r < ROWS; ++r) {
        __m256i pair = spread_pair(&x.values[(row + r) * k_size + block * kBlock + 2 * p]);
        keep(pair);
        for (int g = 0; g < GROUPS; ++g) sums[r][g] = plus_products(sums[r][g], codes[g], pair);
      }
    }
    for (int g = 0; g < GROUPS; ++g) {
      const uint8_t* at = w + g * blocks * kPackedBytes + kCodeBytes;
      const __m256 scales = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
      for (int r = 0; r < ROWS; ++r) {
        const __m256 step = _mm256_mul_ps(scales, _mm256_set1_ps(x.steps[(row + r) * blocks + block]));
        totals[r][g] = _mm256_add_ps(totals[r][g], _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][g]), step));
      }
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int g = 0; g < GROUPS; ++g) _mm256_storeu_ps(out + r * out_stride + g * kLanes, totals[r][g]);
}
#else
template <int ROWS, int GROUPS, bool IS_FIRST>
void q8_tile(const QuantizedWords& x, int64_t row, int64_t k_size, const uint8_t* w, float* out, int64_t out_stride) {
  const int64_t blocks = k_size / kBlock;
  for (int r = 0; r < ROWS; ++r) {
    float totals[GROUPS * kLanes] = {};
    for (int64_t place = 0; place < GROUPS * blocks; ++place) {
      const int64_t block = place % blocks;
      const uint8_t* codes = w + place * kPackedBytes;
      const int16_t* values = &x.values[(row + r) * k_size + block * kBlock];
      for (int lane = 0; lane < kLanes; ++lane) {
        int32_t sum = 0;
        for (int i = 0; i < kBlock; ++i)
          sum += static_cast<int8_t>(codes[2 * kLanes * (i / 2) + 2 * lane + i % 2]) * values[i];
        uint16_t half;
        std::memcpy(&half, codes + kCodeBytes + kScaleBytes * lane, sizeof half);
        const float step = half_to_float(half) * x.steps[(row + r) * blocks + block];
        totals[place / blocks * kLanes + lane] += static_cast<float>(sum) * step;
      }
    }
    std::memcpy(out + r * out_stride, totals, sizeof totals);
  }
}
#endif

template <int GROUPS>
void q8_rows(const QuantizedWords& x, int64_t rows, int64_t k_size, const uint8_t* w, float* out, int64_t out_stride) {
  each_tile<kRowTile>(rows, [&](auto size, int64_t row) {
    const auto tile = row == 0 ? q8_tile<size(), GROUPS, true> : q8_tile<size(), GROUPS, false>;
    tile(x, row, k_size, w, out + row * out_stride, out_stride);
  });
}

}  // namespace

extern "C" {

// blocks [n, k/32, 34] as in a file, packed [ceil(n/8), k/32, 272], zero where features are missing.
void em_q8_pack(const uint8_t* blocks, int64_t n, int64_t k, uint8_t* packed) {
  const int64_t per_row = k / kBlock;
  for (int64_t place = 0; place < n * per_row; ++place) {
    const int64_t feature = place / per_row, lane = feature % kLanes;
    const uint8_t* from = blocks + place * kStoredBytes;
    uint8_t* to = packed + (feature / kLanes * per_row + place % per_row) * kPackedBytes;
    std::memcpy(to + kCodeBytes + kScaleBytes * lane, from, kScaleBytes);
    for (int i = 0; i < kBlock; ++i) to[2 * kLanes * (i / 2) + 2 * lane + i % 2] = from[kScaleBytes + i];
  }
}

// x [rows, k] f32, packed by em_q8_pack, out [rows, n] f32; n is a multiple of 8.
void em_q8(const float* x, int64_t rows, int64_t k, const uint8_t* packed, int64_t n, float* out, int threads) {
  constexpr int kGroups = 2;
  QuantizedWords quantized;
  quantize(x, rows, k, quantized, threads);
  const int64_t groups = n / kLanes, bytes = k / kBlock * kPackedBytes;
  const int64_t per_task = std::max<int64_t>(kGroups, std::min<int64_t>(64, groups / (threads * 4) / kGroups * kGroups));
  pool().run(threads, (groups + per_task - 1) / per_task, [&](int64_t task) {
    int64_t group = task * per_task;
    const int64_t end = std::min(groups, group + per_task);
    for (; group + kGroups <= end; group += kGroups)
      q8_rows<kGroups>(quantized, rows, k, packed + group * bytes, out + group * kLanes, n);
    for (; group < end; ++group) q8_rows<1>(quantized, rows, k, packed + group * bytes, out + group * kLanes, n);
  });
}

}  // extern "C"
