#include "services/kvstore/block_store.h"

#include <cstring>
#include <filesystem>
#include <future>
#include <map>
#include <random>
#include <set>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/hash.h"
#include "bench/fixtures/sample_blocks.h"

namespace chorale {
namespace {

using ::testing::HasSubstr;
using Result = BlockStore::PutResult;

constexpr int64_t kSlab = 1 << 20;
constexpr int64_t kBlock = 64 << 10;
constexpr absl::Duration kLong = absl::Seconds(30);

class BlockStoreTest : public testing::Test {
 protected:
  BlockStoreTest() : dir_(MakeTempDir()) {}
  ~BlockStoreTest() override {
    store_.reset();
    std::filesystem::remove_all(dir_);
  }

  BlockStoreOptions Options() const {
    return {.dram_bytes = 4 * kSlab,
            .slab_bytes = kSlab,
            .dir = dir_,
            .disk_bytes = 16 * kSlab,
            .write_behind_bytes = 64 * kSlab};
  }

  absl::Status Open(const BlockStoreOptions& options, BackingTier backing = {}) {
    store_.reset();
    auto store = BlockStore::Create(options, std::move(backing));
    if (!store.ok()) return store.status();
    store_ = *std::move(store);
    format_ = *store_->formats().NumberOf("a format");
    return absl::OkStatus();
  }

  BlockMeta MetaOf(uint64_t number, int64_t bytes = kBlock) const {
    return {.bytes = bytes,
            .checksum = Checksum64(BytesOf(number, bytes)),
            .format = format_,
            .index = static_cast<int32_t>(number)};
  }
  Result Put(uint64_t number, int64_t bytes = kBlock) {
    return store_->Put(KeyOf(number), MetaOf(number, bytes), BytesOf(number, bytes));
  }
  // Whether the block is there; checks its bytes when it is.
  bool Get(uint64_t number) {
    auto promise = std::make_shared<std::promise<std::optional<BlockStore::Handle>>>();
    auto future = promise->get_future();
    store_->Get(KeyOf(number), [promise](std::optional<BlockStore::Handle> handle) {
      promise->set_value(std::move(handle));
    });
    const std::optional<BlockStore::Handle> handle = future.get();
    if (!handle) return false;
    EXPECT_TRUE(IsBlock(number, handle->bytes()));
    return true;
  }
  int64_t Counter(const std::string& tier, const std::string& name) const {
    for (const TierStat& stat : store_->Stat()) {
      if (stat.tier == tier) return stat.counters.at(name);
    }
    return -1;
  }
  TierStat Stat(const std::string& tier) const {
    for (const TierStat& stat : store_->Stat()) {
      if (stat.tier == tier) return stat;
    }
    return {};
  }
  // Every 4096th byte of the file is flipped.
  void DamageFile(const std::string& name) {
    const std::string path = dir_ + "/" + name;
    const int fd = open(path.c_str(), O_RDWR);
    ASSERT_GE(fd, 0);
    const int64_t size = static_cast<int64_t>(std::filesystem::file_size(path));
    for (int64_t at = 4096 + 100; at < size; at += 4096) {
      uint8_t byte = 0;
      ASSERT_EQ(pread(fd, &byte, 1, at), 1);
      byte ^= 4;
      ASSERT_EQ(pwrite(fd, &byte, 1, at), 1);
    }
    close(fd);
  }

