#include "kernels/thread_pool.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/check.h"

namespace chorale::kernels {
namespace {

// How long a thread looks for work before it sleeps. Regions of one forward pass follow each other
// within a few microseconds, a futex wake costs 5 to 50: the spin covers the former. The later part
// of the spin yields, so that a runnable neighbour gets the core at once.
constexpr std::chrono::microseconds kSpinMax{50};
constexpr int kPausesPerLook = 32;
constexpr int kLooksBeforeYield = 8;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns once `value` differs from `old`: spins, then sleeps.
void AwaitChange(const std::atomic<uint32_t>& value, uint32_t old) {
  const auto deadline = std::chrono::steady_clock::now() + kSpinMax;
  for (int look = 0; look == 0 || std::chrono::steady_clock::now() < deadline; ++look) {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      Pause();
    }
    if (look >= kLooksBeforeYield) std::this_thread::yield();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

// One operation ("job") at a time. A thread claims a task by a compare-and-swap on `tickets`, which
// holds the job's number beside the count of unclaimed tasks: a thread that wakes late can claim
// nothing from a job that is over, so the caller waits only for tasks that were claimed and never
// for a thread that slept through. Between a claim and the finish of its task the job cannot end,
// hence `fn` and `tasks` are stable there.
struct ThreadPool::Shared {
  alignas(64) std::atomic<uint64_t> tickets{0};   // job << 32 | unclaimed tasks
  alignas(64) std::atomic<uint32_t> finished{0};  // tasks of this job that returned
  alignas(64) std::atomic<uint32_t> job{0};       // workers wait for it to change
  std::atomic<bool> stop{false};
  uint32_t tasks = 0;
  const absl::FunctionRef<void(int)>* fn = nullptr;
  std::vector<std::thread> workers;

  // Claims and runs tasks of job number `number` until none is left.
  void Work(uint32_t number) {
    uint64_t seen = tickets.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(seen >> 32) == number && static_cast<uint32_t>(seen) > 0) {
      if (!tickets.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) continue;
      const uint32_t total = tasks;
      (*fn)(static_cast<int>(total - static_cast<uint32_t>(seen)));
      if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 == total) finished.notify_one();
      seen = tickets.load(std::memory_order_acquire);
    }
  }

  void RunWorker() {
    uint32_t number = 0;
    while (true) {
      AwaitChange(job, number);
      number = job.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_acquire)) return;
      Work(number);
    }
  }
};

ThreadPool::ThreadPool(int threads) : threads_(threads), shared_(std::make_unique<Shared>()) {
  CHECK_GE(threads, 1);
  shared_->workers.reserve(threads - 1);
  for (int i = 1; i < threads; ++i) {
    shared_->workers.emplace_back([shared = shared_.get()] { shared->RunWorker(); });
  }
}

ThreadPool::~ThreadPool() {
  shared_->stop.store(true, std::memory_order_release);
  shared_->job.fetch_add(1, std::memory_order_acq_rel);
  shared_->job.notify_all();
  for (std::thread& worker : shared_->workers) worker.join();
}

void ThreadPool::ParallelFor(int tasks, absl::FunctionRef<void(int task)> fn) {
  if (threads_ == 1 || tasks <= 1) {
    for (int i = 0; i < tasks; ++i) fn(i);
    return;
  }
  Shared& s = *shared_;
  const uint32_t number = s.job.load(std::memory_order_relaxed) + 1;
  s.fn = &fn;
  s.tasks = static_cast<uint32_t>(tasks);
  s.finished.store(0, std::memory_order_relaxed);
  s.tickets.store(uint64_t{number} << 32 | static_cast<uint32_t>(tasks), std::memory_order_release);
  s.job.store(number, std::memory_order_release);
  s.job.notify_all();
  s.Work(number);
  uint32_t done = s.finished.load(std::memory_order_acquire);
  while (done != s.tasks) {
    AwaitChange(s.finished, done);
    done = s.finished.load(std::memory_order_acquire);
  }
}

}  // namespace chorale::kernels
