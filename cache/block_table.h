// BlockTable: which blocks a tier of the store holds, where, and which goes when room is needed.
//
//   Reserve --> filling --Commit--> ready --Remove, or evicted--> removed --last Unpin--> forgotten
//               (pinned)  \________________Remove___________________^
//
// A filling block has its slot and its key but no bytes yet; its owner holds a pin. A pinned block
// is not evicted. A removed block is not found any more and its key may be reserved anew; its slot
// is kept until the last pin goes, so whoever reads it reads its bytes and no other's.
//
// Room is made within a slot size by its cheapest block (cache/eviction.h), all blocks costing the
// same: a store sees blocks, not chains, and a later block that is dearer to recompute is worth
// nothing once an earlier one is gone. Callers touch chains from the leaf to the root instead, so
// that the leaf goes first. When another size's cheapest block has not been used for much longer,
// or the own size has none, a whole slab of the other is emptied, so that sizes follow the load.
//
// Deterministic: age is counted in operations. Not thread safe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "cache/block_key.h"
#include "cache/eviction.h"
#include "cache/slab.h"

namespace chorale {

// What is stored with a block.
struct BlockMeta {
  int64_t bytes = 0;
  uint64_t checksum = 0;  // Checksum64 of its bytes
  uint32_t format = 0;
  int32_t index = 0;  // from the start of its prompt

  bool operator==(const BlockMeta&) const = default;
};

class BlockTable {
 public:
  // Numbers are dense, and used again after a block is forgotten.
  using Number = uint32_t;
  enum class State : uint8_t { kForgotten, kFilling, kReady, kRemoved };
  struct Block {
    BlockKey key;
    BlockMeta meta;
    int64_t offset = 0;  // of its slot
    int64_t slot_bytes = 0;
    uint64_t last_use = 0;
    int32_t pins = 0;
    State state = State::kForgotten;
    bool marked = false;  // the owner's, false at first
  };
  struct Evicted {
    Number number = 0;  // it had; may be taken again by now
    BlockKey key;
    BlockMeta meta;
  };

  explicit BlockTable(const SlabOptions& options) : slabs_(options), uses_(slabs_.slabs_total()) {}

  // Room for a block that is not here, filling and with one pin. What had to go is added to
  // `evicted`. None when the block is larger than a slab, or so much is pinned that no room can be
  // made; nothing was evicted then.
  std::optional<Number> Reserve(const BlockKey& key, const BlockMeta& meta,
                                std::vector<Evicted>& evicted);
  // A ready block that a former run left at `offset` under `number`; false when that cannot be. In
  // the order of last use, before anything else; EndRestore ends it.
  bool Restore(Number number, const BlockKey& key, const BlockMeta& meta, int64_t offset);
  void EndRestore();
  // A filling block becomes ready; it keeps its pin.
  void Commit(Number number);
  void Remove(Number number);

  void Pin(Number number);
  void Unpin(Number number);
  // Now is its last use. `uses` 0: it was not used, but is to count as fresh.
  void Touch(Number number, uint32_t uses);

  // Filling or ready.
  std::optional<Number> Find(const BlockKey& key) const;
  const Block& block(Number number) const { return blocks_[number]; }
  void SetMarked(Number number, bool marked) { blocks_[number].marked = marked; }
  // All numbers lie below; some may be forgotten.
  Number numbers_end() const { return static_cast<Number>(blocks_.size()); }

  int64_t blocks() const { return static_cast<int64_t>(index_.size()); }
  // Of the blocks, and of their slots.
  int64_t bytes() const { return bytes_; }
  int64_t slot_bytes() const { return slot_bytes_; }
  int64_t pins() const { return pins_; }

 private:
  // Of one slot size. An entry of `order` is place * slots_per_slab + slot.
  struct Size {
    EvictionOrder order;
    std::vector<uint32_t> slabs;  // by place
    std::vector<uint32_t> places_free;
    uint32_t slots_per_slab = 0;
    uint32_t slabs_used = 0;
  };
  // What a slab in use holds.
  struct SlabUse {
    std::vector<Number> blocks;  // by slot; kNone: none
    uint32_t place = 0;          // in its Size
    uint32_t blocks_used = 0;
    uint32_t blocks_held = 0;  // pinned
    uint64_t last_use_sum = 0;
  };
  static constexpr Number kNone = UINT32_MAX;

  void Place(Number number);
  void Unlist(Number number);
  void Drop(Number number);
  void Forget(Number number);
  uint32_t EntryOf(const Block& block) const;
  Number CheapestOf(const Size& size) const;
  uint64_t AgeOf(Number number) const { return operations_ - blocks_[number].last_use; }
  bool MakeRoom(int64_t slot_bytes, std::vector<Evicted>& evicted);
  std::optional<uint32_t> ColdestSlab(const Size& size) const;
  void Evict(Number number, std::vector<Evicted>& evicted);

  SlabAllocator slabs_;
  std::vector<SlabUse> uses_;      // by slab
  std::map<int64_t, Size> sizes_;  // with slabs, by slot size
  std::vector<Block> blocks_;
  std::vector<Number> numbers_free_;
  absl::flat_hash_map<BlockKey, Number> index_;
  int64_t bytes_ = 0;
  int64_t slot_bytes_ = 0;
  int64_t pins_ = 0;
  uint64_t operations_ = 0;
};

}  // namespace chorale
