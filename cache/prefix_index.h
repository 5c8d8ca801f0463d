// PrefixIndex: which blocks are where. It answers "how much of this chain is present, and at whom?"
// for up to 64 holders (workers and stores) and tens of millions of blocks.
//
//   key --> segment (of 256) --> slot: 16 bytes of key, one bit a holder
//
// A slot takes 24 bytes. Segments are open-addressed with linear probing and at most 5/8 full; each
// grows alone, by a quarter, so a block takes 24 / 0.625 to 24 / 0.5 bytes (38 to 48) whatever
// their number, and growing needs room for a copy of 1/256 of the whole, and stops for as long. A
// lookup is one cache miss, and a chain's lookups are made to miss together.
//
// RemoveHolder only marks the holder's bits as stale, segment by segment; a segment is swept when
// it is rebuilt, at the latest before a holder of that number adds to it. Not thread safe; const
// calls may run side by side.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/block_key.h"

namespace chorale {

// What Find says about a chain.
struct PrefixMatch {
  struct Holder {
    int holder;
    int blocks;  // leading ones that it has, at least 1
  };
  std::vector<Holder> holders;  // longest first, then by number
  int blocks_anywhere = 0;      // leading ones of which each is at some holder
};

class PrefixIndex {
 public:
  static constexpr int kHoldersMax = 64;

  // Adds a block to what `holder` (below kHoldersMax) has. False: it had it already.
  bool Add(int holder, const BlockKey& key);
  // False: it did not have it.
  bool Remove(int holder, const BlockKey& key);
  // Removes all that `holder` has, in O(segments). The number may be used again at once.
  void RemoveHolder(int holder);

  // One bit a holder.
  uint64_t HoldersOf(const BlockKey& key) const;
  PrefixMatch Find(std::span<const BlockKey> keys) const;

  int64_t blocks_of(int holder) const { return blocks_of_.at(holder); }
  // Memory in use. Slots of removed holders are among it until they are swept.
  int64_t bytes() const;

 private:
  struct Slot {
    uint64_t low, high;  // of the key
    uint64_t holders;    // 0: the slot is empty
  };
  struct Segment {
    std::unique_ptr<Slot[]> slots;
    uint32_t capacity = 0;  // at least 1 slot is always empty
    uint32_t used = 0;
    uint64_t stale = 0;  // holders whose bits mean nothing
  };
  // Where to look for a key first. The small functions are inline, in the one file that uses them:
  // position-independent code would not inline others.
  struct Place {
    uint64_t low, high;
    uint32_t segment;
    uint32_t fraction;  // of the way through it, of 2^32
  };
  static inline Place PlaceOf(uint64_t low, uint64_t high);
  static inline Place PlaceOf(const BlockKey& key);
  static inline uint32_t HomeOf(const Segment& segment, uint32_t fraction);
  // The slot with the key, or the empty one where it belongs. The segment has slots.
  static inline uint32_t FindSlot(const Segment& segment, const Place& place);
  static void Rebuild(Segment& segment);
  static void Erase(Segment& segment, uint32_t hole);
  inline uint64_t HoldersAt(const Place& place) const;

  static constexpr int kSegments = 256;
  std::array<Segment, kSegments> segments_;
  std::array<int64_t, kHoldersMax> blocks_of_{};
};

}  // namespace chorale
