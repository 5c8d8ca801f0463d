#include "services/kvstore/pull_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "rpc/blocks/convert_blocks.h"
#include "rpc/limits.h"
#include "rpc/status.h"

namespace chorale {
namespace {

// Blocks of a call that are read before those in front of them are sent.
constexpr size_t kAheadMax = 8;
// Blocks that a receiver may have before it acknowledges: a multiple of what a frame names.
constexpr size_t kLentMax = 4 * kFramePiecesMax;
constexpr int64_t kLentBytesMax = 64 << 20;  // and one block

absl::Status OtherFormat(const std::string& ours, const std::string& theirs) {
  v1::KvFormat our_format;
  v1::KvFormat their_format;
  our_format.ParseFromString(ours);
  their_format.ParseFromString(theirs);
  return CheckFormat(our_format, their_format);
}

}  // namespace

PullCall::PullCall(BlockStore& store, WorkPool& pool, std::shared_ptr<BlockStream> stream,
                   Request request)
    : store_(store),
      pool_(pool),
      stream_(std::move(stream)),
      request_(std::move(request)),
      writer_([stream = stream_](grpc::ByteBuffer frame, int64_t bytes) {
        stream->Push(std::move(frame), bytes);
      }),
      progress_at_(absl::Now()) {
  if (!request_.by_reference) writer_.header().set_shared_region(request_.region);
}

void PullCall::Start() {
  auto self = shared_from_this();
  stream_->OnWritten([self] {
    {
      std::lock_guard lock(self->mutex_);
      self->progress_at_ = absl::Now();
    }
    self->PostPump();
  });
  stream_->OnCancelled([self] { self->End(absl::CancelledError("the receiver went away")); });
  PostPump();
}

void PullCall::Acknowledge(int blocks_taken) {
  {
    std::lock_guard lock(mutex_);
    progress_at_ = absl::Now();
    while (!lent_.empty() && taken_ < static_cast<size_t>(std::max(0, blocks_taken))) {
      lent_bytes_ -= lent_.front().meta().bytes;
      lent_.pop_front();
      ++taken_;
    }
  }
  PostPump();
}

bool PullCall::CheckLease(absl::Time now, absl::Duration lease) {
  {
    std::lock_guard lock(mutex_);
    if (ended_) return false;
    const bool waits = !lent_.empty() || stream_->bytes_pending() > 0;
    if (!waits || now - progress_at_ < lease) return true;
  }
  End(absl::DeadlineExceededError(
      absl::StrFormat("the receiver took no block for %s", absl::FormatDuration(lease))));
  return false;
}

// One pump at a time; what happens meanwhile makes it go round again.
void PullCall::PostPump() {
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    again_ = true;
    if (std::exchange(pumping_, true)) return;
  }
  if (pool_.Post([self = shared_from_this()] { self->Pump(); })) return;
  End(absl::ResourceExhaustedError("the store has too many calls; ask again later"));
}

void PullCall::Pump() {
  while (true) {
    {
      std::lock_guard lock(mutex_);
      if (ended_ || !std::exchange(again_, false)) {
        pumping_ = false;
        return;
      }
    }
    while (ReadOneAhead() || SendOne()) {
    }
    writer_.Flush();
    bool settled = false;
    {
      std::lock_guard lock(mutex_);
      // What waits to be written is under the lease until it is.
      settled = all_sent_ && lent_.empty() && stream_->bytes_pending() == 0;
    }
    if (settled) End(absl::OkStatus());
  }
}

// Asks for the next block, when there is room.
bool PullCall::ReadOneAhead() {
  size_t place = 0;
  {
    std::lock_guard lock(mutex_);
    place = sent_ + ahead_.size();
    if (ended_ || all_sent_ || place == request_.keys.size() || ahead_.size() == kAheadMax ||
        (ahead_.size() > 0 && ahead_.back().known && !ahead_.back().block)) {
      return false;
    }
    ahead_.emplace_back();
  }
  store_.Get(request_.keys[place],
             [self = shared_from_this(), place](std::optional<BlockStore::Handle> block) {
               {
                 std::lock_guard lock(self->mutex_);
                 if (self->ended_) return;
                 Ahead& ahead = self->ahead_[place - self->sent_];
                 ahead.known = true;
                 ahead.block = std::move(block);
               }
               self->PostPump();
             });
  return true;
}

// Sends the next block, when it has been read and there is room.
bool PullCall::SendOne() {
  std::optional<BlockStore::Handle> block;
  {
    std::lock_guard lock(mutex_);
    if (ended_ || all_sent_) return false;
    if (sent_ == request_.keys.size()) {
      all_sent_ = true;
      return false;
    }
    if (ahead_.empty() || !ahead_.front().known || stream_->bytes_pending() >= kStreamBytesMax ||
        lent_.size() >= kLentMax || lent_bytes_ >= kLentBytesMax) {
      return false;
    }
    if (!ahead_.front().block) {
      all_sent_ = true;
      return false;
    }
    if (sent_ == 0) progress_at_ = absl::Now();
    block = std::move(ahead_.front().block);
  }
  if (absl::Status status = Send(*std::move(block)); !status.ok()) {
    End(status);
    return false;
  }
  std::lock_guard lock(mutex_);
  if (ended_) return false;  // meanwhile: there is nothing ahead any more
  ahead_.pop_front();
  ++sent_;
  return true;
}

absl::Status PullCall::Send(BlockStore::Handle block) {
  if (block.meta().format != request_.format) {
    // The format may have become known since the call began.
    const std::string ours = store_.formats().Format(block.meta().format);
    if (ours != request_.format_text) return OtherFormat(ours, request_.format_text);
  }
  const int index = static_cast<int>(sent_);
  const BlockEnd end = {.key = request_.keys[sent_], .checksum = block.meta().checksum};
  if (request_.by_reference) {
    writer_.AddShared(index, end, block.offset(), block.meta().bytes);
    std::lock_guard lock(mutex_);
    if (ended_) return absl::OkStatus();
    lent_bytes_ += block.meta().bytes;
    lent_.push_back(std::move(block));
    return absl::OkStatus();
  }
  auto held = std::make_shared<BlockStore::Handle>(std::move(block));
  const std::span<const std::byte> bytes = held->bytes();
  writer_.Add(index, end, bytes, std::move(held));
  return absl::OkStatus();
}

void PullCall::End(const absl::Status& status) {
  std::deque<BlockStore::Handle> lent;
  std::deque<Ahead> ahead;
  std::vector<BlockKey> chain;
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(ended_, true)) return;
    lent.swap(lent_);
    ahead.swap(ahead_);
    chain.assign(request_.keys.begin(), request_.keys.begin() + static_cast<ptrdiff_t>(sent_));
  }
  store_.Freshen(chain);
  if (status.ok()) {
    stream_->End(ToGrpc(status));
  } else {
    stream_->Abort(ToGrpc(status));
  }
}

}  // namespace chorale
