#include "services/kvstore/block_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/status_macros.h"
#include "process/log.h"

namespace chorale {
namespace {

// Reads that may wait for a thread; more are misses, since computing is quicker by then.
constexpr size_t kReadsMax = 4096;
constexpr int kBackingReaders = 2;

}  // namespace

BlockStore::Handle::Handle(BlockStore* store, Number number)
    : store_(store),
      number_(number),
      key_(store->dram_.block(number).key),
      meta_(store->dram_.block(number).meta),
      offset_(store->dram_.block(number).offset),
      bytes_(store->Slot(offset_, meta_.bytes)) {}

BlockStore::Handle::Handle(Handle&& other) noexcept
    : store_(std::exchange(other.store_, nullptr)),
      number_(other.number_),
      key_(other.key_),
      meta_(other.meta_),
      offset_(other.offset_),
      bytes_(other.bytes_) {}

BlockStore::Handle& BlockStore::Handle::operator=(Handle&& other) noexcept {
  std::swap(store_, other.store_);
  std::swap(number_, other.number_);
  std::swap(key_, other.key_);
  std::swap(meta_, other.meta_);
  std::swap(offset_, other.offset_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

BlockStore::Handle::~Handle() {
  if (store_ != nullptr) store_->Release(number_);
}

absl::StatusOr<std::unique_ptr<BlockStore>> BlockStore::Create(const BlockStoreOptions& options,
                                                               BackingTier backing) {
  if (options.dram_bytes < 2 * options.slab_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--dram-mib %d: expected at least %d, two slabs of the largest block",
                        options.dram_bytes >> 20, 2 * options.slab_bytes >> 20));
  }
  auto store = std::unique_ptr<BlockStore>(new BlockStore(options, std::move(backing)));
  ASSIGN_OR_RETURN(store->region_, SharedRegion::Create(options.dram_bytes));
  std::string formats_path;
  if (!options.dir.empty()) {
    const DiskFileOptions disk = {
        .dir = options.dir,
        .slabs = {.bytes_max = options.disk_bytes, .slab_bytes = options.slab_bytes}};
    ASSIGN_OR_RETURN(auto file, DiskFile::Open(disk));  // locks the folder before it is read
    ASSIGN_OR_RETURN(store->formats_, FormatTable::Open(options.dir + "/formats"));
    ASSIGN_OR_RETURN(store->disk_,
                     DiskTier::Open(std::move(file), disk.slabs, store->formats_->count()));
    store->List("disk", [&](const BlockListing& block) {
      if (options.record_events) store->events_.push_back({.key = block.key});
      return options.record_events;
    });
    store->readers_ = std::make_unique<WorkPool>(options.disk_readers, kReadsMax);
    store->writer_ = std::thread([store = store.get()] { store->RunWriter(); });
  } else {
    ASSIGN_OR_RETURN(store->formats_, FormatTable::Open(""));
  }
  if (store->backing_.get) {
    store->backing_readers_ = std::make_unique<WorkPool>(kBackingReaders, kReadsMax);
  }
  return store;
}

BlockStore::BlockStore(const BlockStoreOptions& options, BackingTier backing)
    : options_(options),
      backing_(std::move(backing)),
      dram_({.bytes_max = options.dram_bytes, .slab_bytes = options.slab_bytes}) {}

BlockStore::~BlockStore() {
  if (backing_readers_) backing_readers_->Stop();
  if (readers_) readers_->Stop();
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    CHECK(waiters_.empty());
  }
  write_queue_changed_.notify_all();
  if (writer_.joinable()) writer_.join();
  std::unique_lock lock(mutex_);
  released_.wait(lock, [this] { return dram_.pins() == 0; });
}

BlockStore::PutResult BlockStore::Put(const BlockKey& key, const BlockMeta& meta,
                                      std::span<const std::byte> bytes) {
  std::optional<Handle> handle;
  const PutResult result = PutLocal(key, meta, bytes, handle);
  if (handle && backing_.put) {
    backing_.put(key, meta, formats_->IdOf(meta.format), handle->bytes());
  }
  return result;
}

BlockStore::PutResult BlockStore::PutLocal(const BlockKey& key, const BlockMeta& meta,
                                           std::span<const std::byte> bytes,
                                           std::optional<Handle>& handle) {
  CHECK(meta.bytes == static_cast<int64_t>(bytes.size()) && meta.format >= 1);
  if (bytes.empty() || meta.bytes > options_.slab_bytes) return PutResult::kNoRoom;
  Number number = 0;
  std::span<std::byte> slot;
  {
    std::lock_guard lock(mutex_);
    ++counters_.puts;
    if (dram_.Find(key) || (disk_ && disk_->Find(key))) {
      ++counters_.present;
      return PutResult::kPresent;
    }
    const auto reserved = ReserveLocked(key, meta);
    if (!reserved) return PutResult::kNoRoom;
    number = *reserved;
    slot = Slot(dram_.block(number).offset, DiskFile::RoundUp(meta.bytes));
  }
  std::memcpy(slot.data(), bytes.data(), bytes.size());
  // What is behind it goes to disk too, and is not another block's.
  std::fill(slot.begin() + meta.bytes, slot.end(), std::byte{0});
  // The copy is compared, so that what is stored is what was checked.
  const bool good = Checksum64(slot.first(bytes.size())) == meta.checksum;
  handle = EndFilling(number, good);
  if (!handle) {
    std::lock_guard lock(mutex_);
    ++counters_.corrupt_puts;
    return PutResult::kCorrupt;
  }
  return PutResult::kTaken;
}

