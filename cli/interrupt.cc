#include "cli/interrupt.h"

#include <ctime>
#include <utility>

#include <signal.h>

namespace chorale::cli {
namespace {

sigset_t Interrupts() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

bool TakeWithin(int64_t nanoseconds) {
  const sigset_t set = Interrupts();
  const timespec timeout = {.tv_sec = 0, .tv_nsec = nanoseconds};
  return sigtimedwait(&set, nullptr, &timeout) > 0;
}

}  // namespace

void BlockInterrupts() {
  const sigset_t set = Interrupts();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void UnblockInterrupts() {
  const sigset_t set = Interrupts();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

bool TakeInterrupt() { return TakeWithin(0); }

InterruptWatch::InterruptWatch(std::function<void()> on_interrupt)
    : thread_([this, fn = std::move(on_interrupt)] {
        while (!stopping_) {
          if (!TakeWithin(20'000'000)) continue;
          interrupted_ = true;
          fn();
          return;
        }
      }) {}

InterruptWatch::~InterruptWatch() {
  stopping_ = true;
  thread_.join();
}

}  // namespace chorale::cli
