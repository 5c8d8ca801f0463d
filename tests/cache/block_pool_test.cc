#include "cache/block_pool.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace chorale {
namespace {

BlockKey KeyOf(int n) {
  return MakeBlockKey({}, std::vector<TokenId>{n}, DigestBuilder().AddInt(1).Finish(), "");
}

// Publishes blocks as a chain under KeyOf(first), KeyOf(first + 1), ...
void PublishChain(BlockPool& pool, const std::vector<BlockId>& blocks, int first) {
  for (int i = 0; i < static_cast<int>(blocks.size()); ++i) {
    pool.Publish(blocks[i], KeyOf(first + i), i == 0 ? BlockKey{} : KeyOf(first + i - 1), i,
                 static_cast<uint64_t>(100 + first + i));
  }
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
  pool.Publish(block, KeyOf(1), {}, 0, 0);
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
  PublishChain(pool, blocks, 0);
  for (BlockId block : blocks) pool.Release(block);  // the root is used least recently
  const std::vector<BlockKey> keys = {KeyOf(0), KeyOf(1), KeyOf(2)};
  for (int left : {2, 1, 0}) {
    ASSERT_TRUE(pool.Allocate(1).ok());
    EXPECT_EQ(pool.MatchPrefix(keys), left);
  }
}

TEST(BlockPool, AReaderThatSeesTheLastBlocksNeedsNoOthers) {
  BlockPool pool(6);
  const auto blocks = *pool.Allocate(6);
  PublishChain(pool, blocks, 0);
  for (BlockId block : blocks) pool.Release(block);
  ASSERT_TRUE(pool.Evict(blocks[1]));
  const std::vector<BlockKey> keys = {KeyOf(0), KeyOf(1), KeyOf(2), KeyOf(3), KeyOf(4), KeyOf(5)};
  EXPECT_EQ(pool.AcquirePrefix(keys), std::vector<BlockId>{blocks[0]});
  EXPECT_EQ(pool.AcquirePrefix(keys, 2),
            (std::vector<BlockId>{kNoBlock, kNoBlock, kNoBlock, kNoBlock, blocks[4], blocks[5]}));
  EXPECT_EQ(pool.AcquirePrefix(std::span(keys).first(3), 2), std::vector<BlockId>{blocks[0]});
  EXPECT_EQ(pool.AcquirePrefix(keys, 5), std::vector<BlockId>{blocks[0]});
}

TEST(BlockPool, TheFirstBlockUnderAKeyStays) {
  BlockPool pool(2);
  const auto blocks = *pool.Allocate(2);
  pool.Publish(blocks[0], KeyOf(1), {}, 0, 0);
  pool.Publish(blocks[1], KeyOf(1), {}, 0, 0);
  pool.Release(blocks[1]);
  EXPECT_EQ(pool.blocks_free(), 1);
  const std::vector<BlockKey> keys = {KeyOf(1)};
  EXPECT_EQ(pool.AcquirePrefix(keys), std::vector<BlockId>{blocks[0]});
}

TEST(BlockPool, OfTwoChainsTheOneThatIsCheaperToComputeAgainGoesFirst) {
  constexpr int kLong = 1000;
  BlockPool pool(kLong + 1);
  const auto chain = *pool.Allocate(kLong);
  PublishChain(pool, chain, 1);
  for (BlockId block : chain) pool.Release(block);
  const auto single = *pool.Allocate(1);
  PublishChain(pool, single, 0);
  pool.Release(single[0]);  // used last, yet it costs a third of the chain's last block
  ASSERT_TRUE(pool.Allocate(1).ok());
  EXPECT_FALSE(pool.published(single[0]));
  EXPECT_TRUE(pool.published(chain.back()));
}

TEST(BlockPool, WhatIsFoundOftenOutlivesWhatIsNot) {
  BlockPool pool(2);
  const auto blocks = *pool.Allocate(2);
  pool.Publish(blocks[0], KeyOf(0), {}, 0, 0);
  pool.Publish(blocks[1], KeyOf(1), {}, 0, 0);
  pool.Release(blocks[0]);
  const std::vector<BlockKey> keys = {KeyOf(0)};
  for (BlockId block : pool.AcquirePrefix(keys)) pool.Release(block);
  pool.Release(blocks[1]);  // later, but nobody came for it
  ASSERT_TRUE(pool.Allocate(1).ok());
  EXPECT_TRUE(pool.published(blocks[0]));
}

TEST(BlockPool, RemembersKeyAndChecksumOfAPublishedBlock) {
  BlockPool pool(3);
  const auto blocks = *pool.Allocate(3);
  PublishChain(pool, {blocks[0], blocks[1]}, 0);
  EXPECT_EQ(pool.key(blocks[1]), KeyOf(1));
  EXPECT_EQ(pool.checksum(blocks[1]), 101u);
  EXPECT_FALSE(pool.published(blocks[2]));
  pool.Release(blocks[1]);
  std::map<BlockId, PublishedBlock> listed;
  pool.ForEachPublished([&](const PublishedBlock& block) { listed[block.block] = block; });
  ASSERT_EQ(listed.size(), 2u);
  EXPECT_EQ(listed[blocks[0]].refs, 1);
  EXPECT_EQ(listed[blocks[1]].refs, 0);
  EXPECT_EQ(listed[blocks[1]].index, 1);
  EXPECT_EQ(listed[blocks[1]].key, KeyOf(1));
}

TEST(BlockPool, ABadBlockIsNotFoundAgainAndItsChildrenNotReached) {
  BlockPool pool(3);
  const auto blocks = *pool.Allocate(3);
  PublishChain(pool, blocks, 0);
  pool.Release(blocks[1]);
  pool.Release(blocks[2]);
  const std::vector<BlockKey> keys = {KeyOf(0), KeyOf(1), KeyOf(2)};
  pool.Unpublish(blocks[1]);  // cached: free at once
  EXPECT_EQ(pool.blocks_free(), 1);
  EXPECT_EQ(pool.MatchPrefix(keys), 1);
  pool.Unpublish(blocks[0]);  // held: free when it is let go
  EXPECT_EQ(pool.MatchPrefix(keys), 0);
  EXPECT_EQ(pool.blocks_held(), 1);
  pool.Release(blocks[0]);
  EXPECT_EQ(pool.blocks_free(), 2);
  EXPECT_EQ(pool.blocks_cached(), 1);
  EXPECT_TRUE(pool.Allocate(3).ok());
}

TEST(BlockPool, EvictsACachedBlockByNameAndNoOther) {
  BlockPool pool(3);
  const auto blocks = *pool.Allocate(2);
  PublishChain(pool, blocks, 0);
  pool.Release(blocks[0]);
  EXPECT_TRUE(pool.Evict(blocks[0]));
  EXPECT_FALSE(pool.Evict(blocks[0]));
  EXPECT_FALSE(pool.Evict(blocks[1]));  // held
  EXPECT_EQ(pool.blocks_free(), 2);
}

TEST(BlockPool, RecordsEventsOnlyWhenAskedTo) {
  BlockPool pool(2);
  const auto blocks = *pool.Allocate(2);
  PublishChain(pool, blocks, 0);
  EXPECT_TRUE(pool.TakeEvents().empty());
  pool.Unpublish(blocks[1]);
  pool.RecordEvents(true);  // begins with what is there
  pool.Unpublish(blocks[0]);
  const std::vector<BlockEvent> events = pool.TakeEvents();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].key, KeyOf(0));
  EXPECT_FALSE(events[0].removed);
  EXPECT_EQ(events[1].key, KeyOf(0));
  EXPECT_TRUE(events[1].removed);
  EXPECT_TRUE(pool.TakeEvents().empty());
  pool.RecordEvents(false);
  pool.Publish(blocks[0], KeyOf(5), {}, 0, 0);
  EXPECT_TRUE(pool.TakeEvents().empty());
}