void BlockStore::Get(const BlockKey& key, GetFn done) {
  std::optional<Handle> handle;
  {
    std::lock_guard lock(mutex_);
    if (const auto number = dram_.Find(key)) {
      if (dram_.block(*number).state == BlockTable::State::kFilling) {
        waiters_[*number].push_back(std::move(done));
        return;
      }
      dram_.Touch(*number, 1);
      used_at_[*number] = absl::Now();
      ++counters_.hits;
      EnqueueWriteLocked(*number);  // it may have been put when the writer was behind
      handle.emplace(PinLocked(*number));
    }
  }
  if (handle && Matches(*handle)) {
    done(std::move(handle));
    return;
  }
  handle.reset();
  GetBelow(key, std::move(done));
}

// Whether the bytes are those that were put; counted, and dropped when they are not.
bool BlockStore::Matches(const Handle& handle) {
  const bool good = Checksum64(handle.bytes_) == handle.meta_.checksum;
  if (good) return true;
  LogWarning("dram tier: dropped block ", handle.key_.ToHex(),
             ", which does not match its checksum");
  std::lock_guard lock(mutex_);
  ++counters_.corrupt;
  if (dram_.block(handle.number_).state == BlockTable::State::kReady) {
    dram_.Remove(handle.number_);
    NotePresenceLocked(handle.key_);
  }
  return false;
}

// The tiers below memory, from the top.
void BlockStore::GetBelow(const BlockKey& key, GetFn done) {
  const std::optional<BlockMeta> meta = disk_ ? disk_->Find(key) : std::nullopt;
  if (!meta) {
    if (!backing_readers_ ||
        !backing_readers_->Post([this, key, done] { GetFromBacking(key, done); })) {
      Miss(done);
    }
    return;
  }
  std::optional<Number> number;
  bool is_here = false;
  {
    std::lock_guard lock(mutex_);
    is_here = dram_.Find(key).has_value();
    if (!is_here) number = ReserveLocked(key, *meta);
  }
  if (is_here) {  // by now
    Get(key, std::move(done));
    return;
  }
  if (!number) {
    Miss(done);
    return;
  }
  if (readers_->Post([this, key, meta = *meta, number = *number, done] {
        FillFromDisk(key, meta, number, done);
      })) {
    return;
  }
  {
    std::lock_guard lock(mutex_);
    ++counters_.reads_refused;
  }
  EndFilling(*number, false);
  Miss(done);
}

void BlockStore::FillFromDisk(const BlockKey& key, const BlockMeta& meta, Number number,
                              GetFn done) {
  int64_t offset = 0;
  {
    std::lock_guard lock(mutex_);
    offset = dram_.block(number).offset;
  }
  const absl::Status status = disk_->Read(key, meta, Slot(offset, DiskFile::RoundUp(meta.bytes)));
  std::optional<Handle> handle = EndFilling(number, status.ok());
  if (handle) {
    done(std::move(handle));
  } else {
    GetBelow(key, std::move(done));  // the disk has it no more
  }
}

void BlockStore::GetFromBacking(const BlockKey& key, GetFn done) {
  std::optional<BackingTier::Found> found = backing_.get(key);
  if (!found) {
    Miss(done);
    return;
  }
  // Whoever asks has named the format of what it wants: it is known here.
  const std::optional<uint32_t> format = formats_->NumberOfId(found->format_id);
  if (!format) {
    Miss(done);
    return;
  }
  found->meta.format = *format;
  found->meta.bytes = static_cast<int64_t>(found->bytes.size());
  std::optional<Handle> handle;
  const PutResult result = PutLocal(key, found->meta, found->bytes, handle);
  if (result == PutResult::kPresent) {
    Get(key, std::move(done));
    return;
  }
  {
    std::lock_guard lock(mutex_);
    if (handle) ++counters_.backing_hits;
    if (result == PutResult::kCorrupt) ++counters_.backing_corrupt;
  }
  if (handle) {
    done(std::move(handle));
  } else {
    Miss(done);
  }
}

void BlockStore::Miss(const GetFn& done) {
  {
    std::lock_guard lock(mutex_);
    ++counters_.misses;
  }
  done(std::nullopt);
}

