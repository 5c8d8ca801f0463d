// BlockPool: which blocks are free, which are held and by how many, and which can be found by key.
//
//   free ---Allocate---> held (refs >= 1) ---last Release---> free, if never published
//                          |   ^                      |
//                        Publish  AcquirePrefix       +-----> cached, if published
//                                  |                             |
//                                  +-------- cached <------------+--- evicted by Allocate -> free
//
// A cached block keeps its bytes and its key until the room is needed. Eviction takes the least
// recently used block that has no cached child: a chain is eaten from its leaf, so that what is
// left is always a prefix. The pool does bookkeeping only; the bytes lie in a kernels::KvMemory.
// Deterministic: "recently" is counted in operations, there is no clock. Not thread safe.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "cache/block_key.h"
#include "kernels/tensor.h"

namespace chorale {

using kernels::BlockId;

class BlockPool {
 public:
  explicit BlockPool(int blocks_total);

  // Takes `count` blocks, each with one reference, evicting cached ones as needed. All or nothing:
  // ResourceExhausted says how many were asked for and how many could be had.
  absl::StatusOr<std::vector<BlockId>> Allocate(int count);

  // Adds a reference to a held or cached block.
  void Acquire(BlockId block);
  // Drops one; the last one makes the block cached when it is published, else free.
  void Release(BlockId block);

  // Makes a held, full block findable under `key`, whose history is `parent` (the zero key for a
  // first block). When another block is published under the key already, that one stays and this
  // one remains private.
  void Publish(BlockId block, const BlockKey& key, const BlockKey& parent);

  // The blocks of the longest published prefix of `keys`, each with a reference added.
  std::vector<BlockId> AcquirePrefix(std::span<const BlockKey> keys);
  // How many leading keys are published, without touching references or recency.
  int MatchPrefix(std::span<const BlockKey> keys) const;

  // total = free + cached + held, always.
  int blocks_total() const { return static_cast<int>(blocks_.size()); }
  int blocks_free() const { return static_cast<int>(free_.size()); }
  int blocks_cached() const { return cached_count_; }
  int blocks_held() const { return blocks_total() - blocks_free() - blocks_cached(); }
  // Blocks that Allocate could hand out now.
  int blocks_available() const { return blocks_free() + blocks_cached(); }

 private:
  struct Block {
    int refs = 0;
    bool published = false;
    BlockKey key;
    BlockKey parent;
    uint64_t last_use = 0;
  };
  void EnterCache(BlockId block);
  void LeaveCache(BlockId block);
  void EvictOne();

  std::vector<Block> blocks_;
  std::vector<BlockId> free_;
  int cached_count_ = 0;
  uint64_t operations_ = 0;
  absl::flat_hash_map<BlockKey, BlockId> index_;  // published blocks
  // How many cached blocks name a key as their parent. Counted by key, not by block: a parent may
  // be evicted, and published again by another block, while its children live.
  absl::flat_hash_map<BlockKey, int> cached_children_;
  std::set<std::pair<uint64_t, BlockId>> evictable_;  // cached leaves by last use
};

}  // namespace chorale
