// A pool of threads that every kernel shares.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

// How long a thread looks for what it waits for before it sleeps. Waking one costs as much as a small kernel, and within
// a layer one call follows the other; but who spins longer than that takes time from others on a busy machine.
constexpr std::chrono::microseconds kSpin{50};

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns whether `is_done` came true within kSpin.
template <typename Condition>
bool spin_until(const Condition& is_done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (is_done()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return is_done();
}

// A pool whose threads sleep between calls. Work is cut into tasks at fixed places; who runs which decides nothing.
class ThreadPool {
 public:
  void run(int num_threads, int64_t num_tasks, const std::function<void(int64_t)>& task) {
    num_threads = static_cast<int>(std::min<int64_t>(num_threads, num_tasks));
    if (num_threads <= 1) {
      for (int64_t index = 0; index < num_tasks; ++index) task(index);
      return;
    }
    std::lock_guard<std::mutex> one_caller(caller_);
    grow(num_threads - 1);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      task_ = &task;
      next_ = 0;
      num_tasks_ = num_tasks;
      wanted_ = num_threads - 1;
      running_ = wanted_;
      ++generation_;
    }
    wake_.notify_all();
    drain(task, num_tasks);
    if (spin_until([this] { return running_ == 0; })) return;
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  void grow(int count) {
    while (static_cast<int>(threads_.size()) < count) {
      const int index = static_cast<int>(threads_.size());
      threads_.emplace_back([this, index] { work(index); });
      threads_.back().detach();
    }
  }

  void drain(const std::function<void(int64_t)>& task, int64_t num_tasks) {
    for (int64_t index = next_++; index < num_tasks; index = next_++) task(index);
  }

  void work(int index) {
    uint64_t seen = 0;
    for (;;) {
      spin_until([&] { return generation_ != seen; });
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      if (index >= wanted_) continue;
      const auto* task = task_;
      const int64_t num_tasks = num_tasks_;
      lock.unlock();
      drain(*task, num_tasks);
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex caller_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  const std::function<void(int64_t)>* task_ = nullptr;
  std::atomic<int64_t> next_{0};
  int64_t num_tasks_ = 0;
  int wanted_ = 0;
  std::atomic<int> running_{0};
  std::atomic<uint64_t> generation_{0};
};

inline ThreadPool& pool() {
  static ThreadPool* instance = new ThreadPool;  // never destroyed: its threads live as long as the process
  return *instance;
}

constexpr int64_t kRowTask = 32768;  // elements that one thread takes at a time: less is not worth waking another

// Calls `row` for each of the rows, `width` elements each.
template <typename Row>
void for_each_row(int64_t rows, int64_t width, int threads, const Row& row) {
  const int64_t per_task = std::max<int64_t>(1, kRowTask / std::max<int64_t>(1, width));
  pool().run(threads, (rows + per_task - 1) / per_task, [&](int64_t task) {
    for (int64_t r = task * per_task; r < std::min(rows, (task + 1) * per_task); ++r) row(r);
  });
}
