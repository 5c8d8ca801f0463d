// One flipped bit in a block, wherever blocks are: it is found every time, counted, and what it
// held computed anew; nobody sees a token of it.
#include <map>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <signal.h>

#include "services/kvstore/redis/redis_value.h"
#include "tests/e2e/fixtures/bit_flip.h"
#include "tests/e2e/fixtures/cache_fixture.h"
#include "tests/e2e/fixtures/flip_proxy.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

constexpr int kBlocks = 25;
constexpr int kPrompt = kBlocks * 16;  // and a token that every worker computes
constexpr int kSeeds = 3;

// Slow enough for K/V to be worth fetching.
ModelConfig SlowConfig() {
  ModelConfig config = TinyConfig();
  config.layers = 4;
  config.hidden = 128;
  config.heads = 8;
  config.head_dim = 16;
  config.ffn = 384;
  return config;
}

class CacheFlips : public CacheTest {
 protected:
  CacheFlips()
      : CacheTest(SlowConfig()),
        seed_(std::random_device{}()),
        prompt_(RandomPrompt(1, kPrompt + 1)),
        undisturbed_(Undisturbed(prompt_)) {
    printf("seed %u\n", seed_);
  }

  static ClusterOptions Workers(int prefill, int decode, bool shared_memory) {
    ClusterOptions options = {.prefill = prefill, .decode = decode};
    options.worker_flags = {"--blocks", "200"};
    if (!shared_memory) options.worker_flags.push_back("--no-shared-memory");
    return options;
  }

  std::string Address(const std::string& id) const { return cluster_->SocketOf(id); }

  // A counter of a worker that asks for the prompt, and how it must have grown when it has the
  // answer.
  struct Growth {
    std::string counter;
    int64_t by = 0;
  };
  // What was computed of the prompt by the worker.
  int64_t Computed(const std::string& id, const KvSources& sources,
                   const std::vector<Growth>& growths) {
    std::map<std::string, int64_t> before = cluster_->Metrics(id);
    EXPECT_EQ(Ask(id, prompt_, sources).tokens.at(0), undisturbed_);
    std::map<std::string, int64_t> after = cluster_->Metrics(id);
    for (const auto& [counter, by] : growths) {
      EXPECT_EQ(after[counter] - before[counter], by) << id << " " << counter;
    }
    return after["prompt_tokens_computed"] - before["prompt_tokens_computed"];
  }

  // The bytes of the index-th block of the prompt.
  std::string Block(const std::string& id, int index) {
    return CopyBlock(Address(id), Format(), Keys(prompt_)[index]);
  }
  int RandomIndex() const { return static_cast<int>(seed_ % kBlocks); }
  // Of the prompt, when a block of it is bad and nobody else has those behind it.
  static int64_t TokensFrom(int index) { return kPrompt - index * kBlockTokens; }

  const unsigned seed_;
  const std::vector<int> prompt_;
  const std::vector<int> undisturbed_;
};

TEST_F(CacheFlips, OnTheWireFromAPrefillWorker) {
  Start(Workers(1, 1, false));
  FlipProxy proxy;
  proxy.Forward(Address("prefill-0"));
  EXPECT_EQ(Computed("decode-0", {.prefill = proxy.address()}, {{"blocks_rejected", 0}}), 0);
  for (int i = 0; i < kSeeds; ++i) {
    Forget("decode-0");
    proxy.FlipNext(FlipProxy::Toward::kClient, seed_ + i);
    const int64_t computed =
        Computed("decode-0", {.prefill = proxy.address()}, {{"blocks_rejected", 1}});
    EXPECT_EQ(proxy.flips(), i + 1);
    EXPECT_GE(computed, kBlockTokens);
    EXPECT_EQ(computed % kBlockTokens, 0);
  }
}

