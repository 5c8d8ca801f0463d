#include "cache/block_events.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace chorale {
namespace {

struct Halves {
  uint64_t low;
  uint64_t high;
};
static_assert(sizeof(Halves) == sizeof(BlockKey));

Halves HalvesOf(const BlockKey& key) {
  Halves halves;
  std::memcpy(&halves, key.bytes.data(), sizeof halves);
  return halves;
}

}  // namespace

void KeySum::Add(const BlockKey& key) {
  const auto [low, high] = HalvesOf(key);
  low_ += low;
  high_ += high + (low_ < low);
}

void KeySum::Subtract(const BlockKey& key) {
  const auto [low, high] = HalvesOf(key);
  high_ -= high + (low_ < low);
  low_ -= low;
}

std::string KeySum::ToBytes() const {
  std::string bytes(16, '\0');
  std::memcpy(bytes.data(), &low_, 8);
  std::memcpy(bytes.data() + 8, &high_, 8);
  return bytes;
}

absl::StatusOr<KeySum> KeySum::FromBytes(std::string_view bytes) {
  if (bytes.size() != 16) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the digest of a set of blocks has 16 bytes, this one has %d; are both "
                        "sides of the same version?",
                        bytes.size()));
  }
  KeySum sum;
  std::memcpy(&sum.low_, bytes.data(), 8);
  std::memcpy(&sum.high_, bytes.data() + 8, 8);
  return sum;
}

BlockEventLog::BlockEventLog(size_t events_max) : events_max_(events_max) {
  CHECK_GT(events_max, 0u);
}

void BlockEventLog::Append(const BlockEvent& event) {
  if (event.removed) {
    if (keys_.erase(event.key) == 0) return;
    digest_.Subtract(event.key);
  } else {
    if (!keys_.insert(event.key).second) return;
    digest_.Add(event.key);
  }
  ++sequence_;
  if (events_.size() == events_max_) events_.pop_front();
  events_.push_back({.key = event.key, .digest = digest_, .removed = event.removed});
}

std::optional<BlockEventBatch> BlockEventLog::Since(uint64_t sequence, size_t events_max) const {
  CHECK_GT(events_max, 0u);
  if (sequence > sequence_ || sequence_ - sequence > events_.size()) return std::nullopt;
  const size_t missing = sequence_ - sequence;
  const size_t count = std::min(missing, events_max);
  const auto begin = events_.end() - static_cast<std::ptrdiff_t>(missing);
  BlockEventBatch batch = {.first_sequence = sequence + 1, .last_sequence = sequence + count};
  batch.events.reserve(count);
  for (auto event = begin; event != begin + static_cast<std::ptrdiff_t>(count); ++event) {
    batch.events.push_back({.key = event->key, .removed = event->removed});
  }
  batch.digest = count == 0 ? digest_ : (begin + static_cast<std::ptrdiff_t>(count - 1))->digest;
  return batch;
}

std::vector<BlockEventBatch> BlockEventLog::Snapshot(size_t events_max) const {
  CHECK_GT(events_max, 0u);
  const BlockEventBatch empty = {.last_sequence = sequence_, .snapshot = true};
  std::vector<BlockEventBatch> parts = {empty};
  for (const BlockKey& key : keys_) {
    if (parts.back().events.size() == events_max) parts.push_back(empty);
    parts.back().events.push_back({.key = key});
  }
  parts.back().snapshot_done = true;
  parts.back().digest = digest_;
  return parts;
}

HolderView::HolderView(PrefixIndex* index, int holder) : index_(*index), holder_(holder) {
  index_.RemoveHolder(holder_);
}

HolderView::~HolderView() { index_.RemoveHolder(holder_); }

void HolderView::ApplyEvent(const BlockEvent& event) {
  // The sum follows what the index really holds, not what the publisher says about it.
  if (event.removed) {
    if (index_.Remove(holder_, event.key)) sum_.Subtract(event.key);
  } else {
    if (index_.Add(holder_, event.key)) sum_.Add(event.key);
  }
}

bool HolderView::Apply(const BlockEventBatch& batch) {
  if (batch.snapshot) {
    ApplySnapshotPart(batch);
  } else {
    sequence_heard_ = std::max(sequence_heard_, batch.last_sequence);
    // Only what overlaps or follows directly is applied. A batch whose numbers do not fit its
    // events is dropped too, and its sequence_heard_ stands until a snapshot.
    const bool sound = batch.first_sequence > 0 &&
                       batch.last_sequence >= batch.first_sequence - 1 &&
                       batch.last_sequence - (batch.first_sequence - 1) == batch.events.size();
    if (!sound) sequence_heard_ = UINT64_MAX;
    if (sound && !in_snapshot_ && batch.first_sequence <= sequence_ + 1 &&
        batch.last_sequence >= sequence_) {
      const size_t known = sequence_ - (batch.first_sequence - 1);
      for (size_t i = known; i < batch.events.size(); ++i) ApplyEvent(batch.events[i]);
      sequence_ = batch.last_sequence;
      agrees_ = batch.digest == sum_;
    }
  }
  if (agrees_) sequence_proven_ = sequence_;
  whole_ = agrees_ && sequence_heard_ <= sequence_;
  return whole_;
}

void HolderView::ApplySnapshotPart(const BlockEventBatch& batch) {
  if (!in_snapshot_ || batch.last_sequence != sequence_) {
    index_.RemoveHolder(holder_);
    sum_ = {};
    in_snapshot_ = true;
    sequence_ = batch.last_sequence;
    sequence_heard_ = 0;
    sequence_proven_ = 0;
    agrees_ = false;
  }
  for (const BlockEvent& event : batch.events) ApplyEvent(event);
  if (!batch.snapshot_done) return;
  in_snapshot_ = false;
  agrees_ = batch.digest == sum_;
}

}  // namespace chorale
