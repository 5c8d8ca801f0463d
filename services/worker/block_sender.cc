#include "services/worker/block_sender.h"

#include <algorithm>
#include <utility>

#include "base/hash.h"
#include "kernels/kv_codec.h"
#include "rpc/limits.h"
#include "rpc/raw_message.h"
#include "rpc/status.h"

namespace chorale {
namespace {

// Blocks that a receiver may have before it acknowledges: a multiple of what a frame names.
constexpr int kBlocksAheadMax = 4 * kFramePiecesMax;

}  // namespace

void ServeBlockCall(std::shared_ptr<BlockStream> stream,
                    std::function<absl::StatusOr<AcknowledgeFn>(
                        const std::shared_ptr<BlockStream>& stream, const grpc::ByteBuffer& first)>
                        begin) {
  struct State {
    bool begun = false;
    AcknowledgeFn acknowledge;  // null: the call was refused
  };
  auto state = std::make_shared<State>();
  const std::weak_ptr<BlockStream> weak = stream;
  const auto on_message = [state, weak, begin = std::move(begin)](const grpc::ByteBuffer& bytes) {
    const std::shared_ptr<BlockStream> stream = weak.lock();
    if (stream == nullptr) return;
    if (!std::exchange(state->begun, true)) {
      absl::StatusOr<AcknowledgeFn> started = begin(stream, bytes);
      if (started.ok()) {
        state->acknowledge = *std::move(started);
      } else {
        stream->End(ToGrpc(started.status()));
      }
    } else if (state->acknowledge) {
      // The same field in all messages that acknowledge.
      const absl::StatusOr<v1::PullMessage> message = ParseMessage<v1::PullMessage>(bytes);
      if (message.ok()) state->acknowledge(message->blocks_taken());
    }
  };
  stream->OnMessage(on_message, [state, weak] {
    const std::shared_ptr<BlockStream> stream = weak.lock();
    if (stream == nullptr || state->begun) return;
    stream->End(ToGrpc(absl::InvalidArgumentError("the call was closed before it asked for anything")));
  });
}

BlockSender::BlockSender(const Worker& worker, std::shared_ptr<EngineHost> host,
                         std::shared_ptr<BlockStream> stream, RequestId loan,
                         const std::string& region_mapped)
    : shape_(worker.base().kv_shape()),
      host_(std::move(host)),
      stream_(std::move(stream)),
      loan_(loan),
      by_reference_(!worker.region().empty() && region_mapped == worker.region()),
      packs_(worker.base().kv_int8()),
      writer_([stream = stream_](grpc::ByteBuffer frame, int64_t bytes) {
        stream->Push(std::move(frame), bytes);
      }) {
  if (!by_reference_) writer_.header().set_shared_region(worker.region());
}

bool BlockSender::HasRoom() const {
  return stream_->bytes_pending() < kStreamBytesMax && sent_ - taken_ < kBlocksAheadMax;
}

bool BlockSender::Send(Engine& engine, int place, int index, size_t sent) {
  const std::optional<Engine::BlockView> block = engine.ReadLent(loan_, place);
  if (!block) return false;
  const BlockEnd end = {.key = block->key, .checksum = block->checksum};
  if (by_reference_) {
    writer_.AddShared(index, end, block->offset, static_cast<int64_t>(block->bytes.size()));
    places_.push_back(place);
    ++sent_;
    return true;
  }
  if (packs_ && SendPacked(engine, *block, place, index)) return true;
  // When gRPC has let go of the bytes, on a thread of its own, so does the loan.
  BytesHold hold(block->bytes.data(), [host = host_, loan = loan_, place](const void*) {
    host->Post([loan, place](Engine& engine) { engine.ReturnLent(loan, place); });
  });
  writer_.AddPiece(index, block->bytes.subspan(sent), end, std::move(hold));
  return true;
}

// False: the block's values were not rounded, so it travels as it is.
bool BlockSender::SendPacked(Engine& engine, const Engine::BlockView& block, int place,
                             int index) {
  std::vector<std::byte> packed(static_cast<size_t>(kernels::PackedBytes(shape_)));
  if (!kernels::PackBlock(shape_, block.bytes, packed).ok()) return false;
  writer_.Add(index, {.key = block.key, .checksum = Checksum64(packed)}, packed);
  engine.ReturnLent(loan_, place);
  return true;
}

void BlockSender::SendPart(int index, std::span<const std::byte> bytes) {
  writer_.AddPiece(index, bytes, std::nullopt);
}

void BlockSender::Acknowledged(Engine& engine, int blocks) {
  for (; taken_ < std::min(blocks, sent_); ++taken_) engine.ReturnLent(loan_, places_[taken_]);
}

}  // namespace chorale
