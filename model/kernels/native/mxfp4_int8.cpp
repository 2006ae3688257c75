// MXFP4 matrix times rows whose inputs are rounded to eight bits, one scale per 32 of them.
//
// Row-independent by construction: a block's sum is an integer, exact in any order, and blocks are added in order. No
// addition is fused with a product, so that the torch twin has the same bits.

#include <vector>

#include "mxfp4_experts.h"
#include "mxfp4_wide.h"

namespace {

constexpr float kLargestValue = 127;
constexpr uint32_t kSmallestBits = 0x05800000;  // 2^-116: a block below it is zero, since 127 / 2^-116 is finite
constexpr uint32_t kInfinityBits = 0x7F800000;
constexpr int kManyRows = 8;  // rows that share one decoding of the weights

// Activations of a row in eight bits.
struct QuantizedBytes {
  std::vector<int8_t> values;    // [rows, K]
  std::vector<int16_t> offsets;  // [rows, K/32, 2]: -12 times the sum of the inputs with i % 4 < 2, and of the others
  std::vector<float> scales;     // [rows, K/32]: half the step, since codes are doubled
};

inline uint32_t magnitude_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits & 0x7FFFFFFF;
}

// Rounds half to even. What is not finite makes the block's scale NaN, as it would make the sum.
void quantize_block(const float* from, int8_t* values, int16_t* offsets, float* scale) {
  uint32_t largest_bits = 0;  // ordered as magnitudes are, and a NaN is above them all
  for (int i = 0; i < kBlock; ++i) largest_bits = std::max(largest_bits, magnitude_bits(from[i]));
  float largest;
  std::memcpy(&largest, &largest_bits, sizeof largest);
  if (largest_bits < kSmallestBits || largest_bits >= kInfinityBits) {
    std::memset(values, 0, kBlock);
    offsets[0] = offsets[1] = 0;
    *scale = largest_bits < kSmallestBits ? 0.0f : std::nanf("");
    return;
  }
  const float inverse = kLargestValue / largest;
  int sums[4] = {};
  for (int i = 0; i < kBlock; ++i) {
    const int value = static_cast<int>(std::nearbyint(from[i] * inverse));
    values[i] = static_cast<int8_t>(value);
    sums[i % 4] += value;
  }
  offsets[0] = static_cast<int16_t>(-kCodeOffset * (sums[0] + sums[1]));
  offsets[1] = static_cast<int16_t>(-kCodeOffset * (sums[2] + sums[3]));
  *scale = largest / kLargestValue * 0.5f;
}

void quantize(const float* x, int64_t rows, int64_t k_size, QuantizedBytes& out, int threads) {
  const int64_t blocks = k_size / kBlock;
  out.values.resize(rows * k_size);
  out.offsets.resize(rows * blocks * 2);
  out.scales.resize(rows * blocks);
  each_rows(rows, threads, [&](int64_t row, int64_t end) {
    for (int64_t block = row * blocks; block < end * blocks; ++block)
      quantize_block(x + block * kBlock, &out.values[block * kBlock], &out.offsets[block * 2], &out.scales[block]);
  });
}

