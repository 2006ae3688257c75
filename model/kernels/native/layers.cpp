// All layers of a step in one call, where every layer's experts live here.
//
// Made of the kernels that do one of these each, so that every number has the bits it has there. Between two layers a
// hundred megabytes of weights have passed through the caches: whatever runs there besides finds nothing of its own in
// them, and a few dozen lines of Python would take as long as a kernel.

#include <vector>

#include "kernels.h"
#include "pool.h"

namespace {

// A layer's weights and step as `em_before_experts` takes them, its keys and values, its experts as `em_expert_mlp` does.
struct Layer {
  const void *weights, *step;
  void *keys, *values;
  const void* experts;
};

}  // namespace

extern "C" {

// x [rows, hidden] f32 is replaced by what the last layer gives. sizes: layers, rows, hidden, inner, experts, chosen.
// Returns -1, or layer * experts + expert of the first expert that is not here; then x is of no use.
int em_layers(const void* layers, const int64_t* sizes, const float* constants, int64_t is_int8, float* x,
              int threads) {
  const auto* each = static_cast<const Layer*>(layers);
  const int64_t num_layers = sizes[0], rows = sizes[1], hidden = sizes[2], inner = sizes[3];
  const int64_t experts = sizes[4], chosen = sizes[5], pairs = rows * chosen;
  std::vector<int64_t> ids(pairs), row_ids(pairs);
  std::vector<uint16_t> inputs(rows * hidden), outputs(pairs * hidden);
  const auto residual = floats(rows * hidden), weights = floats(pairs);
  for (int64_t pair = 0; pair < pairs; ++pair) row_ids[pair] = pair / chosen;
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    const Layer& at = each[layer];
    em_before_experts(at.weights, at.step, x, at.keys, at.values, residual.get(), inputs.data(), ids.data(),
                      weights.get(), threads);
    const int missing = em_expert_mlp(inputs.data(), row_ids.data(), ids.data(), pairs, at.experts, experts, hidden,
                                      inner, constants, is_int8, outputs.data(), threads);
    if (missing >= 0) return static_cast<int>(layer * experts + missing);
    em_combine_bf16(outputs.data(), weights.get(), rows, chosen, hidden, x, threads);
    for_each_row(rows, hidden, threads, [&](int64_t row) {
      for (int64_t i = row * hidden; i < (row + 1) * hidden; ++i) x[i] = residual[i] + x[i];
    });
  }
  return -1;
}

}  // extern "C"
