// WorkPool: threads that run what is posted to them, first come, first served.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace chorale {

class WorkPool {
 public:
  // At most `queue_max` pieces of work wait.
  WorkPool(int threads, size_t queue_max);
  ~WorkPool() { Stop(); }
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  // False, and nothing done, when the queue is full or it was stopped. Thread safe.
  bool Post(std::function<void()> work);
  // Runs what waits, then ends; nothing is taken from now on.
  void Stop();

 private:
  void Run();

  const size_t queue_max_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;  // under mutex_
  bool stopping_ = false;                    // under mutex_
  std::vector<std::thread> threads_;
};

}  // namespace chorale