// The same as a BlockPool, written for plainness: everything is a scan. Which of the free blocks
// are handed out is the real pool's choice; which cached ones go is not.
class NaivePool {
 public:
  explicit NaivePool(int total) : blocks_(total) {}

  int free() const {
    return Count([](const Block& b) { return b.refs == 0 && !b.published; });
  }
  int cached() const {
    return Count([](const Block& b) { return b.refs == 0 && b.published; });
  }
  int available() const { return free() + cached(); }
  // Evicts until `count` blocks are free.
  void MakeRoom(int count) {
    while (free() < count) {
      Block* victim = nullptr;
      for (Block& block : blocks_) {
        if (block.refs > 0 || !block.published || HasCachedChild(block)) continue;
        if (victim == nullptr || std::pair(block.priority, block.last_use) <
                                     std::pair(victim->priority, victim->last_use)) {
          victim = &block;
        }
      }
      clock_ = std::max(clock_, victim->priority);
      *victim = {};
    }
  }
  void Take(BlockId id) {
    ASSERT_TRUE(blocks_[id].refs == 0 && !blocks_[id].published) << "block " << id;
    blocks_[id].refs = 1;
  }
  void Acquire(BlockId id) {
    Block& block = blocks_[id];
    ++block.refs;
    if (!block.published) return;
    block.uses = std::min(block.uses + 1, EvictionOrder::kUsesMax);
    Use(block);
  }
  void Release(BlockId id) {
    Block& block = blocks_[id];
    if (--block.refs > 0) return;
    block.published ? Use(block) : void(block = {});
  }
  void Publish(BlockId id, const BlockKey& key, const BlockKey& parent, int index) {
    if (blocks_[id].published || Find(key) >= 0) return;
    Block& block = blocks_[id];
    block = {.refs = block.refs, .published = true, .key = key, .parent = parent};
    block.cost = static_cast<float>(RecomputeCost(index));
    Use(block);
  }
  void Unpublish(BlockId id) { blocks_[id] = {.refs = blocks_[id].refs}; }
  bool Evict(BlockId id) {
    if (blocks_[id].refs > 0 || !blocks_[id].published) return false;
    Unpublish(id);
    return true;
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
  // Of a reader that sees the last `seen` blocks: the longest that it could go on from.
  std::vector<BlockId> Prefix(const std::vector<BlockKey>& keys, int seen) const {
    for (int end = static_cast<int>(keys.size()); end > 0; --end) {
      std::vector<BlockId> found(end, kNoBlock);
      bool whole = true;
      for (int i = std::max(0, end - seen); i < end; ++i) {
        found[i] = Find(keys[i]);
        whole &= found[i] >= 0;
      }
      if (whole) return found;
    }
    return {};
  }
  std::set<BlockKey> PublishedKeys() const {
    std::set<BlockKey> keys;
    for (const Block& block : blocks_) {
      if (block.published) keys.insert(block.key);
    }
    return keys;
  }

 private:
  struct Block {
    int refs = 0;
    bool published = false;
    BlockKey key;
    BlockKey parent;
    double cost = 0;
    uint32_t uses = 0;
    double priority = 0;
    int last_use = 0;
  };
  template <typename Predicate>
  int Count(Predicate predicate) const {
    return static_cast<int>(std::count_if(blocks_.begin(), blocks_.end(), predicate));
  }
  bool HasCachedChild(const Block& block) const {
    return Count([&](const Block& other) {
             return other.refs == 0 && other.published && other.parent == block.key;
           }) > 0;
  }
  void Use(Block& block) {
    block.priority = clock_ + block.cost * (1 + block.uses);
    block.last_use = ++operations_;
  }
  int Find(const BlockKey& key) const {
    for (size_t i = 0; i < blocks_.size(); ++i) {
      if (blocks_[i].published && blocks_[i].key == key) return static_cast<int>(i);
    }
    return -1;
  }
  std::vector<Block> blocks_;
  double clock_ = 0;
  int operations_ = 0;
};

// Sequences that share beginnings come, publish their blocks in order, and go; blocks turn out bad
// and are evicted by hand. One object does it to both pools and compares them.
class TwoPools {
 public:
  TwoPools(int total, unsigned seed) : random_(seed), pool_(total), naive_(total) {
    pool_.RecordEvents(true);
  }

