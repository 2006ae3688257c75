// A pool of threads that every kernel shares.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

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
      wanted_ = running_ = num_threads - 1;
      ++generation_;
    }
    wake_.notify_all();
    drain(task, num_tasks);
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
  int wanted_ = 0, running_ = 0;
  uint64_t generation_ = 0;
};

inline ThreadPool& pool() {
  static ThreadPool* instance = new ThreadPool;  // never destroyed: its threads live as long as the process
  return *instance;
}
