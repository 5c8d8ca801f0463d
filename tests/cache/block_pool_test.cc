#include "cache/block_pool.h"

#include <map>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace chorale {
namespace {

BlockKey KeyOf(int n) {
  return MakeBlockKey({}, std::vector<TokenId>{n}, DigestBuilder().AddInt(1).Finish(), "");
}

TEST(BlockPool, RefusesWholeRequestWhenShort) {
  BlockPool pool(3);
  ASSERT_TRUE(pool.Allocate(2).ok());
  const auto refused = pool.Allocate(2);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(pool.blocks_free(), 1);
}

TEST(BlockPool, APublishedBlockIsFoundAgainAfterItsRelease) {
  BlockPool pool(2);
  const BlockId block = pool.Allocate(1)->front();
  pool.Publish(block, KeyOf(1), {});
  pool.Release(block);
  EXPECT_EQ(pool.blocks_cached(), 1);
  const std::vector<BlockKey> keys = {KeyOf(1), KeyOf(2)};
  EXPECT_EQ(pool.MatchPrefix(keys), 1);
  EXPECT_EQ(pool.AcquirePrefix(keys), std::vector<BlockId>{block});
  EXPECT_EQ(pool.blocks_held(), 1);
}

TEST(BlockPool, AnUnpublishedBlockIsForgotten) {
  BlockPool pool(2);
  pool.Release(pool.Allocate(1)->front());
  EXPECT_EQ(pool.blocks_free(), 2);
}

TEST(BlockPool, EvictsAChainFromItsLeaf) {
  BlockPool pool(3);
  const auto blocks = *pool.Allocate(3);
  for (int i = 0; i < 3; ++i) pool.Publish(blocks[i], KeyOf(i), i == 0 ? BlockKey{} : KeyOf(i - 1));
  for (BlockId block : blocks) pool.Release(block);  // the root is used least recently
  const std::vector<BlockKey> keys = {KeyOf(0), KeyOf(1), KeyOf(2)};
  for (int left : {2, 1, 0}) {
    ASSERT_TRUE(pool.Allocate(1).ok());
    EXPECT_EQ(pool.MatchPrefix(keys), left);
  }
}

TEST(BlockPool, TheFirstBlockUnderAKeyStays) {
  BlockPool pool(2);
  const auto blocks = *pool.Allocate(2);
  pool.Publish(blocks[0], KeyOf(1), {});
  pool.Publish(blocks[1], KeyOf(1), {});
  pool.Release(blocks[1]);
  EXPECT_EQ(pool.blocks_free(), 1);
  const std::vector<BlockKey> keys = {KeyOf(1)};
  EXPECT_EQ(pool.AcquirePrefix(keys), std::vector<BlockId>{blocks[0]});
}

// The same as a BlockPool, written for plainness: everything is a scan.
class NaivePool {
 public:
  explicit NaivePool(int total) : blocks_(total) {}

  int available() const {
    int count = 0;
    for (const Block& block : blocks_) count += block.refs == 0;
    return count;
  }
  int held() const { return static_cast<int>(blocks_.size()) - available(); }
  int cached() const {
    int count = 0;
    for (const Block& block : blocks_) count += block.refs == 0 && block.published;
    return count;
  }
  // Takes the block that the real pool chose; it must be one that may be taken.
  void Take(BlockId id) {
    Block& block = blocks_[id];
    ASSERT_EQ(block.refs, 0);
    if (block.published) {
      for (const Block& other : blocks_) {
        ASSERT_TRUE(other.refs > 0 || other.published) << "evicted while a block was free";
      }
      for (const Block& other : blocks_) {
        const bool cached = other.refs == 0 && other.published;
        ASSERT_FALSE(cached && other.parent == block.key) << "evicted a block with a cached child";
      }
    }
    block = {.refs = 1};
  }
  void Acquire(BlockId id) { ++blocks_[id].refs; }
  void Release(BlockId id) {
    if (--blocks_[id].refs == 0 && !blocks_[id].published) blocks_[id] = {};
  }
  void Publish(BlockId id, const BlockKey& key, const BlockKey& parent) {
    if (blocks_[id].published || Find(key) >= 0) return;
    blocks_[id].published = true;
    blocks_[id].key = key;
    blocks_[id].parent = parent;
  }
  std::vector<BlockId> Prefix(const std::vector<BlockKey>& keys) const {
    std::vector<BlockId> found;
    for (const BlockKey& key : keys) {
      const int id = Find(key);
      if (id < 0) break;
      found.push_back(id);
    }
    return found;
  }

