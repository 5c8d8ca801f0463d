// EvictionOrder: which entry of a cache goes first.
//
// GreedyDual-Size-Frequency (Cherkasova 1998, HPL-98-69R1): an entry's priority is
//
//   clock + cost per byte * (1 + uses)
//
// as of its last use, and the lowest goes. The clock is the priority of the last one that went, so
// what is not used again sinks below what comes in later, however dear it was. Entries of equal
// priority go in the order of their last use: with equal costs and one use each this is LRU. Uses
// count up to kUsesMax, so that what was popular once is gone after as many turnovers of the cache.
//
// The owner numbers its entries, densely from 0. Pins, leases and children are the owner's: an
// entry that must stay for now is held back, which keeps its place in time. Every call is O(log n);
// an entry takes 36 bytes. Deterministic, there is no clock but the one above. Not thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace chorale {

// What it takes to compute a block again, the first of a chain being 1. A block's queries read all
// keys before it, so it costs more the later it stands: about twice as much at 8192 tokens, where
// attention equals the products with the weights in a model of width 1365 (4 n d beside 24 d^2
// operations per token and layer).
double RecomputeCost(int block_index);

class EvictionOrder {
 public:
  static constexpr uint32_t kUsesMax = 15;

  // A new entry, in the order from now on. `cost_per_byte` is positive, in any unit that is the
  // same for all.
  void Insert(uint32_t entry, double cost_per_byte);
  // Forgets an entry, in the order or held back.
  void Remove(uint32_t entry);
  // Counts `uses` of an entry, in the order or held back; now is its last use.
  void Touch(uint32_t entry, uint32_t uses = 1);
  // Takes an entry out of the order, and puts it back as of its last use. Doing so twice is fine.
  void HoldBack(uint32_t entry);
  void Return(uint32_t entry);

  // Whether an entry is known, in the order or held back.
  bool contains(uint32_t entry) const {
    return entry < records_.size() && records_[entry].place != kUnknown;
  }
  // The one that goes first; there must be one in the order.
  uint32_t cheapest() const;
  // Removes it, and advances the clock.
  uint32_t PopCheapest();

  bool empty() const { return heap_.empty(); }
  // How many are in the order, not held back.
  size_t size() const { return heap_.size(); }

 private:
  static constexpr uint32_t kHeldBack = UINT32_MAX;  // a place
  static constexpr uint32_t kUnknown = UINT32_MAX - 1;
  struct Record {
    double priority = 0;
    uint64_t last_use = 0;
    float cost = 0;
    uint32_t uses = 0;
    uint32_t place = kUnknown;  // in heap_
  };
  Record& Known(uint32_t entry);
  bool Before(uint32_t a, uint32_t b) const;
  void Put(uint32_t place, uint32_t entry);
  void SiftUp(uint32_t place);
  void SiftDown(uint32_t place);

  double clock_ = 0;
  uint64_t operations_ = 0;
  std::vector<Record> records_;  // by entry
  std::vector<uint32_t> heap_;   // of entries; the children of i are 4 i + 1 to 4 i + 4
};

}  // namespace chorale
