#include "services/kvstore/redis/redis_tier.h"

#include <gtest/gtest.h>

#include "base/hash.h"
#include "tests/net/redis/redis_fixture.h"

namespace chorale {
namespace {

constexpr absl::Duration kLong = absl::Seconds(20);
constexpr size_t kBytes = 20'000;

// A server, a client of it and a tier, that knows its state to be ok.
class RedisTierTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HaveRedisServer()) GTEST_SKIP() << "redis-server is not installed";
  }
  void Open(RedisTier::Options options = {}, absl::Duration timeout = absl::Seconds(1)) {
    server_ = std::make_unique<RedisProcess>();
    RedisOptions redis_options = PatientOptions(server_->url());
    redis_options.timeout = timeout;
    redis_ = std::make_unique<Redis>(redis_options);
    ASSERT_TRUE(redis_->AwaitState(RedisState::kOk, kLong));
    tier_ = std::make_unique<RedisTier>(*redis_, options);
  }
  bool Put(int i, size_t size = kBytes) {
    const std::vector<std::byte> bytes = TestBytes(i, size);
    return tier_->Put(TestKey(i), {.format = 5, .index = i, .checksum = Checksum64(bytes)}, bytes);
  }
  std::optional<RedisBlock> Get(int i, absl::Duration timeout = kLong) {
    const BlockKey key = TestKey(i);
    return tier_->Get({&key, 1}, timeout)[0];
  }
  bool Has(int i) { return Get(i).has_value(); }

  std::unique_ptr<RedisProcess> server_;
  std::unique_ptr<Redis> redis_;
  std::unique_ptr<RedisTier> tier_;
};

