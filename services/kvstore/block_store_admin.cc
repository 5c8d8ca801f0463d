// What operators and listeners ask of a BlockStore.
#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "base/hash.h"
#include "process/log.h"
#include "services/kvstore/block_store.h"

namespace chorale {
namespace {

constexpr BlockTable::Number kListedMax = 4096;  // numbers looked at under one lock
constexpr int64_t kProgressBlocks = 256;         // between two calls of a progress function

}  // namespace

int BlockStore::Lookup(std::span<const BlockKey> keys) const {
  int count = 0;
  {
    std::lock_guard lock(mutex_);
    for (const BlockKey& key : keys) {
      if (!PresentLocked(key)) break;
      ++count;
    }
  }
  const std::span<const BlockKey> rest = keys.subspan(count);
  return rest.empty() || !backing_.count_prefix ? count : count + backing_.count_prefix(rest);
}

void BlockStore::Freshen(std::span<const BlockKey> keys) {
  std::lock_guard lock(mutex_);
  for (size_t i = keys.size(); i-- > 0;) {
    if (const auto number = dram_.Find(keys[i])) dram_.Touch(*number, 0);
    if (disk_) disk_->Touch(keys[i], 0);
  }
}

std::vector<BlockEvent> BlockStore::TakeEvents(absl::Duration time_max) {
  std::unique_lock lock(mutex_);
  events_changed_.wait_for(lock, absl::ToChronoMilliseconds(time_max),
                           [this] { return !events_.empty(); });
  return std::exchange(events_, {});
}

std::vector<BlockListing> BlockStore::ListDram(Number& from, absl::Time now) const {
  std::lock_guard lock(mutex_);
  std::vector<BlockListing> listing;
  for (const Number end = std::min(dram_.numbers_end(), from + kListedMax); from < end; ++from) {
    const BlockTable::Block& block = dram_.block(from);
    if (block.state != BlockTable::State::kReady) continue;
    listing.push_back({.key = block.key,
                       .tier = "dram",
                       .bytes = block.meta.bytes,
                       .index = block.meta.index,
                       .holds = block.pins,
                       .age = now - used_at_[from]});
  }
  return listing;
}

void BlockStore::List(const std::string& tier,
                      const std::function<bool(const BlockListing&)>& fn) const {
  const absl::Time now = absl::Now();
  for (const bool dram : {true, false}) {
    if (!tier.empty() && tier != (dram ? "dram" : "disk")) continue;
    if (!dram && !disk_) continue;
    for (Number from = 0, before = 1; from != before;) {
      before = from;
      for (const BlockListing& block : dram ? ListDram(from, now) : disk_->List(from, now)) {
        if (!fn(block)) return;
      }
    }
  }
}

std::vector<TierStat> BlockStore::Stat() const {
  std::vector<TierStat> stats;
  {
    std::lock_guard lock(mutex_);
    stats.push_back({.tier = "dram",
                     .blocks = dram_.blocks(),
                     .bytes = dram_.bytes(),
                     .bytes_max = options_.dram_bytes,
                     .holds = dram_.pins(),
                     .counters = {{"hits", counters_.hits},
                                  {"misses", counters_.misses},
                                  {"puts", counters_.puts},
                                  {"present", counters_.present},
                                  {"corrupt", counters_.corrupt},
                                  {"corrupt_puts", counters_.corrupt_puts},
                                  {"no_room", counters_.no_room},
                                  {"evicted", counters_.evicted},
                                  {"evicted_unwritten", counters_.evicted_unwritten},
                                  {"unqueued", counters_.unqueued},
                                  {"unwritten", counters_.unwritten},
                                  {"reads_refused", counters_.reads_refused},
                                  {"backing_hits", counters_.backing_hits},
                                  {"backing_corrupt", counters_.backing_corrupt}}});
  }
  if (disk_) stats.push_back(disk_->Stat());
  if (backing_.stat) stats.push_back(backing_.stat());
  return stats;
}

BlockStore::Verified BlockStore::Verify(const std::string& tier,
                                        const std::function<bool(const Verified&)>& progress) {
  Verified verified;
  for (const TierStat& stat : Stat()) {
    if (stat.blocks < 0 || (!tier.empty() && tier != stat.tier)) continue;
    verified.total += stat.blocks;
  }
  const bool dram = tier.empty() || tier == "dram";
  const bool disk = disk_ && (tier.empty() || tier == "disk");
  if (dram && !VerifyDram(verified, progress)) return verified;
  if (disk) VerifyDisk(verified, progress);
  return verified;
}

// False: it was told to stop.
bool BlockStore::VerifyDram(Verified& verified,
                            const std::function<bool(const Verified&)>& progress) {
  for (Number number = 0;; ++number) {
    std::optional<Handle> handle;
    {
      std::lock_guard lock(mutex_);
      if (number >= dram_.numbers_end()) return true;
      if (dram_.block(number).state != BlockTable::State::kReady) continue;
      handle.emplace(PinLocked(number));
    }
    if (!Matches(*handle)) ++verified.bad;
    if (++verified.done % kProgressBlocks == 0 && !progress(verified)) return false;
  }
}

bool BlockStore::VerifyDisk(Verified& verified,
                            const std::function<bool(const Verified&)>& progress) {
  AlignedBytes memory(DiskFile::RoundUp(options_.slab_bytes));
  for (Number from = 0, before = 1; from != before;) {
    before = from;
    for (const BlockListing& block : disk_->List(from, absl::Now())) {
      const std::optional<BlockMeta> meta = disk_->Find(block.key);
      if (!meta) continue;  // by now
      const auto into = memory.span().first(static_cast<size_t>(DiskFile::RoundUp(meta->bytes)));
      const absl::Status status = disk_->Verify(block.key, *meta, into);
      if (!status.ok() && !absl::IsNotFound(status)) {
        ++verified.bad;
        std::lock_guard lock(mutex_);
        NotePresenceLocked(block.key);
      }
      if (++verified.done % kProgressBlocks == 0 && !progress(verified)) return false;
    }
  }
  return true;
}

BlockStore::Dropped BlockStore::Evict(const std::string& tier, const std::string& prefix) {
  Dropped dropped;
  List(tier, [&](const BlockListing& block) {
    if (!absl::StartsWith(block.key.ToHex(), prefix)) return true;
    int64_t bytes = 0;
    if (block.tier == "disk") bytes = disk_->Drop(block.key);
    std::lock_guard lock(mutex_);
    if (block.tier == "dram") {
      const auto number = dram_.Find(block.key);
      if (!number || dram_.block(*number).pins > 0) return true;
      bytes = dram_.block(*number).meta.bytes;
      dram_.Remove(*number);
    }
    if (bytes == 0) return true;
    NotePresenceLocked(block.key);
    ++dropped.blocks;
    dropped.bytes += bytes;
    return true;
  });
  return dropped;
}

bool BlockStore::Flush(absl::Duration time_max) {
  if (!disk_) return true;
  {
    std::unique_lock lock(mutex_);
    if (!write_queue_changed_.wait_for(lock, absl::ToChronoMilliseconds(time_max),
                                       [this] { return write_queue_bytes_ == 0; })) {
      return false;
    }
  }
  const absl::Status status = disk_->Sync();
  if (!status.ok()) LogWarning("disk tier: ", status.message());
  return status.ok();
}

}  // namespace chorale
