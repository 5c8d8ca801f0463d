// Ctrl-C and SIGTERM, taken as events at places that can deal with them rather than as a sudden
// end.
//
// gRPC's threads inherit the mask of the thread that makes the first channel, so a command blocks
// the signals before anything else.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace chorale::cli {

inline constexpr int kExitInterrupted = 130;

// Blocks SIGINT and SIGTERM in this thread and all it starts from now on.
void BlockInterrupts();
// Lets them end the process again while this thread waits for something else, such as input.
void UnblockInterrupts();
// Takes a pending signal; true if there was one. For loops that poll.
bool TakeInterrupt();

// Calls `on_interrupt` once, from its own thread, when a blocked signal arrives within its scope.
class InterruptWatch {
 public:
  explicit InterruptWatch(std::function<void()> on_interrupt);
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

  bool interrupted() const { return interrupted_; }

 private:
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> interrupted_ = false;
  std::thread thread_;
};

}  // namespace chorale::cli
