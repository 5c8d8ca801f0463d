#include "cache/block_pool.h"

#include <algorithm>
#include <utility>

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
  while (blocks_free() < count) {
    // There is one: of any chain of cached blocks, the last has no cached child.
    const BlockId evicted = static_cast<BlockId>(order_.PopCheapest());
    LeaveCache(evicted);
    Forget(evicted);
    free_.push_back(evicted);
  }
  std::vector<BlockId> taken(free_.end() - count, free_.end());
  free_.resize(free_.size() - count);
  for (BlockId block : taken) {
    CHECK_EQ(blocks_[block].refs, 0);
    blocks_[block] = {.refs = 1};
  }
  return taken;
}

void BlockPool::Acquire(BlockId id) {
  Block& block = blocks_.at(id);
  CHECK(block.refs > 0 || block.published) << "block " << id << " is free";
  if (block.refs == 0) LeaveCache(id);
  if (block.published) order_.Touch(id);
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
  const Block& block = blocks_[id];
  ++cached_count_;
  order_.Touch(id, 0);
  if (!cached_children_.contains(block.key)) order_.Return(id);
  if (++cached_children_[block.parent] > 1) return;
  if (auto parent = index_.find(block.parent); parent != index_.end()) {
    order_.HoldBack(parent->second);  // a leaf no longer
  }
}

void BlockPool::LeaveCache(BlockId id) {
  const Block& block = blocks_[id];
  --cached_count_;
  if (order_.contains(id)) order_.HoldBack(id);
  auto children = cached_children_.find(block.parent);
  if (--children->second > 0) return;
  cached_children_.erase(children);
  auto parent = index_.find(block.parent);
  if (parent == index_.end()) return;
  if (blocks_[parent->second].refs == 0) order_.Return(parent->second);  // a leaf again
}

// Ends the publishing of a block that is not in the cache.
void BlockPool::Forget(BlockId id) {
  Block& block = blocks_[id];
  index_.erase(block.key);
  if (record_events_) {
    events_.push_back({.key = block.key, .removed = true, .index = block.index});
  }
  block = {.refs = block.refs, .sealed = true, .checksum = block.checksum};
}

void BlockPool::Publish(BlockId id, const BlockKey& key, const BlockKey& parent, int index,
                        uint64_t checksum) {
  CHECK_GE(index, 0) << "block " << id;
  Block& block = blocks_.at(id);
  CHECK_GT(block.refs, 0) << "block " << id;
  if (block.published) {
    CHECK(block.key == key) << "block " << id << " is published under another key";
    return;
  }
  if (!index_.try_emplace(key, id).second) return;
  block = {.refs = block.refs,
           .index = index,
           .published = true,
           .sealed = true,
           .checksum = checksum,
           .key = key,
           .parent = parent};
  order_.Insert(id, RecomputeCost(index));
  order_.HoldBack(id);
  if (record_events_) events_.push_back({.key = key, .index = index});
}

void BlockPool::Unpublish(BlockId id) {
  const Block& block = blocks_.at(id);
  if (!block.published || Evict(id)) return;
  order_.Remove(id);
  Forget(id);
}

bool BlockPool::Evict(BlockId id) {
  const Block& block = blocks_.at(id);
  if (!block.published || block.refs > 0) return false;
  LeaveCache(id);
  order_.Remove(id);
  Forget(id);
  free_.push_back(id);
  return true;
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

std::vector<BlockId> BlockPool::AcquirePrefix(std::span<const BlockKey> keys, int blocks_seen) {
  CHECK_GE(blocks_seen, 1);
  int end = 0;  // of the prefix
  int run = 0;  // published keys before position i, without a gap
  for (int i = 0; i < static_cast<int>(keys.size()); ++i) {
    run = index_.contains(keys[i]) ? run + 1 : 0;
    if (run >= std::min(blocks_seen, i + 1)) end = i + 1;
  }
  const int begin = std::max(0, end - blocks_seen);
  std::vector<BlockId> found(begin, kNoBlock);
  for (int i = begin; i < end; ++i) {
    found.push_back(index_.at(keys[i]));
    Acquire(found.back());
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

const BlockPool::Block& BlockPool::Published(BlockId id) const {
  const Block& block = blocks_.at(id);
  CHECK(block.published) << "block " << id;
  return block;
}

void BlockPool::ForEachPublished(absl::FunctionRef<void(const PublishedBlock&)> visit) const {
  for (BlockId id = 0; id < blocks_total(); ++id) {
    const Block& block = blocks_[id];
    if (!block.published) continue;
    visit({.block = id,
           .key = block.key,
           .index = block.index,
           .refs = block.refs,
           .checksum = block.checksum});
  }
}

void BlockPool::RecordEvents(bool on) {
  if (record_events_ == on) return;
  record_events_ = on;
  events_.clear();
  if (!on) return;
  ForEachPublished([this](const PublishedBlock& block) {
    events_.push_back({.key = block.key, .index = block.index});
  });
}

std::vector<BlockEvent> BlockPool::TakeEvents() { return std::exchange(events_, {}); }

}  // namespace chorale
