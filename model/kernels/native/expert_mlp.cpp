// The experts of a layer in one call: gather the pairs' rows by expert, both matrices with SwiGLU between, scatter.
//
// Made of the kernels that do one of these each, so that every number has the bits it has there.

#include <vector>

#include "kernels.h"
#include "lanes.h"
#include "pool.h"

namespace {

// An expert's packed matrices and biases; null where it does not live here.
struct Expert {
  const uint8_t* mlp1;
  const float* bias1;
  const uint8_t* mlp2;
  const float* bias2;
};

// Pairs sorted by expert, those of one expert in their own order, and the experts that have any.
struct Groups {
  std::vector<int64_t> order, bounds;
  std::vector<const uint8_t*> mlp1, mlp2;
  std::vector<const float*> bias1, bias2;

  Groups(const int64_t* expert_ids, int64_t pairs, const Expert* experts, int64_t num_experts) : order(pairs) {
    std::vector<int64_t> starts(num_experts + 1, 0);
    for (int64_t pair = 0; pair < pairs; ++pair) ++starts[expert_ids[pair] + 1];
    for (int64_t id = 0; id < num_experts; ++id) {
      if (starts[id + 1] > 0) {
        bounds.push_back(starts[id]);
        mlp1.push_back(experts[id].mlp1), bias1.push_back(experts[id].bias1);
        mlp2.push_back(experts[id].mlp2), bias2.push_back(experts[id].bias2);
      }
      starts[id + 1] += starts[id];
    }
    bounds.push_back(pairs);
    for (int64_t pair = 0; pair < pairs; ++pair) order[starts[expert_ids[pair]]++] = pair;
  }
};

}  // namespace

extern "C" {

// rows [R, hidden] bf16; row_ids and expert_ids [pairs]; experts [num_experts], each a struct of four pointers;
// constants {limit, alpha} of SwiGLU; out [pairs, hidden] bf16. Returns -1, or the first expert that is not here; then
// nothing was computed.
int em_expert_mlp(const uint16_t* rows, const int64_t* row_ids, const int64_t* expert_ids, int64_t pairs,
                  const void* table, int64_t num_experts, int64_t hidden, int64_t inner, const float* constants,
                  int64_t is_int8, uint16_t* out, int threads) {
  const auto* experts = static_cast<const Expert*>(table);
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const int64_t id = expert_ids[pair];
    if (id < 0 || id >= num_experts || experts[id].mlp1 == nullptr) return static_cast<int>(id);
  }
  const Groups groups(expert_ids, pairs, experts, num_experts);
  const auto multiply = is_int8 ? em_mxfp4_int8 : em_mxfp4;
  const int64_t count = static_cast<int64_t>(groups.mlp1.size());
  const auto gathered = floats(pairs * hidden), features = floats(pairs * 2 * inner), activated = floats(pairs * inner);
  for_each_row(pairs, hidden, threads, [&](int64_t place) {
    const uint16_t* from = rows + row_ids[groups.order[place]] * hidden;
    for (int64_t i = 0; i < hidden; ++i) gathered[place * hidden + i] = widen(from[i]);
  });
  multiply(gathered.get(), groups.bounds.data(), groups.mlp1.data(), groups.bias1.data(), count, hidden, 2 * inner,
           features.get(), threads);
  em_swiglu(features.get(), constants, pairs, inner, activated.get(), threads);
  multiply(activated.get(), groups.bounds.data(), groups.mlp2.data(), groups.bias2.data(), count, inner, hidden,
           gathered.get(), threads);
  for_each_row(pairs, hidden, threads, [&](int64_t place) {
    store_as(gathered.get() + place * hidden, hidden, out + groups.order[place] * hidden);
  });
  return -1;
}

}  // extern "C"
