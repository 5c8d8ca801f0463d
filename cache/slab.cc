#include "cache/slab.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace chorale {
namespace {

constexpr int64_t kSizesPerDoubling = 8;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

SlabAllocator::SlabAllocator(const SlabOptions& options)
    : slab_bytes_(options.slab_bytes), slot_align_(options.slot_align) {
  CHECK(slot_align_ > 0 && slab_bytes_ > 0 && slab_bytes_ % slot_align_ == 0)
      << "slabs of " << slab_bytes_ << " bytes, slots aligned to " << slot_align_;
  CHECK_GE(options.bytes_max, 0);
  const int64_t slabs = options.bytes_max / slab_bytes_;
  CHECK_LT(slabs, int64_t{UINT32_MAX});
  slabs_.resize(static_cast<size_t>(slabs));
  for (uint32_t slab = 0; slab < slabs; ++slab) free_.insert(free_.end(), slab);
}

int64_t SlabAllocator::SlotBytes(int64_t bytes) const {
  CHECK_GT(bytes, 0);
  if (bytes > slab_bytes_) return 0;
  const int64_t power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes)));
  const int64_t step = std::max<int64_t>(1, power / kSizesPerDoubling);
  return std::min(slab_bytes_, RoundUp(RoundUp(bytes, step), slot_align_));
}

std::optional<int64_t> SlabAllocator::Allocate(int64_t slot_bytes) {
  CHECK(slot_bytes > 0 && slot_bytes <= slab_bytes_ && slot_bytes % slot_align_ == 0)
      << "a slot of " << slot_bytes << " bytes";
  auto room = with_room_.find(slot_bytes);
  if (room == with_room_.end()) {
    if (free_.empty()) return std::nullopt;
    Open(*free_.begin(), slot_bytes);
    room = with_room_.find(slot_bytes);
  }
  const uint32_t number = *room->second.begin();
  const Slab& slab = slabs_[number];
  for (size_t word = 0; word < slab.used.size(); ++word) {
    if (slab.used[word] == ~uint64_t{0}) continue;
    const uint32_t slot =
        static_cast<uint32_t>(word * 64) + static_cast<uint32_t>(std::countr_one(slab.used[word]));
    Take(number, slot);
    return number * slab_bytes_ + slot * slot_bytes;
  }
  CHECK(false) << "slab " << number << " has no room, but is listed as having some";
  return std::nullopt;
}

bool SlabAllocator::Claim(int64_t offset, int64_t slot_bytes) {
  if (offset < 0 || offset / slab_bytes_ >= slabs_total()) return false;
  if (slot_bytes <= 0 || slot_bytes > slab_bytes_ || slot_bytes % slot_align_ != 0) return false;
  const int64_t in_slab = offset % slab_bytes_;
  if (in_slab % slot_bytes != 0 || in_slab + slot_bytes > slab_bytes_) return false;
  const uint32_t number = slab_of(offset);
  if (slabs_[number].slot_bytes == 0) Open(number, slot_bytes);
  const Slab& slab = slabs_[number];
  if (slab.slot_bytes != slot_bytes) return false;
  const uint32_t slot = static_cast<uint32_t>(in_slab / slot_bytes);
  if ((slab.used[slot / 64] >> (slot % 64)) & 1) return false;
  Take(number, slot);
  return true;
}

void SlabAllocator::Free(int64_t offset) {
  const uint32_t number = slab_of(offset);
  CHECK_LT(number, slabs_total());
  Slab& slab = slabs_[number];
  CHECK(slab.slot_bytes > 0 && offset % slab_bytes_ % slab.slot_bytes == 0) << "offset " << offset;
  const uint32_t slot = slot_of(offset);
  const uint64_t bit = uint64_t{1} << (slot % 64);
  CHECK(slab.used[slot / 64] & bit) << "the slot at " << offset << " is free already";
  slab.used[slot / 64] &= ~bit;
  if (--slab.slots_used > 0) {
    with_room_[slab.slot_bytes].insert(number);
    return;
  }
  const auto room = with_room_.find(slab.slot_bytes);
  if (room != with_room_.end()) {
    room->second.erase(number);
    if (room->second.empty()) with_room_.erase(room);
  }
  slab = Slab();
  free_.insert(number);
}

uint32_t SlabAllocator::slot_of(int64_t offset) const {
  return static_cast<uint32_t>(offset % slab_bytes_ / slabs_[slab_of(offset)].slot_bytes);
}

void SlabAllocator::Open(uint32_t number, int64_t slot_bytes) {
  Slab& slab = slabs_[number];
  slab.slot_bytes = slot_bytes;
  const uint32_t slots = slots_per_slab(slot_bytes);
  slab.used.assign((slots + 63) / 64, 0);
  // The bits behind the last slot count as taken.
  if (slots % 64 != 0) slab.used.back() = ~uint64_t{0} << (slots % 64);
  free_.erase(number);
  with_room_[slot_bytes].insert(number);
}

void SlabAllocator::Take(uint32_t number, uint32_t slot) {
  Slab& slab = slabs_[number];
  slab.used[slot / 64] |= uint64_t{1} << (slot % 64);
  if (++slab.slots_used < slots_per_slab(slab.slot_bytes)) return;
  const auto room = with_room_.find(slab.slot_bytes);
  room->second.erase(number);
  if (room->second.empty()) with_room_.erase(room);
}

}  // namespace chorale
