#include "cache/block_pool.h"

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace chorale {

BlockPool::BlockPool(int blocks_total) : blocks_(blocks_total) {
  CHECK_GT(blocks_total, 0);
  for (BlockId block = blocks_total - 1; block >= 0; --block) free_.push_back(block);
}

absl::StatusOr<std::vector<BlockId>> BlockPool::Allocate(int count) {
  CHECK_GE(count, 0);
  if (count > blocks_available()) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d K/V blocks are needed, %d of %d can be had", count, blocks_available(),
                        blocks_total()));
  }
  while (blocks_free() < count) EvictOne();
  std::vector<BlockId> taken(free_.end() - count, free_.end());
  free_.resize(free_.size() - count);
  for (BlockId block : taken) {
    CHECK_EQ(blocks_[block].refs, 0);
    blocks_[block].refs = 1;
  }
  return taken;
}

void BlockPool::Acquire(BlockId id) {
  Block& block = blocks_.at(id);
  if (block.refs == 0) {
    CHECK(block.published) << "block " << id << " is free";
    LeaveCache(id);
  }
  ++block.refs;
}

void BlockPool::Release(BlockId id) {
  Block& block = blocks_.at(id);
  CHECK_GT(block.refs, 0) << "block " << id;
  if (--block.refs > 0) return;
  if (!block.published) {
    free_.push_back(id);
    return;
  }
  EnterCache(id);
}

void BlockPool::EnterCache(BlockId id) {
  Block& block = blocks_[id];
  ++cached_count_;
  block.last_use = ++operations_;
  if (!cached_children_.contains(block.key)) evictable_.insert({block.last_use, id});
  if (++cached_children_[block.parent] > 1) return;
  if (auto parent = index_.find(block.parent); parent != index_.end()) {
    evictable_.erase({blocks_[parent->second].last_use, parent->second});  // a leaf no longer
  }
}

void BlockPool::LeaveCache(BlockId id) {
  const Block& block = blocks_[id];
  --cached_count_;
  evictable_.erase({block.last_use, id});
  auto children = cached_children_.find(block.parent);
  if (--children->second > 0) return;
  cached_children_.erase(children);
  auto parent = index_.find(block.parent);
  if (parent == index_.end()) return;
  const Block& above = blocks_[parent->second];
  if (above.refs == 0) evictable_.insert({above.last_use, parent->second});  // a leaf again
}

void BlockPool::Publish(BlockId id, const BlockKey& key, const BlockKey& parent) {
  Block& block = blocks_.at(id);
  CHECK_GT(block.refs, 0) << "block " << id;
  if (block.published) {
    CHECK(block.key == key) << "block " << id << " is published under another key";
    return;
  }
  if (!index_.try_emplace(key, id).second) return;
  block.published = true;
  block.key = key;
  block.parent = parent;
}

std::vector<BlockId> BlockPool::AcquirePrefix(std::span<const BlockKey> keys) {
  std::vector<BlockId> found;
  for (const BlockKey& key : keys) {
    auto it = index_.find(key);
    if (it == index_.end()) break;
    Acquire(it->second);
    found.push_back(it->second);
  }
  return found;
}

int BlockPool::MatchPrefix(std::span<const BlockKey> keys) const {
  int matched = 0;
  for (const BlockKey& key : keys) {
    if (!index_.contains(key)) break;
    ++matched;
  }
  return matched;
}

void BlockPool::EvictOne() {
  CHECK(!evictable_.empty());  // of any chain of cached blocks, the last has no cached child
  const BlockId id = evictable_.begin()->second;
  LeaveCache(id);
  Block& block = blocks_[id];
  index_.erase(block.key);
  block.published = false;
  free_.push_back(id);
}

}  // namespace chorale