 private:
  struct Block {
    int refs = 0;
    bool published = false;
    BlockKey key;
    BlockKey parent;
  };
  int Find(const BlockKey& key) const {
    for (size_t i = 0; i < blocks_.size(); ++i) {
      if (blocks_[i].published && blocks_[i].key == key) return static_cast<int>(i);
    }
    return -1;
  }
  std::vector<Block> blocks_;
};

// Sequences that share beginnings come, publish their blocks in order, and go.
TEST(BlockPool, AgreesWithANaivePoolOverRandomOperations) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto draw = [&](int n) { return static_cast<int>(random() % n); };
  for (int round = 0; round < 20; ++round) {
    const int total = 1 + draw(24);
    BlockPool pool(total);
    NaivePool naive(total);
    struct Sequence {
      std::vector<BlockKey> keys;
      std::vector<BlockId> blocks;
      size_t published = 0;
    };
    std::vector<Sequence> live;
    for (int step = 0; step < 600; ++step) {
      const int what = draw(4);
      if (what == 0) {  // a sequence comes
        Sequence s;
        BlockKey parent{};
        for (int i = 0, n = 1 + draw(8); i < n; ++i) {
          const std::vector<TokenId> tokens = {i < 3 ? 0 : draw(3)};
          s.keys.push_back(parent = MakeBlockKey(parent, tokens, Digest{}, ""));
        }
        ASSERT_EQ(pool.MatchPrefix(s.keys), static_cast<int>(naive.Prefix(s.keys).size()));
        s.blocks = pool.AcquirePrefix(s.keys);
        ASSERT_EQ(s.blocks, naive.Prefix(s.keys));
        for (BlockId block : s.blocks) naive.Acquire(block);
        s.published = s.blocks.size();
        const int more = static_cast<int>(s.keys.size() - s.blocks.size());
        const auto fresh = pool.Allocate(more);
        ASSERT_EQ(fresh.ok(), more <= naive.available());
        if (fresh.ok()) {
          for (BlockId block : *fresh) ASSERT_NO_FATAL_FAILURE(naive.Take(block));
          s.blocks.insert(s.blocks.end(), fresh->begin(), fresh->end());
          live.push_back(std::move(s));
        } else {
          for (BlockId block : s.blocks) pool.Release(block), naive.Release(block);
        }
      } else if (what < 3 && !live.empty()) {  // one publishes its next block
        Sequence& s = live[draw(static_cast<int>(live.size()))];
        if (s.published == s.blocks.size()) continue;
        const size_t i = s.published++;
        const BlockKey parent = i == 0 ? BlockKey{} : s.keys[i - 1];
        pool.Publish(s.blocks[i], s.keys[i], parent);
        naive.Publish(s.blocks[i], s.keys[i], parent);
      } else if (!live.empty()) {  // one goes
        std::swap(live[draw(static_cast<int>(live.size()))], live.back());
        for (BlockId block : live.back().blocks) pool.Release(block), naive.Release(block);
        live.pop_back();
      }
      ASSERT_EQ(pool.blocks_held(), naive.held());
      ASSERT_EQ(pool.blocks_cached(), naive.cached());
      ASSERT_EQ(pool.blocks_free() + pool.blocks_cached() + pool.blocks_held(), total);
    }
    for (const Sequence& s : live) {
      for (BlockId block : s.blocks) pool.Release(block);
    }
    EXPECT_EQ(pool.blocks_available(), total);
  }
}

}  // namespace
}  // namespace chorale