TEST_F(CacheFlips, OnTheWireFromAPeer) {
  Start(Workers(0, 2, false));
  FlipProxy proxy;
  proxy.Forward(Address("decode-0"));
  EXPECT_EQ(Computed("decode-0", {}, {}), kPrompt);
  EXPECT_EQ(Computed("decode-1", {.holders = {proxy.address()}}, {{"blocks_rejected", 0}}), 0);
  for (int i = 0; i < kSeeds; ++i) {
    Forget("decode-1");
    proxy.FlipNext(FlipProxy::Toward::kClient, seed_ + i);
    const int64_t computed =
        Computed("decode-1", {.holders = {proxy.address()}},
                 {{"blocks_rejected", 1}, {"blocks_pulled", kBlocks}, {"blocks_shared", 0}});
    EXPECT_EQ(proxy.flips(), i + 1);
    EXPECT_GE(computed, kBlockTokens);
    EXPECT_EQ(computed % kBlockTokens, 0);
  }
}

TEST_F(CacheFlips, OnTheWireToAStoreAndFromIt) {
  FlipProxy proxy;
  ClusterOptions options = Workers(1, 1, true);
  options.prefill_flags = {"--store", proxy.address()};
  Start(options);
  cluster_->StartStore("store-0");
  proxy.Forward(Address("store-0"));
  const KvSources prefill = {.prefill = Address("prefill-0")};

  proxy.FlipNext(FlipProxy::Toward::kServer, seed_);
  EXPECT_EQ(Computed("decode-0", prefill, {}), 0);
  ASSERT_TRUE(WaitFor([&] { return TierCounter("store-0", "dram", "corrupt_puts") == 1; }));
  EXPECT_EQ(proxy.flips(), 1);

  // What is written again is offered again.
  Forget("prefill-0");
  Forget("decode-0");
  EXPECT_EQ(Computed("decode-0", prefill, {}), 0);
  WaitForBlocks("store-0", prompt_, kBlocks);
  Forget("decode-0");
  proxy.FlipNext(FlipProxy::Toward::kClient, seed_ + 1);
  const int64_t computed =
      Computed("decode-0", {.holders = {proxy.address()}}, {{"blocks_rejected", 1}});
  EXPECT_EQ(proxy.flips(), 2);
  EXPECT_GE(computed, kBlockTokens);
  EXPECT_EQ(computed % kBlockTokens, 0);
}

TEST_F(CacheFlips, InTheSharedMemoryOfAPeerAndInAWorkersOwnPool) {
  Start(Workers(0, 2, true));
  // The first pull tells of the peer's memory; what follows is read there.
  const std::vector<int> another = RandomPrompt(2, 200);
  Ask("decode-0", another);
  Ask("decode-1", another, {.holders = {Address("decode-0")}});

  EXPECT_EQ(Computed("decode-0", {}, {}), kPrompt);
  const int index = RandomIndex();
  FlipInMemory(cluster_->worker("decode-0").pid(), Block("decode-0", index), seed_);
  EXPECT_EQ(Computed("decode-1", {.holders = {Address("decode-0")}},
                     {{"blocks_rejected", 1}, {"blocks_shared", kBlocks}}),
            TokensFrom(index));
  // The peer finds it when it uses the block itself.
  EXPECT_EQ(Computed("decode-0", {}, {{"blocks_corrupt", 1}}), TokensFrom(index));
  EXPECT_EQ(Computed("decode-0", {}, {{"blocks_corrupt", 0}}), 0);
}

TEST_F(CacheFlips, InThePoolOfAPrefillWorker) {
  Start(Workers(1, 1, true));
  EXPECT_EQ(Computed("decode-0", {.prefill = Address("prefill-0")}, {}), 0);
  const int index = RandomIndex();
  FlipInMemory(cluster_->worker("prefill-0").pid(), Block("prefill-0", index), seed_);
  Forget("decode-0");
  std::map<std::string, int64_t> before = cluster_->Metrics("prefill-0");
  EXPECT_EQ(Computed("decode-0", {.prefill = Address("prefill-0")}, {{"blocks_rejected", 0}}), 0);
  std::map<std::string, int64_t> after = cluster_->Metrics("prefill-0");
  EXPECT_EQ(after["blocks_corrupt"] - before["blocks_corrupt"], 1);
  EXPECT_EQ(after["prompt_tokens_computed"] - before["prompt_tokens_computed"], TokensFrom(index));
}

