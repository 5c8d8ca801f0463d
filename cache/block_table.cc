#include "cache/block_table.h"

#include "base/check.h"

namespace chorale {
namespace {

// A slab moves to another size when the oldest block there is this many times as old as ours:
// moving costs many blocks at once, so sizes that are about equally busy are left alone.
constexpr uint64_t kAgeRatio = 2;

// See the head of the header: all blocks of a size cost the same.
constexpr double kCost = 1;

}  // namespace

std::optional<BlockTable::Number> BlockTable::Reserve(const BlockKey& key, const BlockMeta& meta,
                                                      std::vector<Evicted>& evicted) {
  CHECK(!index_.contains(key)) << key.ToHex() << " is here already";
  CHECK_GT(meta.bytes, 0);
  const int64_t slot_bytes = slabs_.SlotBytes(meta.bytes);
  if (slot_bytes == 0) return std::nullopt;
  std::optional<int64_t> offset = slabs_.Allocate(slot_bytes);
  if (!offset) {
    if (!MakeRoom(slot_bytes, evicted)) return std::nullopt;
    offset = slabs_.Allocate(slot_bytes);
    CHECK(offset.has_value());
  }
  Number number = static_cast<Number>(blocks_.size());
  if (numbers_free_.empty()) {
    blocks_.emplace_back();
  } else {
    number = numbers_free_.back();
    numbers_free_.pop_back();
  }
  blocks_[number] = {.key = key,
                     .meta = meta,
                     .offset = *offset,
                     .slot_bytes = slot_bytes,
                     .last_use = ++operations_,
                     .state = State::kFilling};
  Place(number);
  Pin(number);
  return number;
}

bool BlockTable::Restore(Number number, const BlockKey& key, const BlockMeta& meta,
                         int64_t offset) {
  if (number < blocks_.size() && blocks_[number].state != State::kForgotten) return false;
  if (number >= slabs_.slots_max() || meta.bytes <= 0 || index_.contains(key)) return false;
  const int64_t slot_bytes = slabs_.SlotBytes(meta.bytes);
  if (slot_bytes == 0 || !slabs_.Claim(offset, slot_bytes)) return false;
  CHECK(numbers_free_.empty()) << "blocks are restored before any goes";
  if (number >= blocks_.size()) blocks_.resize(number + 1);
  blocks_[number] = {.key = key,
                     .meta = meta,
                     .offset = offset,
                     .slot_bytes = slot_bytes,
                     .last_use = ++operations_,
                     .state = State::kReady};
  Place(number);
  return true;
}

void BlockTable::EndRestore() {
  CHECK(numbers_free_.empty());
  for (Number number = numbers_end(); number-- > 0;) {
    if (blocks_[number].state == State::kForgotten) numbers_free_.push_back(number);
  }
}

void BlockTable::Commit(Number number) {
  Block& block = blocks_[number];
  CHECK(block.state == State::kFilling && block.pins > 0);
  block.state = State::kReady;
}

void BlockTable::Remove(Number number) {
  Unlist(number);
  if (blocks_[number].pins == 0) Drop(number);
}

void BlockTable::Pin(Number number) {
  Block& block = blocks_[number];
  CHECK(block.state != State::kForgotten);
  ++pins_;
  if (++block.pins > 1) return;
  ++uses_[slabs_.slab_of(block.offset)].blocks_held;
  sizes_.find(block.slot_bytes)->second.order.HoldBack(EntryOf(block));
}

void BlockTable::Unpin(Number number) {
  Block& block = blocks_[number];
  CHECK_GT(block.pins, 0);
  --pins_;
  if (--block.pins > 0) return;
  CHECK(block.state != State::kFilling) << "the last pin of a block that is being filled";
  --uses_[slabs_.slab_of(block.offset)].blocks_held;
  sizes_.find(block.slot_bytes)->second.order.Return(EntryOf(block));
  if (block.state == State::kRemoved) Drop(number);
}

void BlockTable::Touch(Number number, uint32_t uses) {
  Block& block = blocks_[number];
  CHECK(block.state != State::kForgotten);
  ++operations_;
  uses_[slabs_.slab_of(block.offset)].last_use_sum += operations_ - block.last_use;
  block.last_use = operations_;
  sizes_.find(block.slot_bytes)->second.order.Touch(EntryOf(block), uses);
}

std::optional<BlockTable::Number> BlockTable::Find(const BlockKey& key) const {
  const auto it = index_.find(key);
  if (it == index_.end()) return std::nullopt;
  return it->second;
}

// Enters a new block everywhere but in blocks_.
void BlockTable::Place(Number number) {
  const Block& block = blocks_[number];
  Size& size = sizes_[block.slot_bytes];
  size.slots_per_slab = slabs_.slots_per_slab(block.slot_bytes);
  const uint32_t slab = slabs_.slab_of(block.offset);
  SlabUse& use = uses_[slab];
  if (use.blocks_used++ == 0) {
    use.blocks.assign(size.slots_per_slab, kNone);
    if (size.places_free.empty()) {
      use.place = static_cast<uint32_t>(size.slabs.size());
      size.slabs.push_back(slab);
    } else {
      use.place = size.places_free.back();
      size.places_free.pop_back();
      size.slabs[use.place] = slab;
    }
    ++size.slabs_used;
  }
  use.blocks[slabs_.slot_of(block.offset)] = number;
  use.last_use_sum += block.last_use;
  size.order.Insert(EntryOf(block), kCost);
  index_.emplace(block.key, number);
  bytes_ += block.meta.bytes;
  slot_bytes_ += block.slot_bytes;
}

void BlockTable::Unlist(Number number) {
  Block& block = blocks_[number];
  CHECK(block.state == State::kFilling || block.state == State::kReady);
  block.state = State::kRemoved;
  index_.erase(block.key);
  bytes_ -= block.meta.bytes;
}

void BlockTable::Drop(Number number) {
  const Block& block = blocks_[number];
  sizes_.find(block.slot_bytes)->second.order.Remove(EntryOf(block));
  Forget(number);
}

// Gives the slot of a removed block back. It is not pinned, and not in its order any more.
void BlockTable::Forget(Number number) {
  Block& block = blocks_[number];
  CHECK(block.state == State::kRemoved && block.pins == 0);
  const auto size = sizes_.find(block.slot_bytes);
  SlabUse& use = uses_[slabs_.slab_of(block.offset)];
  use.blocks[slabs_.slot_of(block.offset)] = kNone;
  use.last_use_sum -= block.last_use;
  if (--use.blocks_used == 0) {
    size->second.slabs[use.place] = kNone;
    size->second.places_free.push_back(use.place);
    use = SlabUse();
    if (--size->second.slabs_used == 0) sizes_.erase(size);
  }
  slabs_.Free(block.offset);
  slot_bytes_ -= block.slot_bytes;
  block = Block();
  numbers_free_.push_back(number);
}

uint32_t BlockTable::EntryOf(const Block& block) const {
  const SlabUse& use = uses_[slabs_.slab_of(block.offset)];
  return use.place * slabs_.slots_per_slab(block.slot_bytes) + slabs_.slot_of(block.offset);
}

BlockTable::Number BlockTable::CheapestOf(const Size& size) const {
  const uint32_t entry = size.order.cheapest();
  return uses_[size.slabs[entry / size.slots_per_slab]].blocks[entry % size.slots_per_slab];
}

// Evicts until a slot of `slot_bytes` can be had; false, and nothing evicted, when that cannot be.
bool BlockTable::MakeRoom(int64_t slot_bytes, std::vector<Evicted>& evicted) {
  const auto own = sizes_.find(slot_bytes);
  const bool own_can = own != sizes_.end() && !own->second.order.empty();
  // Of the other sizes, the one whose cheapest block is the oldest.
  std::optional<uint32_t> slab;
  uint64_t age_max = own_can ? kAgeRatio * AgeOf(CheapestOf(own->second)) : 0;
  for (const auto& [bytes, size] : sizes_) {
    if (bytes == slot_bytes || size.order.empty()) continue;
    const uint64_t age = AgeOf(CheapestOf(size));
    if (age < age_max || (own_can && age == age_max)) continue;
    if (const auto coldest = ColdestSlab(size)) {
      slab = coldest;
      age_max = age;
    }
  }
  if (slab) {
    const std::vector<Number> blocks = uses_[*slab].blocks;
    for (const Number number : blocks) {
      if (number != kNone) Evict(number, evicted);
    }
    return true;
  }
  if (!own_can) return false;
  Evict(CheapestOf(own->second), evicted);
  return true;
}

// The slab without a held block whose blocks were used the longest ago, on average.
std::optional<uint32_t> BlockTable::ColdestSlab(const Size& size) const {
  std::optional<uint32_t> coldest;
  double last_use_min = 0;
  for (const uint32_t slab : size.slabs) {
    if (slab == kNone || uses_[slab].blocks_held > 0) continue;
    const double last_use = static_cast<double>(uses_[slab].last_use_sum) / uses_[slab].blocks_used;
    if (coldest && last_use >= last_use_min) continue;
    coldest = slab;
    last_use_min = last_use;
  }
  return coldest;
}

void BlockTable::Evict(Number number, std::vector<Evicted>& evicted) {
  const Block& block = blocks_[number];
  CHECK(block.state == State::kReady && block.pins == 0);
  evicted.push_back({number, block.key, block.meta});
  EvictionOrder& order = sizes_.find(block.slot_bytes)->second.order;
  if (order.cheapest() == EntryOf(block)) {
    order.PopCheapest();  // advances the clock
  } else {
    order.Remove(EntryOf(block));
  }
  Unlist(number);
  Forget(number);
}

}  // namespace chorale
