// A decoder layer up to its experts in one call: norm, qkv, rotary, store, attention, out, norm, gate.
//
// Made of the kernels that do one of these each, in the same order, so that every number has the bits it has there.

#include "kernels.h"
#include "pool.h"

namespace {

enum Kind : int64_t { kF32 = 0, kBf16 = 1, kQ8 = 2 };

// What a layer holds; matrices packed for the kernel of their kind.
struct LayerWeights {
  const float *input_norm, *qkv_bias, *sinks, *out_bias, *gate_norm, *gate_bias;
  const void *qkv, *out, *gate;
  int64_t qkv_kind, out_kind, gate_kind, kv_kind, hidden_kind;
  int64_t hidden, heads, kv_heads, head_dim, experts, chosen, window;
  float eps, scale;
};

// What all layers of one kind share in a step.
struct StepRows {
  const float *cos, *sin;
  const int64_t *slots, *positions, *owners, *table;
  int64_t rows, table_width, block_tokens, split;
};

// out [rows, n] = x [rows, k] times the matrix, plus its bias.
void dense(const float* x, int64_t rows, int64_t k, const void* matrix, int64_t kind, const float* bias, int64_t n,
           float* out, int threads) {
  if (kind == kF32) em_dense_f32(x, rows, k, static_cast<const float*>(matrix), n, out, threads);
  if (kind == kBf16) em_dense_bf16(x, rows, k, static_cast<const uint16_t*>(matrix), n, out, threads);
  if (kind == kQ8) em_q8(x, rows, k, static_cast<const uint8_t*>(matrix), n, out, threads);
  for_each_row(rows, n, threads, [&](int64_t row) {
    for (int64_t i = 0; i < n; ++i) out[row * n + i] += bias[i];
  });
}

template <typename Stored>
void store_rows(const float* from, int64_t stride, const StepRows& step, int64_t width, Stored* paged, int threads) {
  for_each_row(step.rows, width, threads,
               [&](int64_t row) { store_as(from + row * stride, width, paged + step.slots[row] * width); });
}

template <typename Stored, typename Attention>
void attend(const LayerWeights& layer, const StepRows& step, const float* heads, Stored* keys, Stored* values,
            const Attention& attention, float* out, int threads) {
  const int64_t dim = layer.head_dim, stored = layer.kv_heads * dim, queried = layer.heads * dim;
  const int64_t stride = queried + 2 * stored;
  const auto queries = floats(step.rows * queried), rotated = floats(step.rows * stored);
  em_rotate(heads + queried, stride, step.cos, step.sin, step.rows, layer.kv_heads, dim / 2, rotated.get(), threads);
  em_rotate(heads, stride, step.cos, step.sin, step.rows, layer.heads, dim / 2, queries.get(), threads);
  store_rows(rotated.get(), stored, step, stored, keys, threads);
  store_rows(heads + queried + stored, stride, step, stored, values, threads);
  const int64_t sizes[] = {step.rows,         layer.heads,      layer.kv_heads, dim,
                           step.block_tokens, step.table_width, layer.window,   step.split};
  attention(sizes, queries.get(), keys, values, step.positions, step.owners, step.table, layer.sinks, &layer.scale, out,
            threads);
}

template <typename Stored>
void round_rows(const float* from, int64_t rows, int64_t width, Stored* to, int threads) {
  for_each_row(rows, width, threads, [&](int64_t row) { store_as(from + row * width, width, to + row * width); });
}

}  // namespace

extern "C" {

// x [rows, hidden] f32; keys and values of the layer's cache, f32 or bf16 as kv_kind says. Gives residual [rows, hidden]
// f32, the experts' input [rows, hidden], f32 or bf16 as hidden_kind says, and the gate's ids and weights [rows, chosen].
void em_before_experts(const void* layer_weights, const void* step_rows, const float* x, void* keys, void* values,
                       float* residual, void* hidden, int64_t* ids, float* weights, int threads) {
  const auto& layer = *static_cast<const LayerWeights*>(layer_weights);
  const auto& step = *static_cast<const StepRows*>(step_rows);
  const int64_t rows = step.rows, width = layer.hidden, queried = layer.heads * layer.head_dim;
  const int64_t features = queried + 2 * layer.kv_heads * layer.head_dim;
  const auto normed = floats(rows * width), heads = floats(rows * features), attended = floats(rows * queried);
  em_rms_norm(x, layer.input_norm, &layer.eps, rows, width, normed.get(), threads);
  dense(normed.get(), rows, width, layer.qkv, layer.qkv_kind, layer.qkv_bias, features, heads.get(), threads);
  if (layer.kv_kind == kF32)
    attend(layer, step, heads.get(), static_cast<float*>(keys), static_cast<float*>(values), em_attention_f32,
           attended.get(), threads);
  else
    attend(layer, step, heads.get(), static_cast<uint16_t*>(keys), static_cast<uint16_t*>(values), em_attention_bf16,
           attended.get(), threads);
  dense(attended.get(), rows, queried, layer.out, layer.out_kind, layer.out_bias, width, residual, threads);
  for_each_row(rows, width, threads, [&](int64_t row) {
    for (int64_t i = row * width; i < (row + 1) * width; ++i) residual[i] = x[i] + residual[i];
  });
  em_rms_norm(residual, layer.gate_norm, &layer.eps, rows, width, normed.get(), threads);
  if (layer.hidden_kind == kF32)
    round_rows(normed.get(), rows, width, static_cast<float*>(hidden), threads);
  else
    round_rows(normed.get(), rows, width, static_cast<uint16_t*>(hidden), threads);
  const auto scores = floats(rows * layer.experts);
  dense(normed.get(), rows, width, layer.gate, layer.gate_kind, layer.gate_bias, layer.experts, scores.get(), threads);
  em_gate(scores.get(), rows, layer.experts, layer.chosen, ids, weights, threads);
}

}  // extern "C"
