// RedisHealth: whether a Redis server may be asked now, by what its last answers were.
//
//            failure                      the probe, or any answer
//   ok --------------> slow/gone/loading/refused ----------------> ok
//    ^ \  a write was refused                              one probe each pause_min .. pause_max
//    |  +------------> full/read-only: reads go on, one write is tried each pause
//    +-- a write went through --+
//
// While it is slow, gone, loading or refused nobody but the prober asks, so nobody waits. Pure: the
// time is handed in. Not thread safe.
#pragma once

#include <chrono>
#include <string_view>

#include "net/redis/reply.h"

namespace chorale {

using MonotonicTime = std::chrono::steady_clock::time_point;
using MonotonicDuration = std::chrono::steady_clock::duration;

// From the best to the worst.
enum class RedisState { kOk, kFull, kReadOnly, kSlow, kLoading, kGone, kRefused, kConnecting };
const char* RedisStateName(RedisState state);

// What an error reply says about the server; kOk: only about the command.
RedisState StateOfRedisError(std::string_view message);

class RedisHealth {
 public:
  struct Options {
    MonotonicDuration pause_min = std::chrono::milliseconds(100);
    MonotonicDuration pause_max = std::chrono::seconds(2);
    int impatience_max = 3;  // callers in a row who could not wait a whole timeout
  };
  RedisHealth(const Options& options, RedisState state) : options_(options), state_(state) {}

  RedisState state() const { return state_; }
  bool MayRead() const { return state_ <= RedisState::kReadOnly; }
  // Also when a write is to be tried now.
  bool MayWrite(MonotonicTime now) const;
  // Takes the try: the next one is a pause later.
  void StartWrite(MonotonicTime now);
  // When the prober may ask next; only while reads are not allowed.
  MonotonicTime next_try() const { return next_try_; }

  // An answer came that is no failure; `write`: of a command that writes.
  void OnAnswer(bool write);
  void OnFailure(RedisState state, MonotonicTime now);
  // No answer came, but the caller had less time than the server is given.
  void OnImpatience(MonotonicTime now);

 private:
  void Pause(MonotonicTime now);

  const Options options_;
  RedisState state_;
  MonotonicDuration pause_{0};  // the last one; zero when all is well
  MonotonicTime next_try_{};
  int impatient_ = 0;
};

}  // namespace chorale
