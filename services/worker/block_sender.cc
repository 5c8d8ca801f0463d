#include "services/worker/block_sender.h"

#include <algorithm>
#include <utility>

#include "base/hash.h"
#include "kernels/kv_codec.h"
#include "rpc/limits.h"

namespace chorale {
namespace {

// Blocks that a receiver may have before it acknowledges: a multiple of what a frame names.
constexpr int kBlocksAheadMax = 4 * kFramePiecesMax;

}  // namespace

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

// False: the block's values were not rounded, or have changed, so it travels as it is.
bool BlockSender::SendPacked(Engine& engine, const Engine::BlockView& block, int place, int index) {
  if (Checksum64(block.bytes) != block.checksum) return false;  // the receiver will find it too
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
