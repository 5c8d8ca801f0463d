#include "services/router/redis_directory.h"

#include <atomic>

#include <gtest/gtest.h>

#include "tests/net/redis/redis_fixture.h"

namespace chorale {
namespace {

constexpr absl::Duration kLong = absl::Seconds(20);

class RedisDirectoryTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HaveRedisServer()) GTEST_SKIP() << "redis-server is not installed";
    server_ = std::make_unique<RedisProcess>();
    redis_ = std::make_unique<Redis>(PatientOptions(server_->url()));
    ASSERT_TRUE(redis_->AwaitState(RedisState::kOk, kLong));
    for (int i = 0; i < 300; ++i) chain_.push_back(TestKey(i));
  }
  std::unique_ptr<RedisDirectory> Open(RedisDirectory::Options options = {}) {
    auto directory = std::make_unique<RedisDirectory>(*redis_, std::move(options));
    return directory;
  }
  std::span<const BlockKey> Chain(size_t blocks) const { return std::span(chain_).first(blocks); }
  // "a:3 b:1", most first.
  static std::string Found(RedisDirectory& directory, std::span<const BlockKey> keys) {
    std::string out;
    for (const RedisHolding& holding : directory.Find(keys, kLong)) {
      out += (out.empty() ? "" : " ") + holding.holder + ":" + std::to_string(holding.blocks);
    }
    return out;
  }

  std::unique_ptr<RedisProcess> server_;
  std::unique_ptr<Redis> redis_;
  std::vector<BlockKey> chain_;
};

TEST_F(RedisDirectoryTest, TellsEachRouterWhatAnotherAnnounced) {
  const auto one = Open(), two = Open();
  one->Announce("a", 1, Chain(300), {});
  one->Announce("b", 2, Chain(130), {});
  const BlockKey hole[] = {chain_[5]};
  one->Announce("c", 3, Chain(10), hole);
  ASSERT_TRUE(one->Drain(kLong));
  EXPECT_EQ(Found(*two, Chain(300)), "a:300 b:130 c:5");
  EXPECT_EQ(Found(*two, Chain(7)), "a:7 b:7 c:5");
  EXPECT_EQ(Found(*two, Chain(0)), "");
  EXPECT_EQ(Found(*two, std::span(chain_).subspan(200)), "a:100");
  two->Announce("a", 1, {}, Chain(1));
  ASSERT_TRUE(two->Drain(kLong));
  EXPECT_EQ(Found(*one, Chain(300)), "b:130 c:5");
  EXPECT_EQ(two->counters().misses, 1);
  EXPECT_EQ(one->counters().keys_queued, 0);
}

TEST_F(RedisDirectoryTest, CountsOnlyHoldersThatLiveAndAreTheSame) {
  const auto directory = Open();
  directory->Announce("a", 1, Chain(3), {});
  directory->Announce("b", 1, Chain(3), {});
  ASSERT_TRUE(directory->Drain(kLong));
  directory->Forget("a");
  ASSERT_TRUE(directory->Drain(kLong));
  EXPECT_EQ(Found(*directory, Chain(3)), "b:3");
  directory->Renew("b", 2);  // it came back empty
  ASSERT_TRUE(directory->Drain(kLong));
  EXPECT_EQ(Found(*directory, Chain(3)), "");
  directory->Announce("b", 2, Chain(2), {});
  ASSERT_TRUE(directory->Drain(kLong));
  EXPECT_EQ(Found(*directory, Chain(3)), "b:2");
}

TEST_F(RedisDirectoryTest, EndsALeaseThatNobodyRenews) {
  const auto directory = Open({.lease = absl::Milliseconds(300)});
  directory->Announce("a", 1, Chain(3), {});
  ASSERT_TRUE(directory->Drain(kLong));
  EXPECT_TRUE(Eventually([&] { return Found(*directory, Chain(3)).empty(); }));
  directory->Renew("a", 1);
  ASSERT_TRUE(directory->Drain(kLong));
  EXPECT_TRUE(Eventually([&] {
    directory->Renew("a", 1);
    return Found(*directory, Chain(3)) == "a:3";
  }));
}

