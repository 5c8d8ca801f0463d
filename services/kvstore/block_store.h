// BlockStore: K/V blocks by key, in memory, on disk, and in what lies behind.
//
//            Put                                 Get
//             |                                   |
//     +-------v----------------  DRAM  -----------^--------+   a BlockTable over shared memory
//     |       |  write-behind, bounded            |        |
//     |  +----v----------------  disk  -----------^-----+  |   DiskTier
//     |  |                                        |     |  |
//     |  |    (put too)          backing ---------^     |  |   another process: Redis
//
// A block that is put is in memory at once, and on disk when the writer gets to it; when the writer
// is behind by more than `write_behind_bytes` it stays in memory only. Nobody waits for the disk
// who does not ask for a block that lies there, and one that is found below is brought up first.
//
// Nothing is handed out that was not compared with its checksum, whatever tier it came from: what
// does not match is dropped, counted, and looked for in the next tier.
//
// A block is present while it is in memory or on disk; events say when that changes. Bytes are
// copied and compared without the lock, with the slot pinned. Thread safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache/block_events.h"
#include "cache/block_table.h"
#include "rpc/blocks/shared_region.h"
#include "services/kvstore/disk_tier.h"
#include "services/kvstore/format_table.h"
#include "services/kvstore/redis/backing_tier.h"
#include "services/kvstore/tier_stat.h"
#include "services/kvstore/work_pool.h"

namespace chorale {

struct BlockStoreOptions {
  int64_t dram_bytes = int64_t{1} << 30;
  int64_t slab_bytes = 4 << 20;  // the largest block
  std::string dir;               // empty: no disk tier
  int64_t disk_bytes = 0;
  int64_t write_behind_bytes = 256 << 20;
  int disk_readers = 4;
  bool record_events = false;  // for TakeEvents, which must be called then
};

class BlockStore {
 public:
  // A verified block in memory, which stays as it is while this lives.
  class Handle {
   public:
    Handle(Handle&& other) noexcept;
    Handle& operator=(Handle&& other) noexcept;
    ~Handle();

    const BlockMeta& meta() const { return meta_; }
    std::span<const std::byte> bytes() const { return bytes_; }
    int64_t offset() const { return offset_; }  // in region()

   private:
    friend class BlockStore;
    // Takes over a pin. Under the store's lock.
    Handle(BlockStore* store, BlockTable::Number number);

    BlockStore* store_;  // null: moved from
    BlockTable::Number number_;
    BlockKey key_;
    BlockMeta meta_;
    int64_t offset_;
    std::span<const std::byte> bytes_;
  };
  using GetFn = std::function<void(std::optional<Handle>)>;

  enum class PutResult {
    kTaken,
    kPresent,
    kCorrupt,  // did not match its checksum
    kNoRoom,   // larger than a slab, or everything else is held
  };

  // InvalidArgument names the flag to write otherwise.
  static absl::StatusOr<std::unique_ptr<BlockStore>> Create(const BlockStoreOptions& options,
                                                            BackingTier backing = {});
  // Waits until all handles are gone. Blocks that wait to be written are not.
  ~BlockStore();
  BlockStore(const BlockStore&) = delete;
  BlockStore& operator=(const BlockStore&) = delete;

  // `meta.format` is a number of formats().
  PutResult Put(const BlockKey& key, const BlockMeta& meta, std::span<const std::byte> bytes);
  // Calls `done` exactly once: before it returns when the block is in memory or nowhere, else on a
  // thread of the store, which `done` should not keep for long. Null: a miss.
  void Get(const BlockKey& key, GetFn done);
  // How many leading keys are here or, asked with the rest, in what lies behind.
  int Lookup(std::span<const BlockKey> keys) const;
  // Makes a chain count as fresh, its root last, so that it is eaten from its leaf.
  void Freshen(std::span<const BlockKey> keys);

  // Which blocks became present and stopped being so since the last call, in order; the first
  // brings those that were found on disk. Some change nothing. Waits for one, or for `time_max`.
  std::vector<BlockEvent> TakeEvents(absl::Duration time_max);

