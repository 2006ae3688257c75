// Dense matrix times rows.
//
// Row-independent by construction: an output element is one sum in one fixed order, whatever rows are computed beside
// it and however many threads share the work.
//
// A packed weight is [N/8][K][8], f32 or bf16: eight output features side by side, so that a lane is an output.

#include <vector>

#include "lanes.h"
#include "pool.h"

namespace {

constexpr int64_t kPart = 32;  // inputs summed on their own before they join the total: rounding grows less

// Each output is a sum over k in order: kPart fused products at a time, then the parts. GROUPS groups of eight features
// and ROWS rows only interleave independent sums. The weights come from memory for the first tile of rows only.
template <typename Weight, int ROWS, int GROUPS, bool IS_FIRST>
void dense_tile(const float* x, int64_t k_size, const Weight* w, float* out, int64_t out_stride) {
  Lanes totals[ROWS][GROUPS];
  for (int row = 0; row < ROWS; ++row)
    for (int group = 0; group < GROUPS; ++group) totals[row][group] = zero();
  for (int64_t start = 0; start < k_size; start += kPart) {
    Lanes sums[ROWS][GROUPS];
    for (int row = 0; row < ROWS; ++row)
      for (int group = 0; group < GROUPS; ++group) sums[row][group] = zero();
    const int64_t end = std::min(k_size, start + kPart);
    for (int64_t k = start; k < end; ++k) {
      Lanes weights[GROUPS];
      for (int group = 0; group < GROUPS; ++group) {
        const Weight* at = w + (group * k_size + k) * kLanes;
        weights[group] = load(at);
        if (IS_FIRST) __builtin_prefetch(at + 1024);
      }
      for (int row = 0; row < ROWS; ++row) {
        Lanes input = spread(x[row * k_size + k]);
        keep(input);
        for (int group = 0; group < GROUPS; ++group)
          sums[row][group] = fused(input, weights[group], sums[row][group]);
      }
    }
    for (int row = 0; row < ROWS; ++row)
      for (int group = 0; group < GROUPS; ++group) totals[row][group] = plus(totals[row][group], sums[row][group]);
  }
  for (int row = 0; row < ROWS; ++row)
    for (int group = 0; group < GROUPS; ++group) store(totals[row][group], out + row * out_stride + group * kLanes);
}

template <typename Weight, int GROUPS>
void dense_rows(const float* x, int64_t rows, int64_t k_size, const Weight* w, float* out, int64_t out_stride) {
  each_tile<kRowTile>(rows, [&](auto size, int64_t row) {
    const auto tile = row == 0 ? dense_tile<Weight, size(), GROUPS, true> : dense_tile<Weight, size(), GROUPS, false>;
    tile(x + row * k_size, k_size, w, out + row * out_stride, out_stride);
  });
}

template <typename Weight>
void dense(const float* x, int64_t rows, int64_t k_size, const Weight* w, int64_t n_size, float* out, int threads) {
  constexpr int kGroups = 2;
  const int64_t groups = n_size / kLanes;
  const int64_t per_task = std::max<int64_t>(kGroups, std::min<int64_t>(64, groups / (threads * 4) / kGroups * kGroups));
  const int64_t tasks = (groups + per_task - 1) / per_task;
  pool().run(threads, tasks, [&](int64_t task) {
    int64_t group = task * per_task;
    const int64_t end = std::min(groups, group + per_task);
    for (; group + kGroups <= end; group += kGroups)
      dense_rows<Weight, kGroups>(x, rows, k_size, w + group * k_size * kLanes, out + group * kLanes, n_size);
    for (; group < end; ++group)
      dense_rows<Weight, 1>(x, rows, k_size, w + group * k_size * kLanes, out + group * kLanes, n_size);
  });
}

template <typename Weight>
void dense_pack(const Weight* w, int64_t n_size, int64_t k_size, Weight* packed) {
  for (int64_t n = 0; n < n_size; ++n)
    for (int64_t k = 0; k < k_size; ++k) packed[(n / kLanes * k_size + k) * kLanes + n % kLanes] = w[n * k_size + k];
}

}  // namespace

extern "C" {

int em_instruction_level() { return WITH_AVX512 ? 3 : WITH_AVX2 ? 2 : 0; }

void em_dense_pack_f32(const float* w, int64_t n, int64_t k, float* packed) { dense_pack(w, n, k, packed); }
void em_dense_pack_bf16(const uint16_t* w, int64_t n, int64_t k, uint16_t* packed) { dense_pack(w, n, k, packed); }

// x [rows, k] f32, packed [n/8][k][8], out [rows, n] f32.
void em_dense_f32(const float* x, int64_t rows, int64_t k, const float* packed, int64_t n, float* out, int threads) {
  dense(x, rows, k, packed, n, out, threads);
}
void em_dense_bf16(const float* x, int64_t rows, int64_t k, const uint16_t* packed, int64_t n, float* out,
                   int threads) {
  dense(x, rows, k, packed, n, out, threads);
}

}  // extern "C"