  const std::string dir_;
  std::unique_ptr<BlockStore> store_;
  uint32_t format_ = 0;
};

TEST_F(BlockStoreTest, GivesBackWhatWasPut) {
  ASSERT_TRUE(Open(Options()).ok());
  EXPECT_FALSE(Get(1));
  EXPECT_EQ(Put(1), Result::kTaken);
  EXPECT_EQ(Put(1), Result::kPresent);
  EXPECT_TRUE(Get(1));
  EXPECT_EQ(Put(2, 1), Result::kTaken) << "of one byte";
  EXPECT_TRUE(Get(2));
  EXPECT_EQ(Put(3, kSlab), Result::kTaken);
  EXPECT_EQ(Put(4, kSlab + 1), Result::kNoRoom);
}

TEST_F(BlockStoreTest, RefusesBytesThatDoNotMatchTheirChecksum) {
  ASSERT_TRUE(Open(Options()).ok());
  std::vector<std::byte> bytes = BytesOf(1, kBlock);
  bytes[77] ^= std::byte{1};
  EXPECT_EQ(store_->Put(KeyOf(1), MetaOf(1), bytes), Result::kCorrupt);
  EXPECT_FALSE(Get(1));
  EXPECT_EQ(Put(1), Result::kTaken) << "the right bytes are welcome after that";
}

TEST_F(BlockStoreTest, BringsBlocksUpFromDisk) {
  ASSERT_TRUE(Open(Options()).ok());
  for (int i = 0; i < 128; ++i) {
    ASSERT_EQ(Put(i), Result::kTaken);
    if (i % 32 == 31) ASSERT_TRUE(store_->Flush(kLong));
  }
  EXPECT_EQ(Stat("dram").blocks, 64);
  for (int i = 0; i < 128; ++i) EXPECT_TRUE(Get(i)) << i;
  EXPECT_GE(Counter("disk", "hits"), 64);
}

TEST_F(BlockStoreTest, ComesBackWithWhatTheDiskHolds) {
  ASSERT_TRUE(Open(Options()).ok());
  for (int i = 0; i < 40; ++i) ASSERT_EQ(Put(i, 5000 + 20'000 * (i % 3)), Result::kTaken);
  ASSERT_TRUE(store_->Flush(kLong));
  ASSERT_TRUE(Open(Options()).ok());
  EXPECT_EQ(Counter("disk", "restored"), 40);
  for (int i = 0; i < 40; ++i) EXPECT_TRUE(Get(i)) << i;
  std::vector<BlockKey> chain;
  for (int i = 0; i < 50; ++i) chain.push_back(KeyOf(i));
  EXPECT_EQ(store_->Lookup(chain), 40);
}

TEST_F(BlockStoreTest, KeepsGoingWhenTheDiskIsFullOfBlocks) {
  ASSERT_TRUE(Open(Options()).ok());
  for (int i = 0; i < 600; ++i) {
    ASSERT_EQ(Put(i), Result::kTaken);
    if (i % 32 == 31) ASSERT_TRUE(store_->Flush(kLong));
  }
  ASSERT_TRUE(store_->Flush(kLong));
  EXPECT_EQ(Stat("disk").blocks, 256);
  ASSERT_TRUE(Open(Options()).ok());
  EXPECT_EQ(Counter("disk", "restored"), 256);
  EXPECT_EQ(Counter("disk", "torn"), 0);
  for (int i = 600 - 256; i < 600; ++i) EXPECT_TRUE(Get(i)) << i;
}

TEST_F(BlockStoreTest, FindsAFlippedBitInMemoryAndTakesTheBlockFromDisk) {
  ASSERT_TRUE(Open(Options()).ok());
  Put(1);
  ASSERT_TRUE(store_->Flush(kLong));
  int64_t offset = 0;
  store_->Get(KeyOf(1), [&](auto handle) { offset = handle->offset(); });
  store_->region().bytes()[static_cast<size_t>(offset) + 999] ^= std::byte{8};
  EXPECT_TRUE(Get(1));
  EXPECT_EQ(Counter("dram", "corrupt"), 1);
  EXPECT_EQ(Counter("disk", "hits"), 1);
}

TEST_F(BlockStoreTest, FindsFlippedBitsOnDisk) {
  ASSERT_TRUE(Open(Options()).ok());
  for (int i = 0; i < 8; ++i) Put(i);
  ASSERT_TRUE(store_->Flush(kLong));
  store_.reset();
  DamageFile("data");
  ASSERT_TRUE(Open(Options()).ok());
  EXPECT_EQ(Counter("disk", "restored"), 8);
  for (int i = 0; i < 8; ++i) EXPECT_FALSE(Get(i)) << i;
  EXPECT_EQ(Counter("disk", "corrupt"), 8);
  EXPECT_EQ(Stat("disk").blocks, 0);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(Put(i), Result::kTaken) << "recomputed";
}

TEST_F(BlockStoreTest, DropsTornEntries) {
  ASSERT_TRUE(Open(Options()).ok());
  for (int i = 0; i < 200; ++i) Put(i, 4096);
  ASSERT_TRUE(store_->Flush(kLong));
  store_.reset();
  DamageFile("table");  // one entry in 64
  std::filesystem::resize_file(dir_ + "/table", 4096 + 199 * 64 + 30);
  ASSERT_TRUE(Open(Options()).ok());
  EXPECT_EQ(Counter("disk", "torn"), 4);
  int found = 0;
  for (int i = 0; i < 200; ++i) found += Get(i);
  EXPECT_EQ(found, 200 - 4 - 1);
}

TEST_F(BlockStoreTest, RefusesAFolderOfAnotherGeometry) {
  ASSERT_TRUE(Open(Options()).ok());
  BlockStoreOptions options = Options();
  options.disk_bytes = 8 * kSlab;
  const absl::Status status = Open(options);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("made for 16777216 bytes"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--disk-mib 16"));
}

TEST_F(BlockStoreTest, RefusesAFolderThatIsInUse) {
  ASSERT_TRUE(Open(Options()).ok());
  const auto second = BlockStore::Create(Options());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another store uses this folder"));
}

TEST_F(BlockStoreTest, RefusesADamagedSuperblock) {
  ASSERT_TRUE(Open(Options()).ok());
  store_.reset();
  const int fd = open((dir_ + "/table").c_str(), O_WRONLY);
  ASSERT_EQ(pwrite(fd, "x", 1, 20), 1);
  close(fd);
  EXPECT_THAT(std::string(Open(Options()).message()), HasSubstr("is damaged"));
}

TEST_F(BlockStoreTest, TakesAShortDataFileForBlocksThatAreGone) {
  ASSERT_TRUE(Open(Options()).ok());
  for (int i = 0; i < 8; ++i) Put(i);
  ASSERT_TRUE(store_->Flush(kLong));
  BlockStoreOptions options = Options();
  options.dram_bytes = 2 * kSlab;
  ASSERT_TRUE(Open(options).ok());
  std::filesystem::resize_file(dir_ + "/data", 4 * kBlock + 8192);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(Get(i), i < 4) << i;
  EXPECT_EQ(Counter("disk", "read_errors"), 4);
}

TEST_F(BlockStoreTest, ServesFromMemoryWhenTheDiskTakesNoWrites) {
  ASSERT_TRUE(Open(Options()).ok());
  Put(1);
  ASSERT_TRUE(store_->Flush(kLong));
  // Writes beyond this size fail with EFBIG.
  signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit none = before;
  none.rlim_cur = 0;
  setrlimit(RLIMIT_FSIZE, &none);
  Put(2);
  Put(3);
  store_->Flush(kLong);
  EXPECT_TRUE(Get(1));
  EXPECT_TRUE(Get(2));
  EXPECT_TRUE(Get(3));
  EXPECT_THAT(Stat("disk").state, HasSubstr("not written to: writing at"));
  EXPECT_GE(Counter("disk", "write_errors"), 1);
  setrlimit(RLIMIT_FSIZE, &before);
  // After its pause the tier tries again; a block that is used is offered anew.
  for (int tries = 0; Stat("disk").state != "ok" && tries < 10'000; ++tries) {
    ASSERT_TRUE(Get(2));
    store_->Flush(kLong);
    usleep(1000);
  }
  EXPECT_EQ(Stat("disk").state, "ok");
}

TEST_F(BlockStoreTest, KeepsBlocksInMemoryOnlyWhenTheWriterIsBehind) {
  BlockStoreOptions options = Options();
  options.write_behind_bytes = 0;
  ASSERT_TRUE(Open(options).ok());
  Put(1);
  EXPECT_EQ(Counter("dram", "unqueued"), 1);
  EXPECT_TRUE(Get(1));
  EXPECT_EQ(Stat("disk").blocks, 0);
}

TEST_F(BlockStoreTest, LooksBehindTheDiskLast) {
  std::map<BlockKey, std::vector<std::byte>> behind;
  uint64_t format_id = 0;
  BackingTier backing;
  backing.put = [&](const BlockKey& key, const BlockMeta&, uint64_t format,
                    std::span<const std::byte> bytes) {
    behind[key] = {bytes.begin(), bytes.end()};
    format_id = format;
  };
  backing.get = [&](const BlockKey& key) -> std::optional<BackingTier::Found> {
    const auto it = behind.find(key);
    if (it == behind.end()) return std::nullopt;
    return BackingTier::Found{.meta = MetaOf(9), .format_id = format_id, .bytes = it->second};
  };
  backing.count_prefix = [&](std::span<const BlockKey> keys) {
    return static_cast<int>(behind.contains(keys[0]));
  };
  ASSERT_TRUE(Open(Options(), backing).ok());
  EXPECT_EQ(Put(9), Result::kTaken);
  EXPECT_EQ(behind.size(), 1u);
  ASSERT_TRUE(store_->Flush(kLong));
  EXPECT_EQ(store_->Evict("", "").blocks, 2) << "of both tiers";
  const BlockKey key = KeyOf(9);
  EXPECT_EQ(store_->Lookup({&key, 1}), 1) << "what lies behind counts too";
  EXPECT_TRUE(Get(9));
  EXPECT_EQ(Counter("dram", "backing_hits"), 1);
  ASSERT_TRUE(store_->Flush(kLong));
  store_->Evict("", "");
  behind[KeyOf(9)][5] ^= std::byte{1};
  EXPECT_FALSE(Get(9));
  EXPECT_EQ(Counter("dram", "backing_corrupt"), 1);
}

TEST_F(BlockStoreTest, VerifiesEveryBlockOfEveryTier) {
  ASSERT_TRUE(Open(Options()).ok());
  for (int i = 0; i < 20; ++i) Put(i);
  ASSERT_TRUE(store_->Flush(kLong));
  const auto go_on = [](const BlockStore::Verified&) { return true; };
  BlockStore::Verified verified = store_->Verify("", go_on);
  EXPECT_EQ(verified.done, 40);
  EXPECT_EQ(verified.total, 40);
  EXPECT_EQ(verified.bad, 0);
  int64_t offset = 0;
  store_->Get(KeyOf(1), [&](auto handle) { offset = handle->offset(); });
  store_->region().bytes()[static_cast<size_t>(offset)] ^= std::byte{8};
  DamageFile("data");
  verified = store_->Verify("", go_on);
  EXPECT_EQ(verified.bad, 1 + 20);
  EXPECT_EQ(Stat("disk").blocks, 0);
  EXPECT_EQ(Stat("dram").blocks, 19);
}

TEST_F(BlockStoreTest, TellsWhichBlocksComeAndGo) {
  BlockStoreOptions options = Options();
  options.record_events = true;
  ASSERT_TRUE(Open(options).ok());
  std::set<BlockKey> present;
  const auto take = [&] {
    for (const BlockEvent& event : store_->TakeEvents(absl::ZeroDuration())) {
      if (event.removed) {
        present.erase(event.key);
      } else {
        present.insert(event.key);
      }
    }
  };
  for (int i = 0; i < 600; ++i) {
    Put(i);
    if (i % 50 == 0) ASSERT_TRUE(store_->Flush(kLong));
    if (i % 77 == 0) take();
  }
  ASSERT_TRUE(store_->Flush(kLong));
  take();
  std::set<BlockKey> listed;
  store_->List("", [&](const BlockListing& block) {
    listed.insert(block.key);
    return true;
  });
  EXPECT_EQ(present, listed);
  ASSERT_TRUE(Open(options).ok());
  present.clear();
  take();
  EXPECT_EQ(present.size(), 256u) << "those on disk";
}

// Many threads put and get; what is got is right, and nothing stays pinned.
TEST_F(BlockStoreTest, AgreesWithItsKeysUnderLoad) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  ASSERT_TRUE(Open(Options()).ok());
  std::vector<std::thread> threads;
  std::atomic<int> hits = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(seed + static_cast<uint64_t>(t));
      for (int step = 0; step < 1000; ++step) {
        const uint64_t number = random() % 300;
        const int64_t bytes = 1000 + static_cast<int64_t>(number) * 400;
        const bool found = Get(number);
        hits += found;
        if (!found) Put(number, bytes);
        if (random() % 100 == 0) store_->Evict("", KeyOf(number).ToHex());
        if (random() % 100 == 0) {
          const std::vector<BlockKey> keys = {KeyOf(number), KeyOf(number + 1)};
          store_->Freshen(keys);
          store_->Lookup(keys);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(store_->Flush(kLong));
  EXPECT_GT(hits, 0);
  EXPECT_EQ(Stat("dram").holds, 0);
  EXPECT_EQ(Stat("disk").holds, 0);
  EXPECT_EQ(Counter("dram", "corrupt"), 0);
  EXPECT_EQ(Counter("disk", "corrupt"), 0);
}

}  // namespace
}  // namespace chorale
