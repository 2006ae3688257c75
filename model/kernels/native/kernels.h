// The kernels that others are made of; each is explained where it is defined.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>

extern "C" {

void em_rms_norm(const float* x, const float* weight, const float* eps, int64_t rows, int64_t width, float* out,
                 int threads);
void em_dense_f32(const float* x, int64_t rows, int64_t k, const float* packed, int64_t n, float* out, int threads);
void em_dense_bf16(const float* x, int64_t rows, int64_t k, const uint16_t* packed, int64_t n, float* out,
                   int threads);
void em_q8(const float* x, int64_t rows, int64_t k, const uint8_t* packed, int64_t n, float* out, int threads);
void em_rotate(const float* heads, int64_t stride, const float* cos, const float* sin, int64_t rows, int64_t count,
               int64_t half, float* out, int threads);
void em_attention_f32(const int64_t* sizes, const float* queries, const float* keys, const float* values,
                      const int64_t* positions, const int64_t* owners, const int64_t* table, const float* sinks,
                      const float* scale, float* out, int threads);
void em_attention_bf16(const int64_t* sizes, const float* queries, const uint16_t* keys, const uint16_t* values,
                       const int64_t* positions, const int64_t* owners, const int64_t* table, const float* sinks,
                       const float* scale, float* out, int threads);
void em_gate(const float* scores, int64_t rows, int64_t experts, int64_t chosen, int64_t* ids, float* weights,
             int threads);
void em_mxfp4(const float* x, const int64_t* bounds, const uint8_t* const* packed, const float* const* biases,
              int64_t experts, int64_t k, int64_t n, float* out, int threads);
void em_mxfp4_int8(const float* x, const int64_t* bounds, const uint8_t* const* packed, const float* const* biases,
                   int64_t experts, int64_t k, int64_t n, float* out, int threads);
void em_combine_bf16(const uint16_t* outputs, const float* weights, int64_t rows, int64_t chosen, int64_t width,
                     float* out, int threads);
void em_before_experts(const void* layer_weights, const void* step_rows, const float* x, void* keys, void* values,
                       float* residual, void* hidden, int64_t* ids, float* weights, int threads);
int em_expert_mlp(const uint16_t* rows, const int64_t* row_ids, const int64_t* expert_ids, int64_t pairs,
                  const void* table, int64_t num_experts, int64_t hidden, int64_t inner, const float* constants,
                  int64_t is_int8, uint16_t* out, int threads);
void em_swiglu(const float* features, const float* constants, int64_t rows, int64_t width, float* out, int threads);

}  // extern "C"

// Memory for intermediate results, as it comes.
inline std::unique_ptr<float[]> floats(int64_t size) { return std::unique_ptr<float[]>(new float[size]); }

// The nearest bf16, ties to even; what is no number stays none.
inline uint16_t narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return 0x7FC0;
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

inline void store_as(const float* from, int64_t size, float* to) { std::memcpy(to, from, size * sizeof(float)); }
inline void store_as(const float* from, int64_t size, uint16_t* to) {
  for (int64_t i = 0; i < size; ++i) to[i] = narrow(from[i]);
}
