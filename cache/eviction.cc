#include "cache/eviction.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/tensor.h"

namespace chorale {
namespace {

constexpr double kTokensOfDoubleCost = 8192;
constexpr uint32_t kArity = 4;

}  // namespace

double RecomputeCost(int block_index) {
  return 1 + block_index * (kernels::kBlockTokens / kTokensOfDoubleCost);
}

EvictionOrder::Record& EvictionOrder::Known(uint32_t entry) {
  CHECK(contains(entry)) << "entry " << entry;
  return records_[entry];
}

void EvictionOrder::Insert(uint32_t entry, double cost_per_byte) {
  CHECK_GT(cost_per_byte, 0) << "entry " << entry;
  CHECK_LT(entry, kUnknown);
  if (entry >= records_.size()) records_.resize(entry + 1);
  Record& record = records_[entry];
  CHECK(record.place == kUnknown) << "entry " << entry << " is in the order already";
  record = {.cost = static_cast<float>(cost_per_byte), .place = kHeldBack};
  Touch(entry, 0);
  Return(entry);
}

void EvictionOrder::Remove(uint32_t entry) {
  HoldBack(entry);
  records_[entry].place = kUnknown;
}

void EvictionOrder::Touch(uint32_t entry, uint32_t uses) {
  Record& record = Known(entry);
  record.uses += std::min(uses, kUsesMax - record.uses);
  record.priority = clock_ + record.cost * (1.0 + record.uses);
  record.last_use = ++operations_;
  if (record.place == kHeldBack) return;
  SiftDown(record.place);  // a later use never lowers a priority
}

void EvictionOrder::HoldBack(uint32_t entry) {
  Record& record = Known(entry);
  const uint32_t place = record.place;
  if (place == kHeldBack) return;
  record.place = kHeldBack;
  const uint32_t last = heap_.back();
  heap_.pop_back();
  if (last == entry) return;
  Put(place, last);
  SiftUp(place);
  SiftDown(records_[last].place);
}

void EvictionOrder::Return(uint32_t entry) {
  if (Known(entry).place != kHeldBack) return;
  heap_.push_back(entry);
  Put(static_cast<uint32_t>(heap_.size() - 1), entry);
  SiftUp(records_[entry].place);
}

uint32_t EvictionOrder::cheapest() const {
  CHECK(!heap_.empty());
  return heap_.front();
}

uint32_t EvictionOrder::PopCheapest() {
  const uint32_t entry = cheapest();
  // One that was held back for long may lie below the clock, which never goes back.
  clock_ = std::max(clock_, records_[entry].priority);
  Remove(entry);
  return entry;
}

bool EvictionOrder::Before(uint32_t a, uint32_t b) const {
  const Record& left = records_[a];
  const Record& right = records_[b];
  if (left.priority != right.priority) return left.priority < right.priority;
  return left.last_use < right.last_use;
}

void EvictionOrder::Put(uint32_t place, uint32_t entry) {
  heap_[place] = entry;
  records_[entry].place = place;
}

void EvictionOrder::SiftUp(uint32_t place) {
  const uint32_t entry = heap_[place];
  while (place > 0) {
    const uint32_t above = (place - 1) / kArity;
    if (!Before(entry, heap_[above])) break;
    Put(place, heap_[above]);
    place = above;
  }
  Put(place, entry);
}

void EvictionOrder::SiftDown(uint32_t place) {
  const uint32_t entry = heap_[place];
  const uint64_t size = heap_.size();
  while (true) {
    const uint64_t first = uint64_t{place} * kArity + 1;
    if (first >= size) break;
    uint64_t least = first;
    for (uint64_t child = first + 1; child < std::min(first + kArity, size); ++child) {
      if (Before(heap_[child], heap_[least])) least = child;
    }
    if (!Before(heap_[least], entry)) break;
    Put(place, heap_[least]);
    place = static_cast<uint32_t>(least);
  }
  Put(place, entry);
}

}  // namespace chorale
