#include "services/worker/prefill_client.h"

#include <memory>
#include <utility>

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/client_callback.h>

#include "rpc/deadline.h"
#include "rpc/kv_frame.h"
#include "services/common/log.h"

namespace chorale {
namespace {

constexpr char kMethod[] = "/chorale.v1.Prefill/Run";

// The reading side of one hand-off. One frame at a time: the next is read when the engine has taken
// the last, so a fetch never holds more than one frame here. Frees itself when the call is over.
class PrefillReader : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  PrefillReader(std::shared_ptr<grpc::Channel> channel, PrefillFetch fetch,
                std::shared_ptr<EngineHost> host)
      : stub_(std::move(channel)),
        fetch_(std::move(fetch)),
        host_(std::move(host)),
        assembler_(fetch_.request.block_bytes(), fetch_.blocks) {}

  // Keeps the reader alive until OnDone.
  static std::function<void()> Start(std::shared_ptr<PrefillReader> reader) {
    reader->self_ = reader;
    bool own_buffer = false;
    grpc::SerializationTraits<v1::PrefillRequest>::Serialize(reader->fetch_.request,
                                                             &reader->request_bytes_, &own_buffer);
    SetDeadline(reader->context_, reader->fetch_.deadline);
    reader->stub_.PrepareBidiStreamingCall(&reader->context_, kMethod, {}, reader.get());
    reader->StartWriteLast(&reader->request_bytes_, {});
    reader->StartRead(&reader->frame_);
    // The engine's thread resumes reading through a hold, which keeps OnDone away meanwhile.
    reader->AddHold();
    reader->StartCall();
    return [weak = std::weak_ptr<PrefillReader>(reader)] {
      if (auto reader = weak.lock()) reader->context_.TryCancel();
    };
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      RemoveHold();
      return;
    }
    absl::StatusOr<DecodedKvFrame> frame = DecodeKvFrame(frame_);
    if (frame.ok()) {
      absl::StatusOr<std::vector<BlockAssembler::Block>> blocks = assembler_.Add(*frame);
      if (blocks.ok()) {
        if (host_->Post([self = self_, blocks = *std::move(blocks)](Engine& engine) {
              for (const BlockAssembler::Block& block : blocks) self->Deliver(engine, block);
              self->StartRead(&self->frame_);
            })) {
          return;
        }
        frame = absl::UnavailableError("this worker is shutting down");
      } else {
        frame = blocks.status();
      }
    }
    LogWarning("hand-off from ", fetch_.address, ": ", frame.status().message());
    context_.TryCancel();
    RemoveHold();
  }

  void Deliver(Engine& engine, const BlockAssembler::Block& block) {
    absl::Status status =
        engine.DeliverBlock(fetch_.id, block.index, block.key, block.checksum, block.bytes);
    if (!status.ok()) LogWarning("block from ", fetch_.address, ": ", status.message());
  }

  void OnDone(const grpc::Status& status) override {
    if (!status.ok() && status.error_code() != grpc::StatusCode::CANCELLED) {
      LogWarning("prefill worker ", fetch_.address, ": ", status.error_message(),
                 "; computing the rest here");
    }
    host_->Post([id = fetch_.id](Engine& engine) { engine.EndDelivery(id); });
    std::shared_ptr<PrefillReader> self = std::move(self_);
  }

  grpc::GenericStub stub_;
  const PrefillFetch fetch_;
  const std::shared_ptr<EngineHost> host_;
  BlockAssembler assembler_;
  grpc::ClientContext context_;
  grpc::ByteBuffer request_bytes_;
  grpc::ByteBuffer frame_;
  std::shared_ptr<PrefillReader> self_;
};

}  // namespace

FetchFn MakePrefillClient(Channels& channels) {
  return [&channels](PrefillFetch fetch, std::shared_ptr<EngineHost> host) {
    std::shared_ptr<grpc::Channel> channel = channels.Get(fetch.address);
    return PrefillReader::Start(
        std::make_shared<PrefillReader>(std::move(channel), std::move(fetch), std::move(host)));
  };
}

}  // namespace chorale
