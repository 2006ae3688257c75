// What is done to rows alone: RMSNorm, rotary, SwiGLU, the gate's choice, the sum over experts, weights of a vocabulary.
//
// Every number has the bits of its torch twin: sums run along the same tree, and each multiplication and addition is
// rounded on its own. A row is a task or a part of one, so rows beside it and threads change nothing.

#include <vector>

#include "lanes.h"
#include "pool.h"

namespace {

float* scratch(int64_t size) {
  thread_local std::vector<float> kept;
  if (static_cast<int64_t>(kept.size()) < size) kept.resize(size);
  return kept.data();
}

// Folds values [size] in place: the second half onto the first, the odd one behind, until one is left.
float tree_sum(float* values, int64_t size) {
  if (size == 0) return 0;
  while (size > 1) {
    const int64_t half = size / 2;
    int64_t i = 0;
    for (; i + kLanes <= half; i += kLanes) store(plus(load(values + i), load(values + half + i)), values + i);
    for (; i < half; ++i) values[i] += values[half + i];
    if (size % 2) values[half] = values[2 * half];
    size = half + size % 2;
  }
  return values[0];
}

void rms_norm_row(const float* x, const float* weight, int64_t width, float eps, float* out) {
  float* squares = scratch(width);
  for (int64_t i = 0; i < width; ++i) squares[i] = x[i] * x[i];
  const float inverse = 1.0f / std::sqrt(tree_sum(squares, width) / static_cast<float>(width) + eps);
  for (int64_t i = 0; i < width; ++i) out[i] = x[i] * inverse * weight[i];
}

// Eight results of interleaved gate and linear features.
void swiglu_lanes(const float* features, float limit, float alpha, float* out) {
  float gate[kLanes], linear[kLanes], power[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const float above = features[2 * i], value = features[2 * i + 1];
    gate[i] = above > limit ? limit : above;
    linear[i] = value > limit ? limit : value < -limit ? -limit : value;
    power[i] = -(gate[i] * alpha);
  }
  store(exponential(load(power)), power);
  for (int i = 0; i < kLanes; ++i) out[i] = gate[i] * (1.0f / (power[i] + 1.0f)) * (linear[i] + 1.0f);
}

void swiglu_row(const float* features, int64_t width, float limit, float alpha, float* out) {
  int64_t at = 0;
  for (; at + kLanes <= width; at += kLanes) swiglu_lanes(features + 2 * at, limit, alpha, out + at);
  if (at == width) return;
  float tail[2 * kLanes] = {}, results[kLanes];
  std::memcpy(tail, features + 2 * at, 2 * (width - at) * sizeof(float));
  swiglu_lanes(tail, limit, alpha, results);
  std::memcpy(out + at, results, (width - at) * sizeof(float));
}

template <typename Value>
void combine_row(const Value* outputs, const float* weights, int64_t chosen, int64_t width, float* out) {
  int64_t at = 0;
  for (; at + kLanes <= width; at += kLanes) {
    Lanes total = times(load(outputs + at), spread(weights[0]));
    for (int64_t k = 1; k < chosen; ++k)
      total = plus(total, times(load(outputs + k * width + at), spread(weights[k])));
    store(total, out + at);
  }
  for (; at < width; ++at) {
    float total = widen(outputs[at]) * weights[0];
    for (int64_t k = 1; k < chosen; ++k) total = total + widen(outputs[k * width + at]) * weights[k];
    out[at] = total;
  }
}

template <typename Value>
void combine(const Value* outputs, const float* weights, int64_t rows, int64_t chosen, int64_t width, float* out,
             int threads) {
  for_each_row(rows, chosen * width, threads, [&](int64_t row) {
    combine_row(outputs + row * chosen * width, weights + row * chosen, chosen, width, out + row * width);
  });
}

// Values e**x in place; beyond `size` up to a whole number of lanes they are overwritten too.
void exponentials(float* values, int64_t size) {
  for (int64_t at = 0; at < size; at += kLanes) store(exponential(load(values + at)), values + at);
}

inline bool ranks_above(float a, float b) { return a > b || (a != a && b == b); }

// The best `chosen` of scores [experts], equal ones by id, and the softmax over them.
void gate_row(const float* scores, int64_t experts, int64_t chosen, int64_t* ids, float* weights) {
  float* ranked = scratch(2 * (chosen + kLanes));
  float* folded = ranked + chosen + kLanes;
  int64_t held = 0;
  for (int64_t expert = 0; expert < experts; ++expert) {
    if (held == chosen && !ranks_above(scores[expert], ranked[held - 1])) continue;
    int64_t place = held < chosen ? held++ : held - 1;
    for (; place > 0 && ranks_above(scores[expert], ranked[place - 1]); --place)
      ranked[place] = ranked[place - 1], ids[place] = ids[place - 1];
    ranked[place] = scores[expert], ids[place] = expert;
  }
  const float best = ranked[0];
  for (int64_t k = 0; k < chosen; ++k) ranked[k] = ranked[k] - best;
  exponentials(ranked, chosen);
  std::memcpy(folded, ranked, chosen * sizeof(float));
  const float total = tree_sum(folded, chosen);
  for (int64_t k = 0; k < chosen; ++k) weights[k] = ranked[k] / total;
}

// The sum of e**((logit - best) / temperature) over one chunk.
float chunk_sum(const float* logits, int64_t size, float best, float temperature) {
  float* values = scratch(size + kLanes);
  for (int64_t i = 0; i < size; ++i) values[i] = logits[i] - best;
  if (temperature != 1)
    for (int64_t i = 0; i < size; ++i) values[i] /= temperature;
  exponentials(values, size);
  return tree_sum(values, size);
}

}  // namespace

