#include "net/redis/health.h"

#include <gtest/gtest.h>

namespace chorale {
namespace {

using std::chrono::milliseconds;
constexpr MonotonicTime kStart{std::chrono::seconds(1000)};

RedisHealth Well() {
  return RedisHealth({.pause_min = milliseconds(100), .pause_max = milliseconds(400)},
                     RedisState::kOk);
}

TEST(RedisHealthTest, PausesLongerWithEachFailureUpToTheLongest) {
  RedisHealth health = Well();
  MonotonicTime now = kStart;
  for (const int pause_ms : {100, 200, 400, 400}) {
    health.OnFailure(RedisState::kGone, now);
    EXPECT_FALSE(health.MayRead());
    EXPECT_FALSE(health.MayWrite(now + milliseconds(10'000)));
    EXPECT_EQ(health.next_try(), now + milliseconds(pause_ms));
    // Others who fail at the same time do not make it longer.
    health.OnFailure(RedisState::kSlow, now + milliseconds(1));
    EXPECT_EQ(health.next_try(), now + milliseconds(pause_ms));
    now = health.next_try();
  }
  health.OnAnswer(/*write=*/false);
  EXPECT_EQ(health.state(), RedisState::kOk);
  EXPECT_TRUE(health.MayWrite(now));
  health.OnFailure(RedisState::kGone, now);
  EXPECT_EQ(health.next_try(), now + milliseconds(100));
}

TEST(RedisHealthTest, ReadsWhileFullAndTriesOneWriteEachPause) {
  RedisHealth health = Well();
  health.OnFailure(RedisState::kFull, kStart);
  EXPECT_TRUE(health.MayRead());
  EXPECT_FALSE(health.MayWrite(kStart + milliseconds(99)));
  health.OnAnswer(/*write=*/false);
  EXPECT_EQ(health.state(), RedisState::kFull);
  const MonotonicTime now = kStart + milliseconds(100);
  ASSERT_TRUE(health.MayWrite(now));
  health.StartWrite(now);
  EXPECT_FALSE(health.MayWrite(now + milliseconds(199)));
  health.OnFailure(RedisState::kFull, now + milliseconds(1));
  EXPECT_TRUE(health.MayWrite(now + milliseconds(200)));
  health.OnAnswer(/*write=*/true);
  EXPECT_EQ(health.state(), RedisState::kOk);
}

TEST(RedisHealthTest, LosesPatienceWithAServerThatThreeInARowCouldNotWaitFor) {
  RedisHealth health = Well();
  health.OnImpatience(kStart);
  health.OnImpatience(kStart);
  health.OnAnswer(/*write=*/false);
  health.OnImpatience(kStart);
  health.OnImpatience(kStart);
  EXPECT_EQ(health.state(), RedisState::kOk);
  health.OnImpatience(kStart);
  EXPECT_EQ(health.state(), RedisState::kSlow);
}

TEST(RedisHealthTest, KnowsWhatErrorsSayAboutTheServer) {
  EXPECT_EQ(StateOfRedisError("OOM command not allowed"), RedisState::kFull);
  EXPECT_EQ(StateOfRedisError("READONLY You can't write"), RedisState::kReadOnly);
  EXPECT_EQ(StateOfRedisError("LOADING Redis is loading"), RedisState::kLoading);
  EXPECT_EQ(StateOfRedisError("CLUSTERDOWN Hash slot not served"), RedisState::kGone);
  EXPECT_EQ(StateOfRedisError("WRONGTYPE Operation against"), RedisState::kOk);
  EXPECT_EQ(StateOfRedisError(""), RedisState::kOk);
}

}  // namespace
}  // namespace chorale
