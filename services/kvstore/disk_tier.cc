#include "services/kvstore/disk_tier.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/status_macros.h"
#include "process/log.h"

namespace chorale {
namespace {

// How long no write is tried after one that failed.
constexpr absl::Duration kPauseMin = absl::Milliseconds(500);
constexpr absl::Duration kPauseMax = absl::Seconds(30);

constexpr uint32_t kListedMax = 4096;  // numbers looked at under one lock

}  // namespace

DiskTier::DiskTier(std::unique_ptr<DiskFile> file, const SlabOptions& slabs)
    : file_(std::move(file)), bytes_max_(slabs.bytes_max), table_(slabs), pause_(kPauseMin) {}

absl::StatusOr<std::unique_ptr<DiskTier>> DiskTier::Open(std::unique_ptr<DiskFile> file,
                                                         const SlabOptions& slabs,
                                                         uint32_t formats_known) {
  auto tier = std::unique_ptr<DiskTier>(new DiskTier(std::move(file), slabs));
  RETURN_IF_ERROR(tier->Restore(formats_known));
  return tier;
}

absl::Status DiskTier::Restore(uint32_t formats_known) {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(DiskFile::Entries entries, file_->ReadEntries());
  std::vector<uint32_t> unsound = std::move(entries.torn);
  for (const DiskFile::Entry& entry : entries.sound) {
    sequence_ = std::max(sequence_, entry.sequence);
    const bool known = entry.meta.format >= 1 && entry.meta.format <= formats_known;
    if (!known || !table_.Restore(entry.number, entry.key, entry.meta, entry.offset)) {
      unsound.push_back(entry.number);
    }
  }
  table_.EndRestore();
  used_at_.assign(table_.numbers_end(), absl::Now());
  counters_.restored = table_.blocks();
  counters_.torn = static_cast<int64_t>(unsound.size());
  for (const uint32_t number : unsound) RETURN_IF_ERROR(file_->ClearEntry(number));
  LogInfo("disk tier: found ", counters_.restored, " blocks, dropped ", counters_.torn,
          " unsound entries, ", file_->direct() ? "reads" : "cannot read", " past the page cache");
  return absl::OkStatus();
}

std::optional<BlockMeta> DiskTier::Find(const BlockKey& key) const {
  std::lock_guard lock(mutex_);
  const auto number = table_.Find(key);
  if (!number || table_.block(*number).state != BlockTable::State::kReady) return std::nullopt;
  return table_.block(*number).meta;
}

absl::Status DiskTier::Read(const BlockKey& key, const BlockMeta& meta, std::span<std::byte> into) {
  BlockTable::Number number = 0;
  int64_t offset = 0;
  {
    std::lock_guard lock(mutex_);
    ASSIGN_OR_RETURN(number, PinLocked(key, meta));
    table_.Touch(number, 1);
    used_at_[number] = absl::Now();
    offset = table_.block(number).offset;
  }
  RETURN_IF_ERROR(ReadPinned(number, key, meta, offset, into));
  std::lock_guard lock(mutex_);
  ++counters_.hits;
  return absl::OkStatus();
}

absl::Status DiskTier::Verify(const BlockKey& key, const BlockMeta& meta,
                              std::span<std::byte> into) {
  BlockTable::Number number = 0;
  int64_t offset = 0;
  {
    std::lock_guard lock(mutex_);
    ASSIGN_OR_RETURN(number, PinLocked(key, meta));
    offset = table_.block(number).offset;
  }
  return ReadPinned(number, key, meta, offset, into);
}

absl::StatusOr<BlockTable::Number> DiskTier::PinLocked(const BlockKey& key, const BlockMeta& meta) {
  const auto number = table_.Find(key);
  if (!number || table_.block(*number).state != BlockTable::State::kReady ||
      table_.block(*number).meta != meta) {
    return absl::NotFoundError("the block has gone from the disk tier");
  }
  table_.Pin(*number);
  return *number;
}

// Lets go of the pin, and of the block when it is bad.
absl::Status DiskTier::ReadPinned(BlockTable::Number number, const BlockKey& key,
                                  const BlockMeta& meta, int64_t offset,
                                  std::span<std::byte> into) {
  CHECK_EQ(static_cast<int64_t>(into.size()), DiskFile::RoundUp(meta.bytes));
  absl::Status status = file_->Read(offset, into);
  const bool unreadable = !status.ok();
  if (!unreadable && Checksum64(into.first(static_cast<size_t>(meta.bytes))) != meta.checksum) {
    status =
        absl::DataLossError(absl::StrFormat("block %s does not match its checksum", key.ToHex()));
  }
  if (!status.ok()) LogWarning("disk tier: dropped a block: ", status.message());
  std::lock_guard lock(mutex_);
  if (!status.ok()) {
    ++(unreadable ? counters_.read_errors : counters_.corrupt);
    DropHeld(number);
  }
  table_.Unpin(number);
  return status;
}

// Removes a block that the caller has pinned, and clears its entry before the pin can go. Under
// mutex_: the write is of 64 bytes into the page cache.
void DiskTier::DropHeld(BlockTable::Number number) {
  if (table_.block(number).state != BlockTable::State::kReady) return;  // by another reader
  table_.Remove(number);
  if (absl::Status status = file_->ClearEntry(number); !status.ok()) NoteWrite(status);
}

absl::Status DiskTier::Write(const BlockKey& key, const BlockMeta& meta,
                             std::span<const std::byte> bytes, std::vector<BlockKey>& gone) {
  CHECK_EQ(static_cast<int64_t>(bytes.size()), DiskFile::RoundUp(meta.bytes));
  std::lock_guard write_lock(write_mutex_);
  std::vector<BlockTable::Evicted> evicted;
  BlockTable::Number number = 0;
  {
    std::lock_guard lock(mutex_);
    if (table_.Find(key)) return absl::OkStatus();
    if (absl::Now() < retry_at_) {
      ++counters_.writes_skipped;
      return state_;
    }
    const auto reserved = table_.Reserve(key, meta, evicted);
    if (!reserved) {
      ++counters_.writes_skipped;
      return absl::ResourceExhaustedError(absl::StrFormat(
          "a block of %d bytes: larger than a slab, or all others are being read", meta.bytes));
    }
    number = *reserved;
    if (used_at_.size() < table_.numbers_end()) used_at_.resize(table_.numbers_end());
    used_at_[number] = absl::Now();
    counters_.evicted += static_cast<int64_t>(evicted.size());
  }
  for (const BlockTable::Evicted& block : evicted) gone.push_back(block.key);
  const absl::Status status = WriteReserved(number, bytes, evicted);
  std::lock_guard lock(mutex_);
  if (status.ok()) {
    table_.Commit(number);
    ++counters_.written;
  } else {
    table_.Remove(number);
  }
  NoteWrite(status);
  table_.Unpin(number);
  return status;
}

// In the order that keeps every entry true: clear, data, entry.
absl::Status DiskTier::WriteReserved(BlockTable::Number number, std::span<const std::byte> bytes,
                                     const std::vector<BlockTable::Evicted>& evicted) {
  DiskFile::Entry entry = {.number = number};
  {
    std::lock_guard lock(mutex_);
    const BlockTable::Block& block = table_.block(number);
    entry.key = block.key;
    entry.meta = block.meta;
    entry.offset = block.offset;
    entry.sequence = ++sequence_;
  }
  for (const BlockTable::Evicted& block : evicted) {
    RETURN_IF_ERROR(file_->ClearEntry(block.number));
  }
  RETURN_IF_ERROR(file_->Write(entry.offset, bytes));
  return file_->WriteEntry(entry);
}

// Follows whether writing works. Under mutex_.
void DiskTier::NoteWrite(const absl::Status& status) {
  if (status.ok()) {
    if (!state_.ok()) LogInfo("disk tier: writing works again");
    state_ = absl::OkStatus();
    pause_ = kPauseMin;
    return;
  }
  ++counters_.write_errors;
  if (state_.ok()) LogWarning("disk tier: degraded, blocks stay in memory: ", status.message());
  state_ = status;
  retry_at_ = absl::Now() + pause_;
  pause_ = std::min(2 * pause_, kPauseMax);
}

void DiskTier::Touch(const BlockKey& key, uint32_t uses) {
  std::lock_guard lock(mutex_);
  const auto number = table_.Find(key);
  if (!number) return;
  table_.Touch(*number, uses);
  if (uses > 0) used_at_[*number] = absl::Now();
}

int64_t DiskTier::Drop(const BlockKey& key) {
  std::lock_guard lock(mutex_);
  const auto number = table_.Find(key);
  if (!number || table_.block(*number).pins > 0) return 0;
  const int64_t bytes = table_.block(*number).meta.bytes;
  table_.Pin(*number);
  DropHeld(*number);
  table_.Unpin(*number);
  return bytes;
}

absl::Status DiskTier::Sync() { return file_->Sync(); }

std::vector<BlockListing> DiskTier::List(uint32_t& from, absl::Time now) const {
  std::lock_guard lock(mutex_);
  std::vector<BlockListing> listing;
  const uint32_t end = std::min(table_.numbers_end(), from + kListedMax);
  for (; from < end; ++from) {
    const BlockTable::Block& block = table_.block(from);
    if (block.state != BlockTable::State::kReady) continue;
    listing.push_back({.key = block.key,
                       .tier = "disk",
                       .bytes = block.meta.bytes,
                       .index = block.meta.index,
                       .holds = block.pins,
                       .age = now - used_at_[from]});
  }
  return listing;
}

TierStat DiskTier::Stat() const {
  std::lock_guard lock(mutex_);
  return {.tier = "disk",
          .blocks = table_.blocks(),
          .bytes = table_.bytes(),
          .bytes_max = bytes_max_,
          .holds = table_.pins(),
          .state = state_.ok() ? "ok" : absl::StrCat("not written to: ", state_.message()),
          .counters = {{"hits", counters_.hits},
                       {"written", counters_.written},
                       {"evicted", counters_.evicted},
                       {"corrupt", counters_.corrupt},
                       {"read_errors", counters_.read_errors},
                       {"write_errors", counters_.write_errors},
                       {"writes_skipped", counters_.writes_skipped},
                       {"restored", counters_.restored},
                       {"torn", counters_.torn}}};
}

}  // namespace chorale