// A filling block becomes ready, or is dropped, and those who waited for it are told. The caller's
// pin becomes the handle.
std::optional<BlockStore::Handle> BlockStore::EndFilling(Number number, bool good) {
  std::vector<GetFn> waiters;
  std::vector<Handle> handles;
  std::optional<Handle> own;
  BlockKey key;
  {
    std::lock_guard lock(mutex_);
    key = dram_.block(number).key;
    if (const auto it = waiters_.find(number); it != waiters_.end()) {
      waiters = std::move(it->second);
      waiters_.erase(it);
    }
    if (good) {
      dram_.Commit(number);
      EnqueueWriteLocked(number);
      for (size_t i = 0; i < waiters.size(); ++i) handles.push_back(PinLocked(number));
      counters_.hits += static_cast<int64_t>(waiters.size());
      own.emplace(Handle(this, number));
    } else {
      dram_.Remove(number);
      dram_.Unpin(number);
    }
    NotePresenceLocked(key);
  }
  for (size_t i = 0; i < waiters.size(); ++i) {
    if (good) {
      waiters[i](std::move(handles[i]));
    } else {
      Get(key, std::move(waiters[i]));
    }
  }
  return own;
}

std::optional<BlockStore::Number> BlockStore::ReserveLocked(const BlockKey& key,
                                                            const BlockMeta& meta) {
  std::vector<BlockTable::Evicted> evicted;
  const auto number = dram_.Reserve(key, meta, evicted);
  for (const BlockTable::Evicted& block : evicted) {
    if (!disk_ || !disk_->Find(block.key)) ++counters_.evicted_unwritten;
    NotePresenceLocked(block.key);
  }
  counters_.evicted += static_cast<int64_t>(evicted.size());
  if (!number) {
    ++counters_.no_room;
    return std::nullopt;
  }
  if (used_at_.size() < dram_.numbers_end()) used_at_.resize(dram_.numbers_end());
  used_at_[*number] = absl::Now();
  return number;
}

void BlockStore::NotePresenceLocked(const BlockKey& key) {
  if (!options_.record_events) return;
  events_.push_back({.key = key, .removed = !PresentLocked(key)});
  if (events_.size() == 1) events_changed_.notify_all();
}

bool BlockStore::PresentLocked(const BlockKey& key) const {
  const auto number = dram_.Find(key);
  if (number && dram_.block(*number).state == BlockTable::State::kReady) return true;
  return disk_ && disk_->Find(key);
}

BlockStore::Handle BlockStore::PinLocked(Number number) {
  dram_.Pin(number);
  return Handle(this, number);
}

std::span<std::byte> BlockStore::Slot(int64_t offset, int64_t bytes) const {
  return region_->bytes().subspan(static_cast<size_t>(offset), static_cast<size_t>(bytes));
}

void BlockStore::Release(Number number) {
  std::lock_guard lock(mutex_);
  dram_.Unpin(number);
  if (stopping_) released_.notify_all();
}

void BlockStore::EnqueueWriteLocked(Number number) {
  const BlockTable::Block& block = dram_.block(number);
  if (!disk_ || stopping_ || block.marked || disk_->Find(block.key)) return;
  if (write_queue_bytes_ + block.meta.bytes > options_.write_behind_bytes) {
    ++counters_.unqueued;
    return;
  }
  dram_.SetMarked(number, true);
  write_queue_bytes_ += block.meta.bytes;
  write_queue_.push_back({block.key, block.meta.bytes});
  write_queue_changed_.notify_all();
}

void BlockStore::RunWriter() {
  std::unique_lock lock(mutex_);
  while (true) {
    write_queue_changed_.wait(lock, [this] { return stopping_ || !write_queue_.empty(); });
    if (stopping_) return;
    const Waiting waiting = write_queue_.front();
    write_queue_.pop_front();
    lock.unlock();
    WriteBehind(waiting.key);
    lock.lock();
    write_queue_bytes_ -= waiting.bytes;
    if (write_queue_bytes_ == 0) write_queue_changed_.notify_all();
  }
}

void BlockStore::WriteBehind(const BlockKey& key) {
  std::optional<Handle> handle;
  {
    std::lock_guard lock(mutex_);
    const auto number = dram_.Find(key);
    if (!number || dram_.block(*number).state != BlockTable::State::kReady) return;  // evicted
    dram_.SetMarked(*number, false);
    handle.emplace(PinLocked(*number));
  }
  if (!Matches(*handle)) return;
  std::vector<BlockKey> gone;
  const absl::Status status = disk_->Write(
      key, handle->meta_, Slot(handle->offset_, DiskFile::RoundUp(handle->meta_.bytes)), gone);
  std::lock_guard lock(mutex_);
  if (!status.ok()) ++counters_.unwritten;
  for (const BlockKey& other : gone) NotePresenceLocked(other);
  NotePresenceLocked(key);
}

}  // namespace chorale
