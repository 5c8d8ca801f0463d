#include "net/redis/health.h"

#include <algorithm>
#include <utility>

namespace chorale {

const char* RedisStateName(RedisState state) {
  switch (state) {
    case RedisState::kOk:
      return "ok";
    case RedisState::kFull:
      return "full";
    case RedisState::kReadOnly:
      return "read-only";
    case RedisState::kSlow:
      return "slow";
    case RedisState::kLoading:
      return "loading";
    case RedisState::kGone:
      return "gone";
    case RedisState::kRefused:
      return "refused";
    case RedisState::kConnecting:
      return "connecting";
  }
  return "unknown";
}

RedisState StateOfRedisError(std::string_view message) {
  static constexpr std::pair<std::string_view, RedisState> kMeanings[] = {
      {"OOM ", RedisState::kFull},
      {"READONLY ", RedisState::kReadOnly},
      {"MISCONF ", RedisState::kReadOnly},
      {"NOREPLICAS ", RedisState::kReadOnly},
      {"LOADING ", RedisState::kLoading},
      {"MASTERDOWN ", RedisState::kLoading},
      {"CLUSTERDOWN ", RedisState::kGone},
      {"BUSY ", RedisState::kSlow},
      {"NOAUTH ", RedisState::kRefused},
      {"WRONGPASS ", RedisState::kRefused},
      {"NOPERM ", RedisState::kRefused},
      {"ERR invalid password", RedisState::kRefused},
      {"ERR max number of clients", RedisState::kGone},
  };
  for (const auto& [prefix, state] : kMeanings) {
    if (message.starts_with(prefix)) return state;
  }
  return RedisState::kOk;
}

bool RedisHealth::MayWrite(MonotonicTime now) const {
  if (state_ == RedisState::kOk) return true;
  return MayRead() && now >= next_try_;
}

void RedisHealth::StartWrite(MonotonicTime now) {
  if (state_ != RedisState::kOk) Pause(now);
}

void RedisHealth::Pause(MonotonicTime now) {
  pause_ = std::clamp(2 * pause_, options_.pause_min, options_.pause_max);
  next_try_ = now + pause_;
}

void RedisHealth::OnAnswer(bool write) {
  impatient_ = 0;
  if (MayRead() && !write) return;
  state_ = RedisState::kOk;
  pause_ = MonotonicDuration::zero();
}

void RedisHealth::OnFailure(RedisState state, MonotonicTime now) {
  // Several callers may report one failure; only a new one makes the pause longer.
  if (state_ == RedisState::kOk || now >= next_try_) Pause(now);
  state_ = state;
  impatient_ = 0;
}

void RedisHealth::OnImpatience(MonotonicTime now) {
  if (++impatient_ >= options_.impatience_max) OnFailure(RedisState::kSlow, now);
}

}  // namespace chorale
