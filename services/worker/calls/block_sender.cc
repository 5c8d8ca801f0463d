#include "services/worker/calls/block_sender.h"

#include <algorithm>
#include <utility>

#include "base/hash.h"
#include "kernels/formats/kv_codec.h"
#include "rpc/limits.h"

namespace chorale {
namespace {

// Blocks on their way to a receiver: a multiple of what a frame names, and no more than a part of
// the half of the pool that may be lent, so that many may read at once.
constexpr int kBlocksAheadMax = 4 * kFramePiecesMax;
constexpr int kReadersAtOnce = 16;

}  // namespace

BlockSender::BlockSender(const Worker& worker, std::shared_ptr<EngineHost> host,
                         std::shared_ptr<BlockStream> stream, RequestId loan,
                         const std::string& region_mapped, std::function<void(Engine&)> on_returned)
    : shape_(worker.base().kv_shape()),
      host_(std::move(host)),
      stream_(std::move(stream)),
      loan_(loan),
      by_reference_(!worker.region().empty() && region_mapped == worker.region()),
      packs_(worker.base().kv_int8()),
      ahead_max_(std::clamp(host_->stats().blocks_total / 2 / kReadersAtOnce, 1, kBlocksAheadMax)),
      on_returned_(std::move(on_returned)),
      writer_([stream = stream_](grpc::ByteBuffer frame, int64_t bytes) {
        stream->Push(std::move(frame), bytes);
      }) {
  if (!by_reference_) writer_.header().set_shared_region(worker.region());
}

bool BlockSender::HasRoom() const {
  return stream_->bytes_pending() < kStreamBytesMax && lent_ < ahead_max_;
}

bool BlockSender::HasRoomForParts() const { return stream_->bytes_pending() < kStreamBytesMax / 2; }

bool BlockSender::AwaitsReceiver() const { return lent_ > 0 || stream_->bytes_pending() > 0; }

bool BlockSender::Send(Engine& engine, int place, int index, size_t sent) {
  const std::optional<Engine::BlockView> block = engine.ReadLent(loan_, place);
  if (!block) return false;
  ++lent_;
  const BlockEnd end = {.key = block->key, .checksum = block->checksum};
  if (by_reference_) {
    writer_.AddShared(index, end, block->offset, static_cast<int64_t>(block->bytes.size()));
    places_.push_back(place);
    return true;
  }
  if (packs_ && SendPacked(*block, place, index)) return true;
  // When gRPC has let go of the bytes, on a thread of its own, so does the loan.
  engine.PinBytes(block->offset);
  const auto let_go = [self = shared_from_this(), place, at = block->offset](const void*) {
    self->host_->Post([self, place, at](Engine& engine) {
      engine.UnpinBytes(at);
      self->Return(engine, place);
    });
  };
  BytesHold hold(block->bytes.data(), let_go);
  writer_.AddPiece(index, block->bytes.subspan(sent), end, std::move(hold));
  return true;
}

// False: the block's values were not rounded, or have changed, so it travels as it is.
bool BlockSender::SendPacked(const Engine::BlockView& block, int place, int index) {
  if (Checksum64(block.bytes) != block.checksum) return false;  // the receiver will find it too
  auto packed =
      std::make_shared<std::vector<std::byte>>(static_cast<size_t>(kernels::PackedBytes(shape_)));
  if (!kernels::PackBlock(shape_, block.bytes, *packed).ok()) return false;
  // Lent for as long as its copy is on its way: the lease is the receiver's, packed or not.
  const auto let_go = [packed, self = shared_from_this(), place](const void*) {
    self->host_->Post([self, place](Engine& engine) { self->Return(engine, place); });
  };
  writer_.Add(index, {.key = block.key, .checksum = Checksum64(*packed)}, *packed,
              BytesHold(packed->data(), let_go));
  return true;
}

void BlockSender::SendPart(int index, std::span<const std::byte> bytes) {
  writer_.AddPiece(index, bytes, std::nullopt);
}

void BlockSender::Return(Engine& engine, int place) {
  engine.ReturnLent(loan_, place);
  --lent_;
  on_returned_(engine);
}

void BlockSender::Acknowledged(Engine& engine, int blocks) {
  for (; taken_ < blocks && !places_.empty(); ++taken_) {
    engine.ReturnLent(loan_, places_.front());
    places_.pop_front();
    --lent_;
  }
}

}  // namespace chorale