TEST_F(RedisTierTest, GivesBackWhatWasPut) {
  Open();
  std::vector<BlockKey> keys;
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(Put(i, i == 3 ? 0 : static_cast<size_t>(i) * 30'011));
    keys.push_back(TestKey(i));
  }
  ASSERT_TRUE(tier_->Drain(kLong));
  keys.push_back(TestKey(99));
  EXPECT_EQ(tier_->CountPrefix(keys, kLong), 40);
  const auto blocks = tier_->Get(keys, kLong);
  for (int i = 0; i < 40; ++i) {
    const auto& block = blocks[static_cast<size_t>(i)];
    ASSERT_TRUE(block.has_value()) << i;
    const auto bytes = TestBytes(i, i == 3 ? 0 : static_cast<size_t>(i) * 30'011);
    EXPECT_TRUE(
        std::equal(bytes.begin(), bytes.end(), block->bytes().begin(), block->bytes().end()));
    EXPECT_EQ(block->head.index, i);
    EXPECT_EQ(block->head.format, 5u);
  }
  EXPECT_FALSE(blocks[40].has_value());
  const RedisTierCounters counters = tier_->counters();
  EXPECT_EQ(counters.hits, 40);
  EXPECT_EQ(counters.misses, 1);
  EXPECT_EQ(counters.written, 40);
  EXPECT_EQ(counters.bytes_queued, 0);
}

TEST_F(RedisTierTest, PutsBlocksWithTheirTimeToLive) {
  Open({.ttl = absl::Seconds(100)});
  ASSERT_TRUE(Put(1));
  ASSERT_TRUE(tier_->Drain(kLong));
  const int64_t left = server_->Ask({"PTTL", RedisKeyOfBlock(TestKey(1))}).integer;
  EXPECT_GT(left, 0);
  EXPECT_LE(left, 100'000);
}

TEST_F(RedisTierTest, MissesAfterAFlushAndHitsAgainWhenPutAgain) {
  Open();
  ASSERT_TRUE(Put(1));
  ASSERT_TRUE(tier_->Drain(kLong));
  ASSERT_TRUE(Has(1));
  server_->Ask({"FLUSHALL"});
  EXPECT_FALSE(Has(1));
  ASSERT_TRUE(Put(1));
  ASSERT_TRUE(tier_->Drain(kLong));
  EXPECT_TRUE(Has(1));
}

TEST_F(RedisTierTest, GoesOnWithoutAKilledServerAndFindsItWhenItIsBack) {
  Open();
  ASSERT_TRUE(Put(1));
  ASSERT_TRUE(tier_->Drain(kLong));
  server_->Kill();
  EXPECT_FALSE(Has(1));
  ASSERT_TRUE(redis_->AwaitState(RedisState::kGone, kLong));
  EXPECT_FALSE(Put(2));  // at once, nothing is queued
  const int64_t sent = redis_->counters().commands;
  EXPECT_FALSE(Has(1));
  EXPECT_EQ(redis_->counters().commands, sent);
  EXPECT_GE(tier_->counters().dropped, 1);

  server_->Start();
  ASSERT_TRUE(redis_->AwaitState(RedisState::kOk, kLong));
  EXPECT_FALSE(Has(1));  // it came back empty
  ASSERT_TRUE(Put(2));
  ASSERT_TRUE(tier_->Drain(kLong));
  EXPECT_TRUE(Has(2));
}

TEST_F(RedisTierTest, ReturnsWhileTheServerIsStoppedAndHitsWhenItGoesOn) {
  Open({}, absl::Milliseconds(100));
  ASSERT_TRUE(Put(1));
  ASSERT_TRUE(tier_->Drain(kLong));
  server_->Pause();
  // The server stays stopped until Resume, so that these return at all shows that they give up.
  EXPECT_FALSE(Has(1));
  EXPECT_EQ(redis_->state(), RedisState::kSlow);
  EXPECT_EQ(redis_->counters().timeouts, 1);
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(Has(1));
  EXPECT_EQ(redis_->counters().timeouts, 1);  // nobody else waited
  EXPECT_EQ(redis_->counters().skipped, 1000);
  server_->Resume();
  ASSERT_TRUE(redis_->AwaitState(RedisState::kOk, kLong));
  EXPECT_TRUE(Eventually([this] { return Has(1); }));
}

TEST_F(RedisTierTest, GivesUpAtTheCallersDeadlineAndStopsAskingWhenThatHappensOften) {
  Open({}, absl::Seconds(3600));
  server_->Pause();
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(Get(1, absl::Milliseconds(20)).has_value());
  EXPECT_EQ(redis_->state(), RedisState::kSlow);
  // Lets the prober, which is as patient as its options, come to its end.
  server_->Resume();
}

TEST_F(RedisTierTest, DropsPutsWhenRedisIsFullAndStillReads) {
  Open();
  ASSERT_TRUE(Put(1));
  ASSERT_TRUE(tier_->Drain(kLong));
  server_->Ask({"CONFIG", "SET", "maxmemory", "1"});
  Put(2);
  ASSERT_TRUE(tier_->Drain(kLong));
  EXPECT_EQ(redis_->state(), RedisState::kFull);
  EXPECT_EQ(tier_->counters().dropped, 1);
  EXPECT_TRUE(Has(1));
  EXPECT_FALSE(Has(2));
  server_->Ask({"CONFIG", "SET", "maxmemory", "0"});
  EXPECT_TRUE(Eventually([this] {
    Put(2);
    return tier_->Drain(kLong) && redis_->state() == RedisState::kOk;
  }));
  EXPECT_TRUE(Has(2));
}

TEST_F(RedisTierTest, ReadsFromAReadOnlyServer) {
  Open();
  ASSERT_TRUE(Put(1));
  ASSERT_TRUE(tier_->Drain(kLong));
  // A replica of nobody: its master does not exist.
  server_->Ask({"REPLICAOF", "127.0.0.1", "1"});
  Put(2);
  ASSERT_TRUE(tier_->Drain(kLong));
  EXPECT_EQ(redis_->state(), RedisState::kReadOnly);
  EXPECT_TRUE(Has(1));
  server_->Ask({"REPLICAOF", "NO", "ONE"});
  EXPECT_TRUE(Eventually([this] {
    Put(2);
    return tier_->Drain(kLong) && redis_->state() == RedisState::kOk;
  }));
}

TEST_F(RedisTierTest, FindsAFlippedBitAnywhereAndDropsTheBlock) {
  Open();
  const std::string name = RedisKeyOfBlock(TestKey(1));
  constexpr int64_t kSize = 64 + 500;
  for (int64_t offset = 0; offset < kSize; offset += 13) {
    ASSERT_TRUE(Put(1, 500));
    ASSERT_TRUE(tier_->Drain(kLong));
    ASSERT_TRUE(Has(1));
    const std::string place = std::to_string(offset);
    std::string byte = server_->Ask({"GETRANGE", name, place, place}).text;
    byte[0] = static_cast<char>(byte[0] ^ (1 << (offset % 8)));
    server_->Ask({"SETRANGE", name, place, byte});
    EXPECT_FALSE(Has(1)) << "byte " << offset;
    ASSERT_TRUE(tier_->Drain(kLong));
    EXPECT_EQ(server_->Ask({"EXISTS", name}).integer, 0);
  }
  EXPECT_EQ(tier_->counters().corrupt, (kSize + 12) / 13);
  server_->Ask({"HSET", name, "not", "a block"});
  EXPECT_FALSE(Has(1));
  ASSERT_TRUE(tier_->Drain(kLong));
  EXPECT_EQ(server_->Ask({"EXISTS", name}).integer, 0);
}

TEST_F(RedisTierTest, DropsBlocksThatFindNoRoomInItsQueue) {
  Open({.queue_bytes_max = 100'000});
  server_->Pause();  // nothing leaves the queue
  int taken = 0;
  for (int i = 0; i < 20; ++i) taken += Put(i) ? 1 : 0;
  EXPECT_EQ(taken, 4);
  EXPECT_LE(tier_->counters().bytes_queued, 100'000);
  EXPECT_EQ(tier_->counters().dropped, 16);
  server_->Resume();
}

TEST_F(RedisTierTest, SaysThatAPasswordIsWrongAndTakesTheRightOne) {
  server_ = std::make_unique<RedisProcess>(std::vector<std::string>{"--requirepass", "right"});
  RedisOptions options = PatientOptions(server_->url());
  options.url.password = "wrong";
  Redis refused(options);
  EXPECT_TRUE(refused.AwaitState(RedisState::kRefused, kLong));
  EXPECT_FALSE(refused.MayRead("x"));
  options.url.password = "right";
  options.url.database = 3;
  Redis taken(options);
  EXPECT_TRUE(taken.AwaitState(RedisState::kOk, kLong));
}

TEST_F(RedisTierTest, IsUsedByManyThreadsWhileTheServerComesAndGoes) {
  Open();
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; !stop; ++i) {
        const int block = (i * 7 + t) % 50;
        Put(block, 3000);
        const auto found = Get(block);
        const auto bytes = TestBytes(block, 3000);
        if (found &&
            !std::equal(bytes.begin(), bytes.end(), found->bytes().begin(), found->bytes().end())) {
          ++wrong;
        }
      }
    });
  }
  for (int i = 0; i < 3; ++i) {
    const int64_t hits = tier_->counters().hits;
    EXPECT_TRUE(Eventually([&] { return tier_->counters().hits > hits + 50; }));
    server_->Kill();
    EXPECT_TRUE(redis_->AwaitState(RedisState::kGone, kLong));
    server_->Start();
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace chorale