TEST_F(RedisDirectoryTest, AnnouncesAllAgainAfterAFlushAndAfterARestart) {
  std::atomic<int> losses{0};
  std::atomic<RedisDirectory*> opened{nullptr};
  const auto directory = Open({.lease = absl::Milliseconds(600), .on_lost = [&] {
                                 ++losses;
                                 if (RedisDirectory* d = opened) d->Announce("a", 1, Chain(20), {});
                               }});
  opened = directory.get();
  directory->Announce("a", 1, Chain(20), {});
  ASSERT_TRUE(directory->Drain(kLong));
  const auto whole = [&] {
    directory->Renew("a", 1);
    return Found(*directory, Chain(20)) == "a:20";
  };
  EXPECT_TRUE(Eventually(whole));
  EXPECT_EQ(losses, 0);
  server_->Ask({"FLUSHALL"});
  EXPECT_TRUE(Eventually([&] {
    directory->Renew("a", 1);
    return losses >= 1;
  }));
  EXPECT_TRUE(Eventually(whole));

  server_->Kill();
  EXPECT_EQ(Found(*directory, Chain(20)), "");
  server_->Start();
  const int before = losses;
  EXPECT_TRUE(Eventually([&] {
    directory->Renew("a", 1);
    return losses > before;
  }));
  EXPECT_TRUE(Eventually(whole));
  EXPECT_GE(directory->counters().losses, 2);
}

TEST_F(RedisDirectoryTest, KeepsChangesWhileRedisIsAwayAndTellsThemLater) {
  const auto directory = Open();
  directory->Announce("a", 1, Chain(1), {});
  ASSERT_TRUE(directory->Drain(kLong));
  server_->Ask({"CONFIG", "SET", "maxmemory", "1"});
  directory->Announce("a", 1, Chain(50), {});
  ASSERT_TRUE(redis_->AwaitState(RedisState::kFull, kLong));
  EXPECT_EQ(Found(*directory, Chain(50)), "a:1");
  server_->Ask({"CONFIG", "SET", "maxmemory", "0"});
  EXPECT_TRUE(Eventually([&] { return Found(*directory, Chain(50)) == "a:50"; }));
}

TEST_F(RedisDirectoryTest, DropsAllAndSaysSoWhenItsQueueIsFull) {
  std::atomic<int> losses{0};
  const auto directory = Open({.keys_queued_max = 100, .on_lost = [&] { ++losses; }});
  server_->Ask({"CONFIG", "SET", "maxmemory", "1"});
  directory->Announce("a", 1, Chain(90), {});
  directory->Announce("a", 1, Chain(90), {});
  EXPECT_GE(directory->counters().dropped, 90);
  server_->Ask({"CONFIG", "SET", "maxmemory", "0"});
  EXPECT_TRUE(Eventually([&] { return losses > 0; }));
}

TEST_F(RedisDirectoryTest, DoesNotBelieveWhatIsNotAnEntry) {
  const auto directory = Open();
  directory->Announce("a", 1, Chain(1), {});
  ASSERT_TRUE(directory->Drain(kLong));
  const std::string entry = "chorale:at:" + chain_[0].ToHex();
  server_->Ask(
      {"HSET", entry, "b", "one", "c", "", "", "1", "d", "-1", std::string(600, 'x'), "1"});
  EXPECT_EQ(Found(*directory, Chain(1)), "a:1");
  server_->Ask({"SET", entry, "x"});
  EXPECT_EQ(Found(*directory, Chain(1)), "");
  EXPECT_EQ(directory->counters().failed, 1);
  // Writing there is refused too, and does not block what follows.
  directory->Announce("a", 1, Chain(1), {});
  directory->Announce("a", 1, std::span(chain_).subspan(1, 1), {});
  ASSERT_TRUE(directory->Drain(kLong));
  EXPECT_EQ(Found(*directory, std::span(chain_).subspan(1, 1)), "a:1");
  EXPECT_EQ(directory->counters().dropped, 1);
}

}  // namespace
}  // namespace chorale
