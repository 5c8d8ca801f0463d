#include "services/common/block_feed.h"

#include <memory>
#include <random>

#include "rpc/blocks/convert_blocks.h"

namespace chorale {
namespace {

constexpr size_t kEventsKept = 1 << 16;
constexpr size_t kEventsOfMessage = 1 << 13;
// Of one watcher; beyond it, it is cut off.
constexpr int64_t kWaitingBytesMax = 64 << 20;

grpc::Status Closing() {
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the process is shutting down");
}

}  // namespace

BlockFeed::BlockFeed() : id_(std::random_device{}() | 1ull << 32), log_(kEventsKept) {}

void BlockFeed::Append(std::span<const BlockEvent> events) {
  if (events.empty()) return;
  std::vector<std::shared_ptr<Stream>> too_slow;
  {
    std::lock_guard lock(mutex_);  // held while sending: every watcher gets the batches in order
    uint64_t told = log_.sequence();
    const auto tell = [&] {
      const BlockEventBatch batch = *log_.Since(told, kEventsOfMessage);
      told = log_.sequence();
      for (const Watcher& watcher : watchers_) Send(*watcher.stream, batch);
    };
    for (const BlockEvent& event : events) {
      log_.Append(event);
      if (log_.sequence() - told == kEventsOfMessage) tell();
    }
    if (log_.sequence() != told) tell();
    std::erase_if(watchers_, [&](Watcher& watcher) {
      const int64_t pending = watcher.stream->bytes_pending();
      if (pending <= kWaitingBytesMax) watcher.bytes_max = kWaitingBytesMax;
      if (pending <= watcher.bytes_max) return false;
      too_slow.push_back(watcher.stream);
      return true;
    });
  }
  for (const auto& stream : too_slow) {
    stream->Abort(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "events are not read"));
  }
}

grpc::ServerWriteReactor<v1::BlockEvents>* BlockFeed::Watch(grpc::CallbackServerContext* context,
                                                            const v1::WatchBlocksRequest& request) {
  std::shared_ptr<Stream> stream = Stream::Create();
  stream->SetContext(context);
  {
    std::lock_guard lock(mutex_);
    if (closed_) {
      stream->End(Closing());
      return stream.get();
    }
    std::optional<BlockEventBatch> since;
    if (request.feed() == id_) since = log_.Since(request.after_sequence(), kEventsKept);
    if (since) {
      Send(*stream, *since);
    } else {
      for (const BlockEventBatch& part : log_.Snapshot(kEventsOfMessage)) Send(*stream, part);
    }
    watchers_.push_back({stream, stream->bytes_pending() + kWaitingBytesMax});
  }
  stream->OnCancelled([this, weak = std::weak_ptr(stream)] {
    if (const auto stream = weak.lock()) Drop(stream);
  });
  return stream.get();
}

void BlockFeed::Send(Stream& stream, const BlockEventBatch& batch) const {
  v1::BlockEvents events = ToProto(batch);
  events.set_feed(id_);
  const int64_t bytes = static_cast<int64_t>(events.ByteSizeLong());
  stream.Push(std::move(events), bytes);
}

void BlockFeed::Drop(const std::shared_ptr<Stream>& stream) {
  {
    std::lock_guard lock(mutex_);
    std::erase_if(watchers_, [&](const Watcher& watcher) { return watcher.stream == stream; });
  }
  stream->End(grpc::Status(grpc::StatusCode::CANCELLED, "the watcher went away"));
}

void BlockFeed::Close() {
  std::vector<Watcher> watchers;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    watchers.swap(watchers_);
  }
  for (const Watcher& watcher : watchers) watcher.stream->End(Closing());
}

void BlockFeed::Describe(v1::StatBlocksReply& reply) const {
  std::lock_guard lock(mutex_);
  reply.set_sequence(log_.sequence());
  reply.set_digest(log_.digest().ToBytes());
}

int BlockFeed::watchers() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(watchers_.size());
}

}  // namespace chorale
