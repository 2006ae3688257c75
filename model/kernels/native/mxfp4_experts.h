// Several experts' rows in one call: one waking of the pool for all of them.
//
// Rows are sorted by expert: expert e has rows bounds[e] .. bounds[e + 1].

#pragma once

#include "mxfp4_block.h"
#include "pool.h"

constexpr int64_t kRowsPerTask = 16;  // whose inputs a task quantises

// Calls `quantize(row, end)` for all rows.
template <typename Quantize>
void each_rows(int64_t rows, int threads, const Quantize& quantize) {
  pool().run(threads, (rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task) {
    quantize(task * kRowsPerTask, std::min(rows, (task + 1) * kRowsPerTask));
  });
}

// Calls `multiply(expert, group, end)` so that all of every expert's packed groups are covered.
template <typename Multiply>
void each_expert(int64_t experts, int64_t groups, int threads, const Multiply& multiply) {
  const int64_t per_task = groups_per_task(groups, threads), tasks = (groups + per_task - 1) / per_task;
  pool().run(threads, experts * tasks, [&](int64_t task) {
    const int64_t group = task % tasks * per_task;
    multiply(task / tasks, group, std::min(groups, group + per_task));
  });
}

// Adds a bias to `width` features of rows that lie `stride` apart.
inline void add_bias(const float* bias, int64_t rows, int64_t width, float* out, int64_t stride) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t at = 0; at < width; ++at) out[row * stride + at] += bias[at];
}
