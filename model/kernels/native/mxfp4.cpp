// MXFP4 matrix times rows, in 15-bit integers.
//
// Row-independent by construction: an output element is one sum in one fixed order, whatever rows are computed beside
// it and however many threads share the work.

#include <vector>

#include "mxfp4_experts.h"
#include "mxfp4_wide.h"

namespace {

constexpr int kMaxQuantized = 16319;  // largest 15-bit activation whose high byte still fits in eight bits

// Activations of a row: 15 bits a value, one scale per 32, split into two bytes so that eight-bit products suffice.
struct Quantized {
  std::vector<int8_t> high, low;   // [rows, K]: value = high * 128 + low
  std::vector<int32_t> sums;       // [rows, K/32]: sum of the values, for the codes' offset
  std::vector<float> scales;       // [rows, K/32]: half the step, since codes are doubled
};

void quantize_blocks(const float* x, int64_t begin, int64_t end, Quantized& out) {
  for (int64_t block = begin; block < end; ++block) {
    const float* from = x + block * kBlock;
    float largest = 0;
    for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(from[i]));
    const float inverse = largest > 0 ? kMaxQuantized / largest : 0;
    int32_t sum = 0;
    for (int i = 0; i < kBlock; ++i) {
      const int value = std::clamp(static_cast<int>(std::lrintf(from[i] * inverse)), -kMaxQuantized, kMaxQuantized);
      const int high = (value + 64) >> 7;
      out.high[block * kBlock + i] = static_cast<int8_t>(high);
      out.low[block * kBlock + i] = static_cast<int8_t>(value - high * 128);
      sum += value;
    }
    out.sums[block] = sum;
    out.scales[block] = largest > 0 ? largest / kMaxQuantized * 0.5f : 0;
  }
}

void quantize(const float* x, int64_t rows, int64_t k_size, Quantized& out, int threads) {
  const int64_t blocks = k_size / kBlock;
  out.high.resize(rows * k_size);
  out.low.resize(rows * k_size);
  out.sums.resize(rows * blocks);
  out.scales.resize(rows * blocks);
  each_rows(rows, threads, [&](int64_t row, int64_t end) { quantize_blocks(x, row * blocks, end * blocks, out); });
}

#if WITH_AVX2
// Integer sums are exact in any order; across blocks the f32 sum runs in block order, fused.
template <int ROWS>
void mxfp4_tile(const Quantized& x, int64_t row, int64_t k_size, const uint8_t* w, float* out, int64_t out_stride) {
  const int64_t blocks = k_size / kBlock;
  const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kCodes)));
  const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256 sums[ROWS];
  for (int r = 0; r < ROWS; ++r) sums[r] = _mm256_setzero_ps();
  for (int64_t block = 0; block < blocks; ++block, w += kBlockBytes) {
    if (ROWS < kNarrowRows) prefetch_block(w);
    __m256i high[ROWS], low[ROWS], total[ROWS];
    for (int r = 0; r < ROWS; ++r) high[r] = low[r] = total[r] = _mm256_setzero_si256();
    for (int m = 0; m < 4; ++m) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32 * m));
      const __m256i first = _mm256_shuffle_epi8(table, _mm256_and_si256(bytes, nibble));
      const __m256i second = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble));
      for (int r = 0; r < ROWS; ++r) {
        const int64_t at = (row + r) * k_size + block * kBlock + 8 * m;
        high[r] = _mm256_add_epi16(high[r], _mm256_maddubs_epi16(first, four_inputs(&x.high[at])));
        high[r] = _mm256_add_epi16(high[r], _mm256_maddubs_epi16(second, four_inputs(&x.high[at + 4])));
        low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(first, four_inputs(&x.low[at])));
        low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(second, four_inputs(&x.low[at + 4])));
        if (m % 2 == 1) {  // four products of 2 * 24 * 127 each fit in 16 bits, eight would not
          total[r] = _mm256_add_epi32(total[r], _mm256_madd_epi16(high[r], ones));
          high[r] = _mm256_setzero_si256();
        }
      }
    }
    const __m128i exponents = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w + kCodeBytes));
    const __m256 scales = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(exponents), 23));
    for (int r = 0; r < ROWS; ++r) {
      const int64_t at = (row + r) * blocks + block;
      __m256i whole = _mm256_add_epi32(_mm256_slli_epi32(total[r], 7), _mm256_madd_epi16(low[r], ones));
      whole = _mm256_sub_epi32(whole, _mm256_set1_epi32(kCodeOffset * x.sums[at]));
      const __m256 step = _mm256_mul_ps(scales, _mm256_set1_ps(x.scales[at]));
      sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), step, sums[r]);
    }
  }
  for (int r = 0; r < ROWS; ++r) _mm256_storeu_ps(out + r * out_stride, sums[r]);
}
#else
template <int ROWS>
void mxfp4_tile(const Quantized& x, int64_t row, int64_t k_size, const uint8_t* w, float* out, int64_t out_stride) {
  const int64_t blocks = k_size / kBlock;
  for (int r = 0; r < ROWS; ++r) {
    float sums[kLanes] = {};
    for (int64_t block = 0; block < blocks; ++block) {
      const uint8_t* codes = w + block * kBlockBytes;
      for (int lane = 0; lane < kLanes; ++lane) {
        int32_t whole = 0;
        for (int i = 0; i < kBlock; ++i) {
          const int64_t at = (row + r) * k_size + block * kBlock + i;
          const uint8_t byte = codes[32 * (i / 8) + 4 * lane + i % 4];
          whole += (kCodes[i % 8 < 4 ? byte & 15 : byte >> 4] - kCodeOffset) * (x.high[at] * 128 + x.low[at]);
        }
        const uint32_t bits = static_cast<uint32_t>(codes[kCodeBytes + lane]) << 23;
        float scale;
        std::memcpy(&scale, &bits, sizeof scale);
        sums[lane] = std::fma(static_cast<float>(whole), scale * x.scales[(row + r) * blocks + block], sums[lane]);
      }
    }
    std::memcpy(out + r * out_stride, sums, sizeof sums);
  }
}
#endif