  // Calls `fn` with every block of a tier ("dram", "disk"; empty: both) until it says false.
  void List(const std::string& tier, const std::function<bool(const BlockListing&)>& fn) const;
  std::vector<TierStat> Stat() const;
  // Reads every block of a tier and compares it; calls `progress` now and then, until it says
  // false.
  struct Verified {
    int64_t done = 0, total = 0, bad = 0;
  };
  Verified Verify(const std::string& tier, const std::function<bool(const Verified&)>& progress);
  // Drops blocks whose hexadecimal key begins with `prefix` from a tier, unless they are held.
  struct Dropped {
    int64_t blocks = 0, bytes = 0;
  };
  Dropped Evict(const std::string& tier, const std::string& prefix);

  // Waits until all that is to be written is on disk, and survives a power failure, or for
  // `time_max`. False: it is not.
  bool Flush(absl::Duration time_max);

  int64_t block_bytes_max() const { return options_.slab_bytes; }
  FormatTable& formats() { return *formats_; }
  bool has_backing() const { return backing_.get != nullptr; }
  const SharedRegion& region() const { return *region_; }

 private:
  using Number = BlockTable::Number;

  BlockStore(const BlockStoreOptions& options, BackingTier backing);

  // `...Locked`: under mutex_.
  std::optional<Number> ReserveLocked(const BlockKey& key, const BlockMeta& meta);
  bool PresentLocked(const BlockKey& key) const;
  void NotePresenceLocked(const BlockKey& key);
  void EnqueueWriteLocked(Number number);
  Handle PinLocked(Number number);

  std::span<std::byte> Slot(int64_t offset, int64_t bytes) const;
  PutResult PutLocal(const BlockKey& key, const BlockMeta& meta, std::span<const std::byte> bytes,
                     std::optional<Handle>& handle);
  std::optional<Handle> EndFilling(Number number, bool good);
  bool Matches(const Handle& handle);
  void GetBelow(const BlockKey& key, GetFn done);
  void FillFromDisk(const BlockKey& key, const BlockMeta& meta, Number number, GetFn done);
  void GetFromBacking(const BlockKey& key, GetFn done);
  void Miss(const GetFn& done);
  void RunWriter();
  void WriteBehind(const BlockKey& key);
  void Release(Number number);
  bool VerifyDram(Verified& verified, const std::function<bool(const Verified&)>& progress);
  bool VerifyDisk(Verified& verified, const std::function<bool(const Verified&)>& progress);
  std::vector<BlockListing> ListDram(Number& from, absl::Time now) const;

  const BlockStoreOptions options_;
  const BackingTier backing_;
  std::unique_ptr<FormatTable> formats_;
  std::unique_ptr<SharedRegion> region_;
  std::unique_ptr<DiskTier> disk_;  // null: none. Its lock is taken after mutex_.

  mutable std::mutex mutex_;
  // All below under mutex_.
  BlockTable dram_;                                          // marked: waits to be written
  std::vector<absl::Time> used_at_;                          // by number
  absl::flat_hash_map<Number, std::vector<GetFn>> waiters_;  // for filling blocks
  std::vector<BlockEvent> events_;
  std::condition_variable events_changed_;
  struct Waiting {
    BlockKey key;
    int64_t bytes = 0;
  };
  std::deque<Waiting> write_queue_;
  int64_t write_queue_bytes_ = 0;  // with the one being written
  bool stopping_ = false;
  std::condition_variable released_;  // while stopping
  std::condition_variable write_queue_changed_;
  struct Counters {
    int64_t hits = 0, misses = 0, puts = 0, present = 0, corrupt = 0, corrupt_puts = 0, no_room = 0,
            evicted = 0, evicted_unwritten = 0, unqueued = 0, unwritten = 0, reads_refused = 0,
            backing_hits = 0, backing_corrupt = 0;
  } counters_;

  std::thread writer_;
  std::unique_ptr<WorkPool> readers_;  // of the disk
  std::unique_ptr<WorkPool> backing_readers_;
};

}  // namespace chorale
