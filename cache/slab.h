// SlabAllocator: room for blocks in an arena, be it memory or a file. Offsets only.
//
// The arena is cut into slabs of one size. A slab that is in use serves slots of one size; when its
// last slot is freed it may serve any other. So nothing fragments but what a slab cannot divide by
// its slots, and room can always be made by emptying one slab.
//
//   | 64K 64K 64K ... | 160K 160K ... | (free) | 64K 64K ... |
//
// Slots come in eight sizes per power of two, so they waste an eighth at most, and the sizes that
// real blocks have (a small number times a power of two) fit exactly. Deterministic; not thread
// safe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

namespace chorale {

struct SlabOptions {
  int64_t bytes_max = 0;         // of the arena; what does not fill a slab is not used
  int64_t slab_bytes = 4 << 20;  // the largest block, too; a multiple of slot_align
  int64_t slot_align = 4096;     // every slot begins and ends at a multiple of it
};

class SlabAllocator {
 public:
  explicit SlabAllocator(const SlabOptions& options);

  // The size of the slot that a block of `bytes` (> 0) gets; 0 when it is larger than a slab.
  int64_t SlotBytes(int64_t bytes) const;

  // The offset of a slot of a size that SlotBytes gave; none when no slab has room for it.
  std::optional<int64_t> Allocate(int64_t slot_bytes);
  // Takes a certain slot, as when the arena's content is found again. False when it is not one of
  // the arena, or taken, or its slab serves another size.
  bool Claim(int64_t offset, int64_t slot_bytes);
  void Free(int64_t offset);

  uint32_t slab_of(int64_t offset) const { return static_cast<uint32_t>(offset / slab_bytes_); }
  // Which slot of its slab.
  uint32_t slot_of(int64_t offset) const;
  // 0: the slab is free.
  int64_t slot_bytes(uint32_t slab) const { return slabs_[slab].slot_bytes; }
  uint32_t slots_per_slab(int64_t slot_bytes) const {
    return static_cast<uint32_t>(slab_bytes_ / slot_bytes);
  }
  uint32_t slabs_total() const { return static_cast<uint32_t>(slabs_.size()); }
  uint32_t slabs_free() const { return static_cast<uint32_t>(free_.size()); }
  // How many blocks could there ever be?
  int64_t slots_max() const { return slab_bytes_ / slot_align_ * slabs_total(); }

 private:
  struct Slab {
    int64_t slot_bytes = 0;
    uint32_t slots_used = 0;
    std::vector<uint64_t> used;  // a bit per slot
  };
  void Open(uint32_t slab, int64_t slot_bytes);
  void Take(uint32_t slab, uint32_t slot);

  int64_t slab_bytes_;
  int64_t slot_align_;
  std::vector<Slab> slabs_;
  std::set<uint32_t> free_;
  std::map<int64_t, std::set<uint32_t>> with_room_;  // by slot size, slabs in use with a free slot
};

}  // namespace chorale
