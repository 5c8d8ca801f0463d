// Which blocks a worker or a store has, told to listeners so that they can prove they know it all.
//
//   BlockEventLog (at the worker)  -- BlockEventBatch, over any wire -->  HolderView (at a
//   listener)
//
// Events are numbered from 1. With each batch comes the sum of the keys that are there after its
// last event. A view applies what follows without a gap on what it has, drops the rest, and is
// whole when it has heard of nothing newer and its own sum, over what its index really holds, is
// the publisher's. So lost, doubled, late and mangled batches cost wholeness, never truth: a whole
// view equals the publisher's set as of its sequence(). What heals it is the missing batch or a new
// snapshot. The sum guards against accidents, not against a publisher that lies.
// Neither class is thread safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "cache/block_key.h"
#include "cache/prefix_index.h"

namespace chorale {

// A block became findable, or stopped being so.
struct BlockEvent {
  BlockKey key;
  bool removed = false;
  int index = 0;  // of the block in its chain; not sent
};

// The sum of a set's keys as 128-bit numbers, little-endian, modulo 2^128.
class KeySum {
 public:
  void Add(const BlockKey& key);
  void Subtract(const BlockKey& key);
  bool operator==(const KeySum&) const = default;

  // 16 bytes, as on the wire.
  std::string ToBytes() const;
  static absl::StatusOr<KeySum> FromBytes(std::string_view bytes);

 private:
  uint64_t low_ = 0;
  uint64_t high_ = 0;
};

// As BlockEvents of proto/chorale/v1/blocks.proto.
struct BlockEventBatch {
  uint64_t first_sequence = 0;  // of `events`; 0 in a snapshot
  uint64_t last_sequence = 0;   // that it brings the listener to; first - 1 when `events` is empty
  bool snapshot = false;        // `events` are all that is there, in parts
  bool snapshot_done = false;
  std::vector<BlockEvent> events;
  std::optional<KeySum> digest;  // unset while a snapshot is not done
};

// The publisher's side: the set of keys, and the last events that led to it.
class BlockEventLog {
 public:
  // Remembers the last `events_max` events (at least 1), 40 bytes each.
  explicit BlockEventLog(size_t events_max);

  // An event that changes nothing, as the second tier that takes a block, gets no number.
  void Append(const BlockEvent& event);

  // The events after `sequence`, at most `events_max` (at least 1) of the first; empty when there
  // are none. Nothing: they are forgotten, or were never here; send a snapshot.
  std::optional<BlockEventBatch> Since(uint64_t sequence, size_t events_max) const;
  // Everything that is here now, in parts of at most `events_max` events, at least one part.
  std::vector<BlockEventBatch> Snapshot(size_t events_max) const;

  uint64_t sequence() const { return sequence_; }  // of the last event; 0 before the first
  const KeySum& digest() const { return digest_; }
  size_t keys() const { return keys_.size(); }

 private:
  struct Entry {
    BlockKey key;
    KeySum digest;  // after it
    bool removed;
  };
  size_t events_max_;
  uint64_t sequence_ = 0;
  KeySum digest_;
  std::deque<Entry> events_;  // the last of all, ending with number sequence_
  absl::flat_hash_set<BlockKey> keys_;
};

// A listener's view of one publisher, kept in `index` as what `holder` has. The index outlives the
// view; nobody else adds or removes for this holder.
class HolderView {
 public:
  HolderView(PrefixIndex* index, int holder);
  // Takes the holder's blocks out of the index.
  ~HolderView();
  HolderView(const HolderView&) = delete;
  HolderView& operator=(const HolderView&) = delete;

  // Takes in a batch as it came from outside. Returns whole().
  bool Apply(const BlockEventBatch& batch);

  // Whether the index holds for `holder` exactly what the publisher had at sequence(), and nothing
  // newer was heard of.
  bool whole() const { return whole_; }
  // The last event that was applied.
  uint64_t sequence() const { return sequence_; }
  // 0 when whole; else the first event of which the view cannot be sure.
  uint64_t unsure_since() const { return whole_ ? 0 : sequence_proven_ + 1; }

 private:
  void ApplySnapshotPart(const BlockEventBatch& batch);
  void ApplyEvent(const BlockEvent& event);

  PrefixIndex& index_;
  const int holder_;
  KeySum sum_;
  bool in_snapshot_ = false;
  bool agrees_ = false;  // the sums were equal at sequence_
  bool whole_ = false;
  uint64_t sequence_ = 0;
  uint64_t sequence_heard_ = 0;   // the newest that any batch spoke of since the last snapshot
  uint64_t sequence_proven_ = 0;  // the last at which the sums were equal
};

}  // namespace chorale