#if WITH_AVX512
template <int ROWS>
void wide_tile(const Quantized& x, int64_t row, int64_t k_size, const uint8_t* w, float* out, int64_t out_stride) {
  const int64_t blocks = k_size / kBlock;
  const uint8_t* second = w + blocks * kBlockBytes;
  __m512 sums[ROWS];
  for (int r = 0; r < ROWS; ++r) sums[r] = _mm512_setzero_ps();
  for (int64_t block = 0; block < blocks; ++block, w += kBlockBytes, second += kBlockBytes) {
    if (ROWS < kWideRows) prefetch(w, second);
    const WideBlock weights = decode(w, second);
    for (int r = 0; r < ROWS; ++r) {
      const int64_t at = (row + r) * blocks + block;
      const __m512i high = wide_products(weights, &x.high[at * kBlock], _mm512_setzero_si512());
      const __m512i low = wide_products(weights, &x.low[at * kBlock], _mm512_set1_epi32(-kCodeOffset * x.sums[at]));
      const __m512i whole = _mm512_add_epi32(_mm512_slli_epi32(high, 7), low);
      const __m512 step = _mm512_mul_ps(weights.scales, _mm512_set1_ps(x.scales[at]));
      sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), step, sums[r]);
    }
  }
  for (int r = 0; r < ROWS; ++r) _mm512_storeu_ps(out + r * out_stride, sums[r]);
}
#endif

// Eight codes in input order, two a byte, as four bytes whose halves are four inputs apart.
inline uint32_t kernel_order(uint32_t inputs) {
  const uint32_t even = inputs & 0x0F0F0F0F, odd = (inputs >> 4) & 0x0F0F0F0F;  // inputs 0 2 4 6 and 1 3 5 7
  const uint32_t evens = (even & 0xFFFF) | (even >> 16) << 4, odds = (odd & 0xFFFF) | (odd >> 16) << 4;
  return (evens & 0xFF) | (odds & 0xFF) << 8 | (evens & 0xFF00) << 8 | (odds & 0xFF00) << 16;
}

}  // namespace

extern "C" {

// blocks [n, k/32, 16] and scales [n, k/32] as checkpoints have them; packed [n/8][k/32][136].
void em_mxfp4_pack(const uint8_t* blocks, const uint8_t* scales, int64_t n, int64_t k, uint8_t* packed, int threads) {
  const int64_t num_blocks = k / kBlock;
  pool().run(threads, n / kLanes, [&](int64_t group) {
    for (int64_t block = 0; block < num_blocks; ++block) {
      uint8_t* to = packed + (group * num_blocks + block) * kBlockBytes;
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t from = (group * kLanes + lane) * num_blocks + block;
        to[kCodeBytes + lane] = scales[from];
        for (int m = 0; m < 4; ++m) {
          uint32_t inputs;
          std::memcpy(&inputs, blocks + from * (kBlock / 2) + 4 * m, sizeof inputs);
          const uint32_t codes = kernel_order(inputs);
          std::memcpy(to + 32 * m + 4 * lane, &codes, sizeof codes);
        }
      }
    }
  });
}

// x [bounds[experts], k] f32, packed as above and biases [n] f32 of each expert, out [bounds[experts], n] f32.
void em_mxfp4(const float* x, const int64_t* bounds, const uint8_t* const* packed, const float* const* biases,
              int64_t experts, int64_t k, int64_t n, float* out, int threads) {
  Quantized quantized;
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
      each_tile<kNarrowRows>(rows, [&](auto size, int64_t row) {
        mxfp4_tile<size()>(quantized, first + row, k, weights + group * bytes, to + row * n + group * kLanes, n);
      });
    add_bias(biases[expert] + begin * kLanes, rows, (end - begin) * kLanes, to + begin * kLanes, n);
  });
}

}  // extern "C"
