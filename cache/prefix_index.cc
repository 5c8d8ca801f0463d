#include "cache/prefix_index.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace chorale {
namespace {

// Lookups in flight, about as many as a core has room for.
constexpr size_t kAhead = 16;

// Segments hold at most 5/8 of their capacity, and are made 5/4 as large as they must be.
constexpr uint64_t BlocksMax(uint64_t capacity) { return capacity / 8 * 5; }
uint32_t CapacityFor(uint64_t blocks) {
  const uint64_t eights = (blocks + blocks / 4) / 5 + 1;
  CHECK_LT(eights, uint64_t{1} << 28) << "a segment of " << blocks << " blocks";
  return static_cast<uint32_t>(eights * 8);
}

uint64_t BitOf(int holder) {
  CHECK(holder >= 0 && holder < PrefixIndex::kHoldersMax) << "holder " << holder;
  return uint64_t{1} << holder;
}

}  // namespace

// Keys are random bits already; the product only guards against keys of a test that are not.
inline PrefixIndex::Place PrefixIndex::PlaceOf(uint64_t low, uint64_t high) {
  const unsigned __int128 product =
      static_cast<unsigned __int128>(low ^ 0x9e3779b97f4a7c15u) * (high ^ 0xd1b54a32d192ed03u);
  const uint64_t mixed = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  return {.low = low,
          .high = high,
          .segment = static_cast<uint32_t>(mixed >> 56),
          .fraction = static_cast<uint32_t>(mixed >> 24)};
}

inline PrefixIndex::Place PrefixIndex::PlaceOf(const BlockKey& key) {
  uint64_t halves[2];
  std::memcpy(halves, key.bytes.data(), sizeof halves);
  return PlaceOf(halves[0], halves[1]);
}

inline uint32_t PrefixIndex::HomeOf(const Segment& segment, uint32_t fraction) {
  return static_cast<uint32_t>((uint64_t{fraction} * segment.capacity) >> 32);
}

inline uint32_t PrefixIndex::FindSlot(const Segment& segment, const Place& place) {
  uint32_t i = HomeOf(segment, place.fraction);
  while (true) {
    const Slot& slot = segment.slots[i];
    // One branch for both ends of the search: what it waits for is mostly memory.
    const uint64_t other = (slot.low ^ place.low) | (slot.high ^ place.high);
    if (((other == 0) | (slot.holders == 0)) != 0) return i;
    if (++i == segment.capacity) i = 0;
  }
}

// Sweeps stale bits out and makes room for one block more than those that stay, and then a quarter.
void PrefixIndex::Rebuild(Segment& segment) {
  Segment next;
  for (uint32_t i = 0; i < segment.capacity; ++i) {
    next.used += (segment.slots[i].holders & ~segment.stale) != 0;
  }
  next.capacity = CapacityFor(next.used + 1);
  next.slots = std::make_unique<Slot[]>(next.capacity);
  for (uint32_t i = 0; i < segment.capacity; ++i) {
    Slot slot = segment.slots[i];
    slot.holders &= ~segment.stale;
    if (slot.holders != 0) next.slots[FindSlot(next, PlaceOf(slot.low, slot.high))] = slot;
  }
  segment = std::move(next);
}

bool PrefixIndex::Add(int holder, const BlockKey& key) {
  const uint64_t bit = BitOf(holder);
  const Place place = PlaceOf(key);
  Segment& segment = segments_[place.segment];
  if ((segment.stale & bit) != 0 || segment.used >= BlocksMax(segment.capacity)) Rebuild(segment);
  Slot& slot = segment.slots[FindSlot(segment, place)];
  if ((slot.holders & bit) != 0) return false;
  if (slot.holders == 0) {
    slot = {.low = place.low, .high = place.high, .holders = 0};
    ++segment.used;
  }
  slot.holders |= bit;
  ++blocks_of_[holder];
  return true;
}

bool PrefixIndex::Remove(int holder, const BlockKey& key) {
  const uint64_t bit = BitOf(holder);
  const Place place = PlaceOf(key);
  Segment& segment = segments_[place.segment];
  if (segment.used == 0) return false;
  const uint32_t i = FindSlot(segment, place);
  Slot& slot = segment.slots[i];
  if ((slot.holders & ~segment.stale & bit) == 0) return false;
  slot.holders &= ~(bit | segment.stale);
  --blocks_of_[holder];
  if (slot.holders != 0) return true;
  Erase(segment, i);
  if (segment.used < segment.capacity / 4) Rebuild(segment);
  return true;
}

