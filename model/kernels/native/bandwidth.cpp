// How fast memory can be read: the roof that a kernel which touches every weight once stands under.

#include "lanes.h"
#include "pool.h"

namespace {

constexpr int64_t kTaskBytes = 1 << 20;

// Four sums, so that no addition waits for the one before it.
uint64_t sum_words(const uint8_t* data, int64_t bytes, int64_t ahead) {
  uint64_t sums[32] = {};
  for (int64_t at = 0; at + 256 <= bytes; at += 256) {
    if (ahead > 0)
      for (int line = 0; line < 256; line += 64) __builtin_prefetch(data + at + ahead + line);
    uint64_t words[32];
    std::memcpy(words, data + at, sizeof words);
    for (int i = 0; i < 32; ++i) sums[i] += words[i];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

extern "C" {

// Adds up the 8-byte words of data [bytes, a multiple of 256], prefetching `ahead` bytes ahead (0: not at all); total [1] gets the sum.
void em_read(const uint8_t* data, int64_t bytes, int64_t ahead, uint64_t* total, int threads) {
  std::atomic<uint64_t> sum{0};
  pool().run(threads, (bytes + kTaskBytes - 1) / kTaskBytes, [&](int64_t task) {
    const int64_t start = task * kTaskBytes;
    sum += sum_words(data + start, std::min(kTaskBytes, bytes - start), ahead);
  });
  *total = sum;
}

}  // extern "C"