class StoreFlips : public CacheFlips {
 protected:
  // Both workers use the store; the first fills it.
  void StartWithStore(bool disk, bool redis = false) {
    ClusterOptions options = Workers(0, 2, true);
    options.stores = 1;
    options.store_disk = disk;
    options.store_flags = {"--dram-mib", "64", "--disk-mib", "64"};
    options.redis = redis;
    Start(options);
    EXPECT_EQ(Computed("decode-0", {}, {}), kPrompt);
    WaitForBlocks("store-0", prompt_, kBlocks);
  }

  // Its memory is empty then.
  void RestartStore() {
    cluster_->store("store-0").Signal(SIGTERM);
    EXPECT_EQ(cluster_->store("store-0").Wait(), 0);
    cluster_->StartStore("store-0");
  }

  const KvSources& store() {
    store_.holders = {Address("store-0")};
    return store_;
  }

 private:
  KvSources store_;
};

TEST_F(StoreFlips, InTheMemoryOfAStore) {
  StartWithStore(/*disk=*/false);
  const int index = RandomIndex();
  FlipInMemory(cluster_->store("store-0").pid(), Block("store-0", index), seed_);
  EXPECT_EQ(Computed("decode-1", store(), {{"blocks_rejected", 0}}), TokensFrom(index));
  EXPECT_EQ(TierCounter("store-0", "dram", "corrupt"), 1);
  // What was computed for it is stored in its place.
  WaitForBlocks("store-0", prompt_, kBlocks);
  Forget("decode-1");
  EXPECT_EQ(Computed("decode-1", store(), {}), 0);
  EXPECT_EQ(TierCounter("store-0", "dram", "corrupt"), 1);
}

TEST_F(StoreFlips, InTheMemoryOfAStoreThatHasItOnDiskToo) {
  StartWithStore(/*disk=*/true);
  ASSERT_TRUE(WaitFor([&] { return TierCounter("store-0", "disk", "written") >= kBlocks; }));
  FlipInMemory(cluster_->store("store-0").pid(), Block("store-0", RandomIndex()), seed_);
  EXPECT_EQ(Computed("decode-1", store(), {{"blocks_rejected", 0}}), 0);
  EXPECT_EQ(TierCounter("store-0", "dram", "corrupt"), 1);
}

TEST_F(StoreFlips, OnTheDiskOfAStore) {
  StartWithStore(/*disk=*/true);
  const int index = RandomIndex();
  const std::string block = Block("store-0", index);
  RestartStore();
  FlipInFile(cluster_->StoreFolder("store-0") + "/data", block, seed_);
  EXPECT_EQ(Computed("decode-1", store(), {{"blocks_rejected", 0}}), TokensFrom(index));
  EXPECT_EQ(TierCounter("store-0", "disk", "corrupt"), 1);
  WaitForBlocks("store-0", prompt_, kBlocks);
  Forget("decode-1");
  EXPECT_EQ(Computed("decode-1", store(), {}), 0);
  EXPECT_EQ(TierCounter("store-0", "disk", "corrupt"), 1);
}

TEST_F(StoreFlips, InRedisBehindAStore) {
  if (!HaveRedisServer()) GTEST_SKIP() << "redis-server is not installed";
  StartWithStore(/*disk=*/false, /*redis=*/true);
  const std::vector<BlockKey> keys = Keys(prompt_);
  for (const BlockKey& key : keys) {
    ASSERT_TRUE(WaitFor([&] {
      return cluster_->redis().Ask({"EXISTS", RedisKeyOfBlock(key)}).integer == 1;
    }));
  }
  const int index = RandomIndex();
  const std::string block = Block("store-0", index);
  RestartStore();
  FlipInRedis(cluster_->redis(), RedisKeyOfBlock(keys[index]), block, seed_);
  ASSERT_TRUE(WaitFor([&] { return Tier("store-0", "redis").state() == "ok"; }));
  EXPECT_EQ(Computed("decode-1", store(), {{"blocks_rejected", 0}}), TokensFrom(index));
  EXPECT_EQ(TierCounter("store-0", "redis", "corrupt"), 1);
}

}  // namespace
}  // namespace chorale
