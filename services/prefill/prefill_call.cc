#include "services/prefill/prefill_call.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "rpc/kv_frame.h"
#include "rpc/limits.h"
#include "rpc/status.h"

namespace chorale {
namespace {

// Held by the engine's handler and by the stream's callbacks; both let go when the call ends. Its
// state belongs to the engine's thread.
class PrefillCall : public std::enable_shared_from_this<PrefillCall> {
 public:
  PrefillCall(std::shared_ptr<EngineHost> host, int first_block,
              std::shared_ptr<FrameStream> stream)
      : host_(std::move(host)), stream_(std::move(stream)), next_block_(first_block) {}

  void Start(PrefillRequest request) {
    auto self = shared_from_this();
    const RequestId id =
        host_->Start(std::move(request), [self](Engine& engine, EngineEvent event) {
          if (auto* prefill = std::get_if<PrefillEvent>(&event)) self->On(engine, *prefill);
        });
    stream_->OnCancelled([self, id] {
      self->host_->Post([self, id](Engine& engine) {
        self->ended_ = true;  // a Pump behind this finds nothing to read any more
        engine.Cancel(id, absl::CancelledError("the decode worker went away"));
      });
    });
    stream_->OnWritten(
        [self, id] { self->host_->Post([self, id](Engine& engine) { self->Pump(engine, id); }); });
  }

 private:
  void On(Engine& engine, const PrefillEvent& event) {
    if (!event.status.ok()) {
      ended_ = true;
      stream_->End(ToGrpc(event.status));
      return;
    }
    blocks_done_ = event.blocks_done;
    done_ = event.done;
    usage_ = event.usage;
    Pump(engine, event.id);
  }

  // Sends what is finished and fits, ends the call when all is sent.
  void Pump(Engine& engine, RequestId id) {
    while (!ended_ && next_block_ < blocks_done_ && stream_->bytes_pending() < kStreamBytesMax) {
      SendFrame(engine, id);
    }
    if (ended_ || !done_ || next_block_ < blocks_done_) return;
    v1::KvFrame last;
    last.mutable_usage()->set_tokens_cached(usage_.cached_tokens);
    last.mutable_usage()->set_tokens_computed(usage_.computed_tokens);
    stream_->Push(EncodeKvFrame(last, {}), 0);
    stream_->End(grpc::Status::OK);
    ended_ = true;
    host_->ReleasePrefill(id);
  }

  // One frame: several small blocks, or a piece of a large one.
  void SendFrame(Engine& engine, RequestId id) {
    v1::KvFrame header;
    std::vector<std::byte> payload;
    while (next_block_ < blocks_done_ && static_cast<int64_t>(payload.size()) < kFrameBytesMax) {
      const Engine::BlockView block = engine.ReadBlock(id, next_block_);
      const size_t room = static_cast<size_t>(kFrameBytesMax) - payload.size();
      if (!payload.empty() && block.bytes.size() - block_offset_ > room) break;
      const auto piece =
          block.bytes.subspan(block_offset_, std::min(room, block.bytes.size() - block_offset_));
      payload.insert(payload.end(), piece.begin(), piece.end());
      block_offset_ += piece.size();
      if (block_offset_ < block.bytes.size()) break;
      v1::KvBlock* ended = header.add_blocks_ended();
      ended->set_index(next_block_);
      ended->set_key(std::string(block.key.AsBytes()));
      ended->set_checksum(block.checksum);
      block_offset_ = 0;
      ++next_block_;
    }
    stream_->Push(EncodeKvFrame(header, payload), static_cast<int64_t>(payload.size()));
  }

  const std::shared_ptr<EngineHost> host_;
  const std::shared_ptr<FrameStream> stream_;
  int next_block_;
  size_t block_offset_ = 0;  // of next_block_, sent already
  int blocks_done_ = 0;
  bool done_ = false;
  bool ended_ = false;
  Usage usage_;
};

absl::StatusOr<PrefillRequest> Convert(Worker& worker, const v1::PrefillRequest& proto) {
  RETURN_IF_ERROR(worker.CheckReady());
  absl::StatusOr<Digest> theirs = Digest::FromBytes(proto.prompt_writer());
  if (!theirs.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'prompt_writer': %s", theirs.status().message()));
  }
  const int64_t block_bytes = worker.base().kv_shape().block_bytes();
  if (proto.block_bytes() != block_bytes) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "field 'block_bytes': the caller's K/V blocks have %d bytes, this worker's %d",
        proto.block_bytes(), block_bytes));
  }
  const int blocks = (proto.tokens_size() + kernels::kBlockTokens - 1) / kernels::kBlockTokens;
  if (proto.first_block() < 0 || proto.first_block() > blocks) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'first_block': %d, expected 0 to %d for %d tokens",
                        proto.first_block(), blocks, proto.tokens_size()));
  }
  return PrefillRequest{.model = proto.model(),
                        .writer = *theirs,
                        .tokens = {proto.tokens().begin(), proto.tokens().end()},
                        .tenant_salt = proto.tenant_salt(),
                        .reuse_prefix = !proto.no_prefix_reuse()};
}

}  // namespace

void StartPrefill(Worker& worker, const v1::PrefillRequest& request, absl::Time deadline,
                  std::shared_ptr<FrameStream> stream) {
  absl::StatusOr<PrefillRequest> converted = Convert(worker, request);
  if (!converted.ok()) {
    stream->End(ToGrpc(converted.status()));
    return;
  }
  converted->deadline = deadline;
  std::make_shared<PrefillCall>(worker.host(), request.first_block(), std::move(stream))
      ->Start(*std::move(converted));
}

}  // namespace chorale