// Closes the hole, so that every block can still be reached from its home (Knuth 6.4, algorithm R).
void PrefixIndex::Erase(Segment& segment, uint32_t hole) {
  const auto after = [&](uint32_t i) { return i + 1 == segment.capacity ? 0 : i + 1; };
  const auto distance = [&](uint32_t from, uint32_t to) {
    return to >= from ? to - from : to + segment.capacity - from;
  };
  for (uint32_t i = after(hole); segment.slots[i].holders != 0; i = after(i)) {
    const Slot& slot = segment.slots[i];
    const uint32_t home = HomeOf(segment, PlaceOf(slot.low, slot.high).fraction);
    if (distance(home, i) < distance(hole, i)) continue;  // its home lies behind the hole
    segment.slots[hole] = slot;
    hole = i;
  }
  segment.slots[hole] = {};
  --segment.used;
}

void PrefixIndex::RemoveHolder(int holder) {
  const uint64_t bit = BitOf(holder);
  if (std::exchange(blocks_of_[holder], 0) == 0) return;
  for (Segment& segment : segments_) {
    if (segment.used > 0) segment.stale |= bit;
  }
}

inline uint64_t PrefixIndex::HoldersAt(const Place& place) const {
  const Segment& segment = segments_[place.segment];
  if (segment.used == 0) return 0;
  return segment.slots[FindSlot(segment, place)].holders & ~segment.stale;
}

uint64_t PrefixIndex::HoldersOf(const BlockKey& key) const { return HoldersAt(PlaceOf(key)); }

PrefixMatch PrefixIndex::Find(std::span<const BlockKey> keys) const {
  static constexpr Slot kEmpty = {};
  // In turns of kAhead keys: first every key's first slot is loaded, with no branch that could wait
  // for any of them, then they are looked at. What is kept in between are words, each written and
  // read whole: a load that a store cannot be forwarded to would wait for the store, and so for
  // memory.
  std::array<uint64_t, kAhead> differences;  // of the keys; 0: the block's slot
  std::array<uint64_t, kAhead> first_holders;
  PrefixMatch match;
  uint64_t leading = ~uint64_t{0};  // who had every block so far
  size_t i = 0;
  for (; i < keys.size(); ++i) {
    const size_t turn = i % kAhead;
    for (size_t k = 0; turn == 0 && k < std::min(kAhead, keys.size() - i); ++k) {
      const Place place = PlaceOf(keys[i + k]);
      const Segment& segment = segments_[place.segment];
      const Slot& slot =
          segment.used == 0 ? kEmpty : segment.slots[HomeOf(segment, place.fraction)];
      differences[k] = (slot.low ^ place.low) | (slot.high ^ place.high);
      first_holders[k] = slot.holders & ~segment.stale;
    }
    const uint64_t holders =
        differences[turn] == 0 ? first_holders[turn] : HoldersAt(PlaceOf(keys[i]));
    for (uint64_t gone = leading & ~holders; i > 0 && gone != 0; gone &= gone - 1) {
      match.holders.push_back({.holder = std::countr_zero(gone), .blocks = static_cast<int>(i)});
    }
    leading &= holders;
    if (holders == 0) break;
  }
  match.blocks_anywhere = static_cast<int>(i);
  for (; i > 0 && leading != 0; leading &= leading - 1) {
    match.holders.push_back({.holder = std::countr_zero(leading), .blocks = static_cast<int>(i)});
  }
  std::sort(match.holders.begin(), match.holders.end(), [](const auto& a, const auto& b) {
    return a.blocks != b.blocks ? a.blocks > b.blocks : a.holder < b.holder;
  });
  return match;
}

int64_t PrefixIndex::bytes() const {
  int64_t bytes = sizeof *this;
  for (const Segment& segment : segments_) bytes += int64_t{segment.capacity} * sizeof(Slot);
  return bytes;
}

}  // namespace chorale