#if WITH_AVX2
// A 16-bit lane sums sixteen products of a feature. With codes of 0..24 it may wrap around; the offset it starts from
// takes 12 from each code, and sixteen products of at most 12 * 127 fit.
template <int ROWS>
void int8_tile(const QuantizedBytes& x, int64_t row, int64_t k_size, const uint8_t* w, float* out,
               int64_t out_stride) {
  const int64_t blocks = k_size / kBlock;
  const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kCodes)));
  const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256 sums[ROWS];
  for (int r = 0; r < ROWS; ++r) sums[r] = _mm256_setzero_ps();
  for (int64_t block = 0; block < blocks; ++block, w += kBlockBytes) {
    if (ROWS == 1) prefetch_block(w);
    __m256i products[ROWS];
    for (int r = 0; r < ROWS; ++r) {
      int32_t pair;
      std::memcpy(&pair, &x.offsets[((row + r) * blocks + block) * 2], sizeof pair);
      products[r] = _mm256_set1_epi32(pair);
    }
    for (int m = 0; m < 4; ++m) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32 * m));
      const __m256i first = _mm256_shuffle_epi8(table, _mm256_and_si256(bytes, nibble));
      const __m256i second = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble));
      for (int r = 0; r < ROWS; ++r) {
        const int8_t* at = &x.values[(row + r) * k_size + block * kBlock + 8 * m];
        products[r] = _mm256_add_epi16(products[r], _mm256_maddubs_epi16(first, four_inputs(at)));
        products[r] = _mm256_add_epi16(products[r], _mm256_maddubs_epi16(second, four_inputs(at + 4)));
      }
    }
    const __m128i exponents = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w + kCodeBytes));
    const __m256 scales = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(exponents), 23));
    for (int r = 0; r < ROWS; ++r) {
      const __m256 whole = _mm256_cvtepi32_ps(_mm256_madd_epi16(products[r], ones));
      const __m256 step = _mm256_mul_ps(scales, _mm256_set1_ps(x.scales[(row + r) * blocks + block]));
      sums[r] = _mm256_add_ps(sums[r], _mm256_mul_ps(whole, step));
    }
  }
  for (int r = 0; r < ROWS; ++r) _mm256_storeu_ps(out + r * out_stride, sums[r]);
}
#else
template <int ROWS>
void int8_tile(const QuantizedBytes& x, int64_t row, int64_t k_size, const uint8_t* w, float* out,
               int64_t out_stride) {
  const int64_t blocks = k_size / kBlock;
  for (int r = 0; r < ROWS; ++r) {
    float sums[kLanes] = {};
    for (int64_t block = 0; block < blocks; ++block) {
      const uint8_t* codes = w + block * kBlockBytes;
      const int8_t* values = &x.values[(row + r) * k_size + block * kBlock];
      for (int lane = 0; lane < kLanes; ++lane) {
        int32_t whole = 0;
        for (int i = 0; i < kBlock; ++i) {
          const uint8_t byte = codes[32 * (i / 8) + 4 * lane + i % 4];
          whole += (kCodes[i % 8 < 4 ? byte & 15 : byte >> 4] - kCodeOffset) * values[i];
        }
        const uint32_t bits = static_cast<uint32_t>(codes[kCodeBytes + lane]) << 23;
        float scale;
        std::memcpy(&scale, &bits, sizeof scale);
        sums[lane] += static_cast<float>(whole) * (scale * x.scales[(row + r) * blocks + block]);
      }
    }
    std::memcpy(out + r * out_stride, sums, sizeof sums);
  }
}
#endif

#if WITH_AVX512
template <int ROWS>
void wide_tile(const QuantizedBytes& x, int64_t row, int64_t k_size, const uint8_t* w, float* out,
               int64_t out_stride) {
  const int64_t blocks = k_size / kBlock;
  const uint8_t* second = w + blocks * kBlockBytes;
  const __m512i ones = _mm512_set1_epi16(1);
  __m512 sums[ROWS];
  for (int r = 0; r < ROWS; ++r) sums[r] = _mm512_setzero_ps();
  for (int64_t block = 0; block < blocks; ++block, w += kBlockBytes, second += kBlockBytes) {
    if (ROWS < kWideRows) prefetch(w, second);
    const WideBlock weights = decode(w, second);
    for (int r = 0; r < ROWS; ++r) {
      const int64_t at = (row + r) * blocks + block;
      const __m512i offset = _mm512_madd_epi16(sixteen_times(&x.offsets[at * 2]), ones);
      const __m512 whole = _mm512_cvtepi32_ps(wide_products(weights, &x.values[at * kBlock], offset));
      const __m512 step = _mm512_mul_ps(weights.scales, _mm512_set1_ps(x.scales[at]));
      sums[r] = _mm512_add_ps(sums[r], _mm512_mul_ps(whole, step));
    }
  }
  for (int r = 0; r < ROWS; ++r) _mm512_storeu_ps(out + r * out_stride, sums[r]);
}
#endif

}  // namespace

extern "C" {

// As em_mxfp4.
void em_mxfp4_int8(const float* x, const int64_t* bounds, const uint8_t* const* packed, const float* const* biases,
                   int64_t experts, int64_t k, int64_t n, float* out, int threads) {
  QuantizedBytes quantized;
  quantize(x, bounds[experts], k, quantized, threads);
  const int64_t bytes = k / kBlock * kBlockBytes;
  each_expert(experts, n / kLanes, threads, [&](int64_t expert, int64_t group, int64_t end) {
    const int64_t first = bounds[expert], rows = bounds[expert + 1] - first, begin = group;
    const uint8_t* weights = packed[expert];
    float* to = out + first * n;
#if WITH_AVX512
    for (; rows > 1 && group + kWideGroups <= end; group += kWideGroups)
      each_tile<kWideRows>(rows, [&](auto size, int64_t row) {
        wide_tile<size()>(quantized, first + row, k, weights + group * bytes, to + row * n + group * kLanes, n);
      });
#endif
    for (; group < end; ++group)
      each_tile<kManyRows>(rows, [&](auto size, int64_t row) {
        int8_tile<size()>(quantized, first + row, k, weights + group * bytes, to + row * n + group * kLanes, n);
      });
    add_bias(biases[expert] + begin * kLanes, rows, (end - begin) * kLanes, to + begin * kLanes, n);
  });
}

}  // extern "C"
