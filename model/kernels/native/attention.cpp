// Paged attention with sinks and a window.
//
// Row-independent by construction: an output element is one sum in one fixed order, whatever rows are computed beside
// it and however many threads share the work.

#include <vector>

#include "lanes.h"
#include "pool.h"

namespace {

inline float sum_of(Lanes value) {
  float at[kLanes];
  store(value, at);
  return ((at[0] + at[4]) + (at[2] + at[6])) + ((at[1] + at[5]) + (at[3] + at[7]));
}

struct AttentionShape {
  int64_t rows, heads, kv_heads, head_dim, block_tokens, table_width, window, split;
};

// Keys or values, a head of a token after the other: floats of some width, or 8 bits with a scale a head.
template <typename Stored>
struct Plain {
  const Stored* heads;
  void widen_to(float* wide, int64_t head, int64_t dim) const {
    for (int64_t d = 0; d < dim; d += kLanes) store(load(heads + head * dim + d), wide + d);
  }
};

struct Scaled {
  const int8_t* heads;
  const float* scales;
  void widen_to(float* wide, int64_t head, int64_t dim) const {
    const Lanes scale = spread(scales[head]);
    for (int64_t d = 0; d < dim; d += kLanes) store(times(load(heads + head * dim + d), scale), wide + d);
  }
};

// One row's query heads under one KV head. Keys are visited split by split, at fixed absolute positions, in ascending
// order; the softmax starts from the sink. Only visible keys are read.
template <typename Heads>
void attend(const AttentionShape& shape, int64_t kv_head, const float* queries, const Heads& keys,
            const Heads& values, int64_t position, const int64_t* table, const float* sinks, float scale,
            float* out) {
  const int64_t dim = shape.head_dim, repeats = shape.heads / shape.kv_heads, split = shape.split;
  thread_local std::vector<float> scratch;
  scratch.resize(repeats * (split + 2) + dim);
  float *scores = scratch.data(), *peak = scores + repeats * split, *total = peak + repeats, *wide = total + repeats;
  for (int64_t head = 0; head < repeats; ++head) peak[head] = sinks[head], total[head] = 1;
  std::memset(out, 0, repeats * dim * sizeof(float));
  const int64_t first = shape.window > 0 ? std::max<int64_t>(0, position - shape.window + 1) : 0;
  const auto widened = [&](const Heads& paged, int64_t key) {
    const int64_t slot = table[key / shape.block_tokens] * shape.block_tokens + key % shape.block_tokens;
    paged.widen_to(wide, slot * shape.kv_heads + kv_head, dim);
  };
  for (int64_t start = first / split * split; start <= position; start += split) {
    const int64_t begin = std::max(first, start), end = std::min(position + 1, start + split);
    std::fill(scores, scores + repeats * split, -INFINITY);
    for (int64_t key = begin; key < end; ++key) {
      widened(keys, key);
      for (int64_t head = 0; head < repeats; ++head) {
        Lanes sum = zero();
        for (int64_t d = 0; d < dim; d += kLanes) sum = fused(load(queries + head * dim + d), load(wide + d), sum);
        scores[head * split + key - start] = sum_of(sum) * scale;
      }
    }
    for (int64_t head = 0; head < repeats; ++head) {
      float* row = scores + head * split;
      const float new_peak = std::max(peak[head], *std::max_element(row, row + split));
      Lanes sum = zero();
      for (int64_t j = 0; j < split; j += kLanes) {
        const Lanes weights = exponential(plus(load(row + j), spread(-new_peak)));
        store(weights, row + j);
        sum = plus(sum, weights);
      }
      float keep[kLanes];
      store(exponential(spread(peak[head] - new_peak)), keep);
      total[head] = total[head] * keep[0] + sum_of(sum);
      peak[head] = new_peak;
      for (int64_t d = 0; d < dim; ++d) out[head * dim + d] *= keep[0];
    }
    for (int64_t key = begin; key < end; ++key) {
      widened(values, key);
      for (int64_t head = 0; head < repeats; ++head) {
        const Lanes weight = spread(scores[head * split + key - start]);
        float* sum = out + head * dim;
        for (int64_t d = 0; d < dim; d += kLanes) store(fused(weight, load(wide + d), load(sum + d)), sum + d);
      }
    }
  }
  for (int64_t head = 0; head < repeats; ++head)
    for (int64_t d = 0; d < dim; ++d) out[head * dim + d] /= total[head];
}

template <typename Heads>
void attention(const int64_t* sizes, const float* queries, const Heads& keys, const Heads& values,
               const int64_t* positions, const int64_t* owners, const int64_t* table, const float* sinks,
               const float* scale, float* out, int threads) {
  AttentionShape shape;
  std::memcpy(&shape, sizes, sizeof shape);
  const int64_t repeats = shape.heads / shape.kv_heads;
  pool().run(threads, shape.rows * shape.kv_heads, [&](int64_t task) {
    const int64_t row = task / shape.kv_heads, kv_head = task % shape.kv_heads;
    const int64_t offset = (row * shape.heads + kv_head * repeats) * shape.head_dim;
    attend(shape, kv_head, queries + offset, keys, values, positions[row], table + owners[row] * shape.table_width,
           sinks + kv_head * repeats, *scale, out + offset);
  });
}

}  // namespace

extern "C" {

// sizes: the fields of AttentionShape. queries and out [rows, heads, head_dim] f32; keys and values [blocks,
// block_tokens, kv_heads, head_dim]; positions and owners [rows]; table [sequences, table_width]; sinks [heads].
void em_attention_f32(const int64_t* sizes, const float* queries, const float* keys, const float* values,
                      const int64_t* positions, const int64_t* owners, const int64_t* table, const float* sinks,
                      const float* scale, float* out, int threads) {
  attention(sizes, queries, Plain<float>{keys}, Plain<float>{values}, positions, owners, table, sinks, scale, out,
            threads);
}
void em_attention_bf16(const int64_t* sizes, const float* queries, const uint16_t* keys, const uint16_t* values,
                       const int64_t* positions, const int64_t* owners, const int64_t* table, const float* sinks,
                       const float* scale, float* out, int threads) {
  attention(sizes, queries, Plain<uint16_t>{keys}, Plain<uint16_t>{values}, positions, owners, table, sinks, scale,
            out, threads);
}
// The same for 8 bits, with scales [blocks, block_tokens, kv_heads].
void em_attention_int8(const int64_t* sizes, const float* queries, const int8_t* keys, const float* key_scales,
                       const int8_t* values, const float* value_scales, const int64_t* positions,
                       const int64_t* owners, const int64_t* table, const float* sinks, const float* scale, float* out,
                       int threads) {
  attention(sizes, queries, Scaled{keys, key_scales}, Scaled{values, value_scales}, positions, owners, table, sinks,
            scale, out, threads);
}

}  // extern "C"
