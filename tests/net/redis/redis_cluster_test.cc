#include <set>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/hash.h"
#include "services/kvstore/redis/redis_tier.h"
#include "services/router/redis_directory.h"
#include "tests/net/redis/redis_fixture.h"

namespace chorale {
namespace {

constexpr absl::Duration kLong = absl::Seconds(20);
constexpr int kBlocks = 60;

// Three masters that share the slots. Each test is given the same ones, as they were at the start.
class RedisClusterTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HaveRedisServer()) GTEST_SKIP() << "redis-server is not installed";
    for (int i = 0; i < 3; ++i) {
      servers_.push_back(std::make_unique<RedisProcess>(
          std::vector<std::string>{"--cluster-enabled", "yes", "--cluster-node-timeout", "5000",
                                   "--cluster-require-full-coverage", "no"},
          /*ports=*/true));
    }
    const int bounds[] = {0, 5461, 10923, kRedisSlots};
    for (size_t i = 0; i < 3; ++i) {
      servers_[i]->Ask(
          {"CLUSTER", "ADDSLOTSRANGE", absl::StrCat(bounds[i]), absl::StrCat(bounds[i + 1] - 1)});
      servers_[0]->Ask({"CLUSTER", "MEET", "127.0.0.1", absl::StrCat(servers_[i]->port()),
                        absl::StrCat(servers_[i]->cluster_port())});
      ids_.push_back(servers_[i]->Ask({"CLUSTER", "MYID"}).text);
    }
    for (const auto& server : servers_) {
      ASSERT_TRUE(Eventually([&] {
        const std::string info = server->Ask({"CLUSTER", "INFO"}).text;
        return info.find("cluster_state:ok") != info.npos &&
               info.find("cluster_slots_assigned:16384") != info.npos;
      }));
    }
    redis_ = std::make_unique<Redis>(PatientOptions(servers_[1]->url()));
    ASSERT_TRUE(redis_->AwaitState(RedisState::kOk, kLong));
    tier_ = std::make_unique<RedisTier>(*redis_, RedisTier::Options{});
    for (int i = 0; i < kBlocks; ++i) keys_.push_back(TestKey(i));
  }
  void PutAll() {
    for (int i = 0; i < kBlocks; ++i) {
      const auto bytes = TestBytes(i, 1000);
      tier_->Put(keys_[static_cast<size_t>(i)], {.index = i, .checksum = Checksum64(bytes)}, bytes);
    }
    ASSERT_TRUE(tier_->Drain(kLong));
  }
  int CountFound() {
    int found = 0;
    for (const auto& block : tier_->Get(keys_, kLong)) found += block.has_value() ? 1 : 0;
    return found;
  }
  static size_t OwnerAtStart(int slot) { return slot < 5461 ? 0 : slot < 10923 ? 1 : 2; }

  std::vector<std::unique_ptr<RedisProcess>> servers_;
  std::vector<std::string> ids_;
  std::unique_ptr<Redis> redis_;
  std::unique_ptr<RedisTier> tier_;
  std::vector<BlockKey> keys_;
};

TEST_F(RedisClusterTest, SpreadsBlocksOverItsMastersAndFindsThem) {
  PutAll();
  EXPECT_EQ(CountFound(), kBlocks);
  for (const auto& server : servers_) EXPECT_GT(server->Ask({"DBSIZE"}).integer, 0);
  EXPECT_EQ(redis_->counters().redirects, 0);
  std::set<size_t> owners;
  for (const std::string& key : redis_->KeyOfEachServer("x")) {
    owners.insert(OwnerAtStart(RedisSlotOf(key)));
  }
  EXPECT_EQ(owners.size(), 3u);
}

TEST_F(RedisClusterTest, FollowsASlotThatMoves) {
  PutAll();
  const std::string name = RedisKeyOfBlock(keys_[0]);
  const int slot = RedisSlotOf(name);
  const size_t from = OwnerAtStart(slot), to = (from + 1) % 3;
  servers_[to]->Ask({"CLUSTER", "SETSLOT", absl::StrCat(slot), "IMPORTING", ids_[from]});
  servers_[from]->Ask({"CLUSTER", "SETSLOT", absl::StrCat(slot), "MIGRATING", ids_[to]});
  const RedisReply moved = servers_[from]->Ask(
      {"MIGRATE", "127.0.0.1", absl::StrCat(servers_[to]->port()), name, "0", "5000"});
  ASSERT_TRUE(moved.ok()) << moved.text;
  EXPECT_EQ(CountFound(), kBlocks);  // ASK
  EXPECT_GE(redis_->counters().redirects, 1);
  for (const size_t i : {to, from, 3 - to - from}) {
    servers_[i]->Ask({"CLUSTER", "SETSLOT", absl::StrCat(slot), "NODE", ids_[to]});
  }
  const int64_t asked = redis_->counters().redirects;
  EXPECT_EQ(CountFound(), kBlocks);  // MOVED
  EXPECT_EQ(redis_->counters().redirects, asked + 1);
  EXPECT_EQ(CountFound(), kBlocks);  // and learnt
  EXPECT_EQ(redis_->counters().redirects, asked + 1);
}

TEST_F(RedisClusterTest, GoesOnWithTheOthersWhenOneMasterIsGone) {
  PutAll();
  servers_[2]->Kill();
  int elsewhere = 0;
  for (const BlockKey& key : keys_) {
    elsewhere += OwnerAtStart(RedisSlotOf(RedisKeyOfBlock(key))) != 2 ? 1 : 0;
  }
  EXPECT_EQ(CountFound(), elsewhere);
  EXPECT_EQ(redis_->state(), RedisState::kGone);
  EXPECT_EQ(CountFound(), elsewhere);
  servers_[2]->Start();
  EXPECT_TRUE(Eventually([&] {
    PutAll();
    return CountFound() == kBlocks;
  }));
}

TEST_F(RedisClusterTest, KeepsADirectoryOverAllItsMasters) {
  std::atomic<int> losses{0};
  RedisDirectory directory(*redis_,
                           {.lease = absl::Milliseconds(600), .on_lost = [&] { ++losses; }});
  directory.Announce("a", 7, keys_, {});
  ASSERT_TRUE(directory.Drain(kLong));
  const auto found = [&] {
    directory.Renew("a", 7);
    const auto holdings = directory.Find(keys_, kLong);
    return holdings.empty() ? 0 : holdings[0].blocks;
  };
  EXPECT_TRUE(Eventually([&] { return found() == kBlocks; }));
  EXPECT_EQ(losses, 0);
  servers_[1]->Ask({"FLUSHALL"});  // one of three
  EXPECT_TRUE(Eventually([&] { return losses > 0; }));
}

}  // namespace
}  // namespace chorale