extern "C" {

// x and out [rows, width] f32, weight [width] f32, eps [1].
void em_rms_norm(const float* x, const float* weight, const float* eps, int64_t rows, int64_t width, float* out,
                 int threads) {
  for_each_row(rows, width, threads,
               [&](int64_t row) { rms_norm_row(x + row * width, weight, width, *eps, out + row * width); });
}

// features [rows, 2 width] f32, constants {limit, alpha}, out [rows, width] f32.
void em_swiglu(const float* features, const float* constants, int64_t rows, int64_t width, float* out, int threads) {
  for_each_row(rows, 2 * width, threads, [&](int64_t row) {
    swiglu_row(features + 2 * row * width, width, constants[0], constants[1], out + row * width);
  });
}

// heads [rows, count, 2 half] f32, rows `stride` apart; cos and sin [rows, half]; out [rows, count, 2 half], dense.
void em_rotate(const float* heads, int64_t stride, const float* cos, const float* sin, int64_t rows, int64_t count,
               int64_t half, float* out, int threads) {
  for_each_row(rows, 2 * count * half, threads, [&](int64_t row) {
    const float *c = cos + row * half, *s = sin + row * half;
    for (int64_t head = 0; head < count; ++head) {
      const float *first = heads + row * stride + 2 * head * half, *second = first + half;
      float* to = out + 2 * (row * count + head) * half;
      for (int64_t d = 0; d < half; ++d) {
        to[d] = first[d] * c[d] - second[d] * s[d];
        to[half + d] = second[d] * c[d] + first[d] * s[d];
      }
    }
  });
}

// outputs [rows, chosen, width], weights [rows, chosen] f32, out [rows, width] f32.
void em_combine_f32(const float* outputs, const float* weights, int64_t rows, int64_t chosen, int64_t width,
                    float* out, int threads) {
  combine(outputs, weights, rows, chosen, width, out, threads);
}
void em_combine_bf16(const uint16_t* outputs, const float* weights, int64_t rows, int64_t chosen, int64_t width,
                     float* out, int threads) {
  combine(outputs, weights, rows, chosen, width, out, threads);
}

// scores [rows, experts] f32; ids [rows, chosen] and weights [rows, chosen] f32.
void em_gate(const float* scores, int64_t rows, int64_t experts, int64_t chosen, int64_t* ids, float* weights,
             int threads) {
  for_each_row(rows, experts, threads, [&](int64_t row) {
    gate_row(scores + row * experts, experts, chosen, ids + row * chosen, weights + row * chosen);
  });
}

// logits [rows, width] f32, best and temperatures [rows] f32; sums [rows, chunks] f32, the last chunk zero beyond width.
void em_chunk_sums(const float* logits, const float* best, const float* temperatures, int64_t rows, int64_t width,
                   int64_t chunk, float* sums, int threads) {
  const int64_t chunks = (width + chunk - 1) / chunk;
  for_each_row(rows * chunks, chunk, threads, [&](int64_t index) {
    const int64_t row = index / chunks, start = index % chunks * chunk;
    float* padded = scratch(2 * (chunk + kLanes)) + chunk + kLanes;
    const float* from = logits + row * width + start;
    if (start + chunk > width) {
      std::fill(padded, padded + chunk, -INFINITY);
      std::memcpy(padded, from, (width - start) * sizeof(float));
      from = padded;
    }
    sums[index] = chunk_sum(from, chunk, best[row], temperatures[row]);
  });
}

}  // extern "C"