  void Step() {
    const int what = Draw(8);
    if (what < 2) {
      Come();
    } else if (what < 5 && !live_.empty()) {
      PublishNext(live_[Draw(static_cast<int>(live_.size()))]);
    } else if (what < 7 && !live_.empty()) {
      std::swap(live_[Draw(static_cast<int>(live_.size()))], live_.back());
      Release(live_.back());
      live_.pop_back();
    } else if (what == 7 && !live_.empty() && Draw(2) == 0) {
      Forget(live_[Draw(static_cast<int>(live_.size()))]);
    } else if (Draw(3) == 0) {
      SpoilOrEvict(Draw(pool_.blocks_total()));
    }
    Compare();
  }
  void ReleaseAll() {
    for (const Sequence& s : live_) {
      for (BlockId block : s.blocks) {
        if (block != kNoBlock) pool_.Release(block);
      }
    }
    EXPECT_EQ(pool_.blocks_available(), pool_.blocks_total());
    EXPECT_TRUE(pool_.Allocate(pool_.blocks_total()).ok());
    for (const BlockEvent& event : pool_.TakeEvents()) Follow(event);
    EXPECT_TRUE(findable_.empty());
  }

 private:
  struct Sequence {
    std::vector<BlockKey> keys;
    std::vector<BlockId> blocks;
    size_t published = 0;
  };
  int Draw(int n) { return static_cast<int>(random_() % n); }

