#include "kernels/thread_pool.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace chorale::kernels {
namespace {

TEST(ThreadPool, RunsEveryTaskExactlyOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int tasks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(tasks);
      pool.ParallelFor(tasks, [&](int task) { ++runs[task]; });
      for (const auto& count : runs) EXPECT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, SeesWhatTasksWroteAfterManyShortJobs) {
  ThreadPool pool(3);
  int64_t total = 0;
  for (int job = 0; job < 20000; ++job) {
    int cells[4] = {};
    pool.ParallelFor(4, [&](int task) { cells[task] = job + task; });
    for (int cell : cells) total += cell;
  }
  int64_t want = 0;
  for (int64_t job = 0; job < 20000; ++job) want += 4 * job + 6;
  EXPECT_EQ(total, want);
}

TEST(ThreadPool, RunsInlineWithOneThread) {
  ThreadPool pool(1);
  const std::thread::id self = std::this_thread::get_id();
  pool.ParallelFor(10, [&](int) { EXPECT_EQ(std::this_thread::get_id(), self); });
}

TEST(ThreadPool, UsesMoreThanOneThread) {
  ThreadPool pool(2);
  std::atomic<int> inside = 0;
  // Each task waits for the other: one thread alone would never return.
  pool.ParallelFor(2, [&](int) {
    ++inside;
    while (inside < 2) std::this_thread::yield();
  });
  EXPECT_EQ(inside, 2);
}

TEST(ThreadPool, WakesAfterIdling) {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    // Far more looks than the pool spins for, so its thread sleeps when the next job comes.
    for (int i = 0; i < 20000; ++i) std::this_thread::yield();
    std::atomic<int> inside = 0;
    pool.ParallelFor(2, [&](int) {
      ++inside;
      while (inside < 2) std::this_thread::yield();
    });
  }
}

TEST(ThreadPool, PoolsOfDifferentThreadsDoNotMeet) {
  std::vector<std::thread> owners;
  std::atomic<int> total = 0;
  for (int i = 0; i < 3; ++i) {
    owners.emplace_back([&] {
      ThreadPool pool(2);
      for (int job = 0; job < 500; ++job) pool.ParallelFor(3, [&](int) { ++total; });
    });
  }
  for (std::thread& owner : owners) owner.join();
  EXPECT_EQ(total, 3 * 500 * 3);
}

}  // namespace
}  // namespace chorale::kernels
