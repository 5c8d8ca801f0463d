// DiskTier: the blocks of a store that are on disk.
//
// A BlockTable says where they lie, a DiskFile holds them. Every call does its reading and writing
// in the caller's thread, without the lock; the slot is pinned meanwhile. Every block is verified
// when it is read: one that does not match its checksum, or cannot be read, is dropped and counted.
//
// When writing fails (a full disk, a broken one) the tier is degraded: it says so in its state and
// in the log, goes on reading what it has, and tries to write again after a pause that grows.
// Thread safe.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/kvstore/disk_file.h"
#include "services/kvstore/tier_stat.h"

namespace chorale {

class DiskTier {
 public:
  // Finds what a former process left there. Blocks of a format above `formats_known` are dropped:
  // nobody knows any more what they are.
  static absl::StatusOr<std::unique_ptr<DiskTier>> Open(std::unique_ptr<DiskFile> file,
                                                        const SlabOptions& slabs,
                                                        uint32_t formats_known);

  std::optional<BlockMeta> Find(const BlockKey& key) const;

  // Reads a block of `meta`, as Find gave it, into aligned memory of its rounded length. NotFound:
  // it has gone since. DataLoss, Unavailable: it was bad or unreadable, and has gone now.
  absl::Status Read(const BlockKey& key, const BlockMeta& meta, std::span<std::byte> into);
  // The same, but does not count as a use.
  absl::Status Verify(const BlockKey& key, const BlockMeta& meta, std::span<std::byte> into);
  // Stores a block from aligned memory of its rounded length, unless it is there. What went for it
  // is added to `gone`, whatever the outcome.
  absl::Status Write(const BlockKey& key, const BlockMeta& meta, std::span<const std::byte> bytes,
                     std::vector<BlockKey>& gone);
  // Counts a use of a block, if it is there, or only makes it count as fresh.
  void Touch(const BlockKey& key, uint32_t uses);
  // Drops a block that nobody reads now; 0 when there is none, else its bytes.
  int64_t Drop(const BlockKey& key);
  absl::Status Sync();

  // The blocks numbered from `from` on, some of them; `from` becomes where to go on, and stays when
  // that was all.
  std::vector<BlockListing> List(uint32_t& from, absl::Time now) const;
  TierStat Stat() const;

 private:
  DiskTier(std::unique_ptr<DiskFile> file, const SlabOptions& slabs);
  absl::Status Restore(uint32_t formats_known);
  absl::Status ReadPinned(BlockTable::Number number, const BlockKey& key, const BlockMeta& meta,
                          int64_t offset, std::span<std::byte> into);
  absl::StatusOr<BlockTable::Number> PinLocked(const BlockKey& key, const BlockMeta& meta);
  absl::Status WriteReserved(BlockTable::Number number, std::span<const std::byte> bytes,
                             const std::vector<BlockTable::Evicted>& evicted);
  void DropHeld(BlockTable::Number number);
  void NoteWrite(const absl::Status& status);

  const std::unique_ptr<DiskFile> file_;
  const int64_t bytes_max_;
  std::mutex write_mutex_;  // one Write at a time; locked before mutex_

  mutable std::mutex mutex_;
  // All below under mutex_.
  BlockTable table_;
  std::vector<absl::Time> used_at_;  // by number
  uint64_t sequence_ = 0;
  absl::Status state_;  // of the last write
  absl::Time retry_at_ = absl::InfinitePast();
  absl::Duration pause_;
  struct Counters {
    int64_t hits = 0, written = 0, evicted = 0, corrupt = 0, read_errors = 0, write_errors = 0,
            writes_skipped = 0, restored = 0, torn = 0;
  } counters_;
};

}  // namespace chorale