  void Come() {
    Sequence s;
    BlockKey parent{};
    for (int i = 0, n = 1 + Draw(8); i < n; ++i) {
      const std::vector<TokenId> tokens = {i < 3 ? 0 : Draw(3)};
      s.keys.push_back(parent = MakeBlockKey(parent, tokens, Digest{}, ""));
    }
    ASSERT_EQ(pool_.MatchPrefix(s.keys), static_cast<int>(naive_.Prefix(s.keys).size()));
    const int seen = 1 + Draw(10);
    const auto expected = seen > 4 ? naive_.Prefix(s.keys) : naive_.Prefix(s.keys, seen);
    s.blocks = seen > 4 ? pool_.AcquirePrefix(s.keys) : pool_.AcquirePrefix(s.keys, seen);
    ASSERT_EQ(s.blocks, expected);
    for (BlockId block : s.blocks) {
      if (block != kNoBlock) naive_.Acquire(block);
    }
    s.published = s.blocks.size();
    const int more = static_cast<int>(s.keys.size() - s.blocks.size());
    const auto fresh = pool_.Allocate(more);
    ASSERT_EQ(fresh.ok(), more <= naive_.available());
    if (fresh.ok()) {
      naive_.MakeRoom(more);
      for (BlockId block : *fresh) ASSERT_NO_FATAL_FAILURE(naive_.Take(block));
      s.blocks.insert(s.blocks.end(), fresh->begin(), fresh->end());
      live_.push_back(std::move(s));
    } else {
      Release(s);
    }
  }
  void Release(const Sequence& s) {
    for (BlockId block : s.blocks) {
      if (block != kNoBlock) pool_.Release(block), naive_.Release(block);
    }
  }
  // Gives back the first block that is still there, if it was published: the window has moved on.
  void Forget(Sequence& s) {
    for (size_t i = 0; i < s.published; ++i) {
      if (s.blocks[i] == kNoBlock) continue;
      pool_.Release(s.blocks[i]), naive_.Release(s.blocks[i]);
      s.blocks[i] = kNoBlock;
      return;
    }
  }
  void PublishNext(Sequence& s) {
    if (s.published == s.blocks.size()) return;
    const size_t i = s.published++;
    const BlockKey parent = i == 0 ? BlockKey{} : s.keys[i - 1];
    pool_.Publish(s.blocks[i], s.keys[i], parent, static_cast<int>(i), i);
    naive_.Publish(s.blocks[i], s.keys[i], parent, static_cast<int>(i));
  }
  void SpoilOrEvict(BlockId block) {
    if (Draw(2) == 0) {
      ASSERT_EQ(pool_.Evict(block), naive_.Evict(block));
    } else {
      pool_.Unpublish(block);
      naive_.Unpublish(block);
    }
  }
  void Follow(const BlockEvent& event) {
    if (event.removed) {
      ASSERT_EQ(findable_.erase(event.key), 1u);
    } else {
      ASSERT_TRUE(findable_.insert(event.key).second);
    }
  }
  void Compare() {
    ASSERT_EQ(pool_.blocks_free(), naive_.free());
    ASSERT_EQ(pool_.blocks_cached(), naive_.cached());
    ASSERT_EQ(pool_.blocks_free() + pool_.blocks_cached() + pool_.blocks_held(),
              pool_.blocks_total());
    for (const BlockEvent& event : pool_.TakeEvents()) Follow(event);
    ASSERT_EQ(findable_, naive_.PublishedKeys());
  }

  std::mt19937 random_;
  BlockPool pool_;
  NaivePool naive_;
  std::vector<Sequence> live_;
  std::set<BlockKey> findable_;  // as the events say
};

TEST(BlockPool, AgreesWithANaivePoolOverRandomOperations) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 50; ++round) {
    TwoPools pools(static_cast<int>(1 + random() % 24), random());
    for (int step = 0; step < 600 && !testing::Test::HasFatalFailure(); ++step) pools.Step();
    if (testing::Test::HasFatalFailure()) return;
    pools.ReleaseAll();
  }
}

}  // namespace
}  // namespace chorale
