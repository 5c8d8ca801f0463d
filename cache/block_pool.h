// BlockPool: which blocks are free, which are held and by how many, and which can be found by key.
//
//   free ---Allocate---> held (refs >= 1) ---last Release---> free, if not published
//                          |   ^                      |
//                        Publish  AcquirePrefix       +-----> cached, if published
//                                  |                             |
//                                  +-------- cached <------------+--- Allocate, Evict -> free
//
// A cached block keeps its bytes and its key until the room is needed. Of the cached blocks without
// a cached child goes the one that is cheapest to lose (cache/eviction.h): a chain is eaten from
// its leaf, so that what is left is always a prefix. A block whose bytes turn out bad is
// unpublished: nobody finds it any more, and those who hold it let it go like a private one. The
// pool does bookkeeping only; the bytes lie in a kernels::KvMemory. Deterministic: there is no
// clock. Not thread safe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "cache/block_events.h"
#include "cache/block_key.h"
#include "cache/eviction.h"
#include "kernels/tensor.h"

namespace chorale {

using kernels::BlockId;
// Stands for a block that is not there, because nobody will read it.
inline constexpr BlockId kNoBlock = -1;

// A block that can be found by its key.
struct PublishedBlock {
  BlockId block = 0;
  BlockKey key;
  int index = 0;          // in its chain, from 0
  int refs = 0;           // 0: cached
  uint64_t checksum = 0;  // of its bytes
};

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
  // first block). `index` is its place in the chain, from 0; `checksum` is of its bytes. When
  // another block is published under the key already, that one stays and this one remains private.
  void Publish(BlockId block, const BlockKey& key, const BlockKey& parent, int index,
               uint64_t checksum);
  // Takes back the publishing of a block whose bytes were found bad. A cached one becomes free, a
  // held one at its last release. Its cached children cannot be reached until another block is
  // published under its key; they go as the room is needed. Nothing happens to a private block.
  void Unpublish(BlockId block);
  // Frees a cached block now, also one with cached children. False: it is not cached.
  bool Evict(BlockId block);

  // The blocks of the longest published prefix of `keys`, each with a reference added.
  std::vector<BlockId> AcquirePrefix(std::span<const BlockKey> keys);
  // The same for a reader that sees the last `blocks_seen` >= 1 blocks of a prefix only: those
  // before are kNoBlock, published or not.
  std::vector<BlockId> AcquirePrefix(std::span<const BlockKey> keys, int blocks_seen);
  // How many leading keys are published, without touching references or what goes first.
  int MatchPrefix(std::span<const BlockKey> keys) const;

  bool published(BlockId block) const { return blocks_.at(block).published; }
  // Of a published block.
  const BlockKey& key(BlockId block) const { return Published(block).key; }
  uint64_t checksum(BlockId block) const { return Published(block).checksum; }
  // Of a held block that is published, or was; nothing for one that never was. The bytes of a block
  // that was unpublished may not match it any more: do not take a new one.
  std::optional<uint64_t> SealedChecksum(BlockId block) const {
    const Block& b = blocks_.at(block);
    return b.sealed ? std::optional(b.checksum) : std::nullopt;
  }
  // Calls `visit` with each, in the order of their numbers; it must not change the pool.
  void ForEachPublished(absl::FunctionRef<void(const PublishedBlock&)> visit) const;

  // While on, the pool remembers which keys become findable or stop being so; those that are
  // findable already come first. Whoever turns this on takes the events now and then, or they pile
  // up. Turning it off drops them.
  void RecordEvents(bool on);
  std::vector<BlockEvent> TakeEvents();

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
    int index = 0;
    bool published = false;
    bool sealed = false;  // was published since it was allocated
    uint64_t checksum = 0;
    BlockKey key;
    BlockKey parent;
  };
  const Block& Published(BlockId block) const;
  void EnterCache(BlockId block);
  void LeaveCache(BlockId block);
  void Forget(BlockId block);

  std::vector<Block> blocks_;
  std::vector<BlockId> free_;
  int cached_count_ = 0;
  absl::flat_hash_map<BlockKey, BlockId> index_;  // published blocks
  // How many cached blocks name a key as their parent. Counted by key, not by block: a parent may
  // go, and its key be published again by another block, while its children live.
  absl::flat_hash_map<BlockKey, int> cached_children_;
  // All published blocks; held back are those with references or cached children.
  EvictionOrder order_;
  bool record_events_ = false;
  std::vector<BlockEvent> events_;
};

}  // namespace chorale
