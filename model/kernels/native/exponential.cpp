// e**x, element by element, with the bits of the torch twin.

#include <algorithm>

#include "lanes.h"
#include "pool.h"

namespace {

constexpr int64_t kTask = 65536;  // elements that one thread takes at a time

void exponentials(const float* x, int64_t count, float* out) {
  int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) store(exponential(load(x + at)), out + at);
  if (at == count) return;
  float tail[kLanes] = {};
  std::memcpy(tail, x + at, (count - at) * sizeof(float));
  store(exponential(load(tail)), tail);
  std::memcpy(out + at, tail, (count - at) * sizeof(float));
}

}  // namespace

extern "C" {

// x and out [count] f32.
void em_exp(const float* x, int64_t count, float* out, int threads) {
  pool().run(threads, (count + kTask - 1) / kTask, [&](int64_t task) {
    const int64_t first = task * kTask;
    exponentials(x + first, std::min(kTask, count - first), out + first);
  });
}

}  // extern "C"
