#include "services/worker/store_publisher.h"

#include <algorithm>
#include <map>
#include <utility>

#include <grpcpp/client_context.h>

#include "absl/time/clock.h"
#include "base/hash.h"
#include "kernels/formats/kv_codec.h"
#include "process/log.h"
#include "rpc/deadline.h"
#include "rpc/limits.h"

namespace chorale {
namespace {

constexpr size_t kQueueMax = 1 << 16;
// Copied from the engine at once: between two of its steps.
constexpr int64_t kBytesAtOnce = 4 << 20;
constexpr size_t kBlocksAtOnce = 256;
constexpr absl::Duration kPushTimeout = absl::Seconds(5);
constexpr absl::Duration kLookupTimeout = absl::Seconds(1);

}  // namespace

struct StorePublisher::Copied {
  Offered offered;
  uint64_t checksum = 0;
  std::vector<std::byte> bytes;
};

StorePublisher::StorePublisher(Worker& worker, StoreClient& stores, Channels& channels)
    : worker_(worker), stores_(stores), channels_(channels), thread_([this] { Run(); }) {}

StorePublisher::~StorePublisher() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void StorePublisher::Offer(std::span<const BlockEvent> events) {
  {
    std::lock_guard lock(mutex_);
    for (const BlockEvent& event : events) {
      if (event.removed) continue;
      if (queue_.size() < kQueueMax) {
        queue_.push_back({event.key, event.index});
      } else {
        ++stats_.blocks_dropped;
      }
    }
  }
  wake_.notify_one();
}

void StorePublisher::Run() {
  const int64_t blocks_max = static_cast<int64_t>(kBlocksAtOnce);
  while (true) {
    std::vector<Offered> offered;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      // The first offer comes from a loaded worker.
      const int64_t fit = kBytesAtOnce / worker_.base().kv_shape().block_bytes();
      const size_t count =
          std::min(queue_.size(), static_cast<size_t>(std::clamp<int64_t>(fit, 1, blocks_max)));
      offered.assign(queue_.begin(), queue_.begin() + static_cast<ptrdiff_t>(count));
      queue_.erase(queue_.begin(), queue_.begin() + static_cast<ptrdiff_t>(count));
    }
    Publish(offered);
  }
}

void StorePublisher::Publish(const std::vector<Offered>& offered) {
  const std::vector<Copied> copied = CopyOut(offered);
  std::map<std::string, std::vector<const Copied*>> by_node;
  for (const Copied& block : copied) {
    for (const std::string& node : stores_.NodesOf(block.offered.key)) {
      by_node[node].push_back(&block);
    }
  }
  for (const auto& [node, blocks] : by_node) PushTo(node, blocks);
  std::lock_guard lock(mutex_);
  stats_.blocks_dropped += static_cast<int64_t>(offered.size() - copied.size());
}

// Those that are still here.
std::vector<StorePublisher::Copied> StorePublisher::CopyOut(const std::vector<Offered>& offered) {
  std::vector<Copied> copied;
  worker_.host()->Do([&](Engine& engine) {
    for (const Offered& block : offered) {
      const std::optional<Engine::BlockView> view = engine.FindBlock(block.key);
      if (!view) continue;
      copied.push_back({.offered = block,
                        .checksum = view->checksum,
                        .bytes = {view->bytes.begin(), view->bytes.end()}});
    }
  });
  if (!worker_.base().kv_int8()) return copied;
  const kernels::KvShape shape = worker_.base().kv_shape();
  for (Copied& block : copied) {
    std::vector<std::byte> packed(static_cast<size_t>(kernels::PackedBytes(shape)));
    // One that has changed keeps its checksum, and the store refuses it.
    if (Checksum64(block.bytes) != block.checksum) continue;
    if (!kernels::PackBlock(shape, block.bytes, packed).ok()) continue;  // it was not rounded
    block.checksum = Checksum64(packed);
    block.bytes = std::move(packed);
  }
  return copied;
}

void StorePublisher::PushTo(const std::string& node, const std::vector<const Copied*>& blocks) {
  const std::unique_ptr<v1::Blocks::Stub> stub = v1::Blocks::NewStub(channels_.Get(node));
  // What it has already need not travel.
  v1::LookupRequest lookup;
  for (const Copied* block : blocks) lookup.add_keys(std::string(block->offered.key.AsBytes()));
  v1::LookupReply present;
  grpc::ClientContext lookup_context;
  SetDeadline(lookup_context, absl::Now() + kLookupTimeout);
  grpc::Status status = stub->Lookup(&lookup_context, lookup, &present);
  const size_t skip = std::min<size_t>(blocks.size(), std::max(0, present.blocks()));
  v1::PushReply reply;
  if (status.ok() && skip < blocks.size()) {
    grpc::ClientContext context;
    SetDeadline(context, absl::Now() + kPushTimeout);
    const auto writer = stub->Push(&context, &reply);
    v1::KvFrame frame;
    *frame.mutable_format() = worker_.format();
    bool open = true;
    const auto write = [&] {
      open = open && writer->Write(frame);
      frame.Clear();
    };
    for (size_t i = skip; i < blocks.size() && open; ++i) {
      const Copied& block = *blocks[i];
      for (size_t begin = 0; begin < block.bytes.size();) {
        const size_t room = static_cast<size_t>(kFrameBytesMax) - frame.payload().size();
        const size_t count = std::min(room, block.bytes.size() - begin);
        v1::KvPiece* piece = frame.add_pieces();
        piece->set_index(block.offered.index);
        piece->set_bytes(static_cast<int64_t>(count));
        frame.mutable_payload()->append(reinterpret_cast<const char*>(block.bytes.data()) + begin,
                                        count);
        begin += count;
        if (begin == block.bytes.size()) {
          piece->set_key(std::string(block.offered.key.AsBytes()));
          piece->set_checksum(block.checksum);
        }
        if (static_cast<int64_t>(frame.payload().size()) == kFrameBytesMax) write();
      }
    }
    if (frame.pieces_size() > 0) write();
    writer->WritesDone();
    status = writer->Finish();
  }
  if (!status.ok()) {
    LogWarning("store ", node, ": ", status.error_message());
    stores_.NoteFailure(node);
  }
  std::lock_guard lock(mutex_);
  const int64_t taken = reply.blocks_taken();
  const int64_t had = static_cast<int64_t>(skip) + reply.blocks_present();
  stats_.blocks_pushed += taken;
  stats_.blocks_present += had;
  stats_.blocks_dropped += static_cast<int64_t>(blocks.size()) - taken - had;
}

StorePublisher::Stats StorePublisher::stats() const {
  std::lock_guard lock(mutex_);
  Stats stats = stats_;
  stats.queued = static_cast<int64_t>(queue_.size());
  return stats;
}

}  // namespace chorale
