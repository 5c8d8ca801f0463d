// A fixed set of threads that share out the tasks of one operation at a time.
//
// The caller works too, so a pool of n threads starts n - 1. Waiting threads spin for a bounded few
// microseconds, long enough to catch the next operation of a forward pass, and then sleep: an idle
// pool takes no processor time from its neighbours.
//
// ParallelFor must be called from one thread at a time.
#pragma once

#include <memory>

#include "absl/functional/function_ref.h"

namespace chorale::kernels {

class ThreadPool {
 public:
  // `threads` >= 1, the caller included.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Runs fn(0) ... fn(tasks - 1), in any order, and returns when all have returned.
  void ParallelFor(int tasks, absl::FunctionRef<void(int task)> fn);

  int threads() const { return threads_; }

 private:
  struct Shared;
  int threads_;
  std::unique_ptr<Shared> shared_;
};

}  // namespace chorale::kernels
