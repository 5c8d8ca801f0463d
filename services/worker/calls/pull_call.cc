#include "services/worker/calls/pull_call.h"

#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "rpc/blocks/convert_blocks.h"
#include "rpc/raw_message.h"
#include "rpc/status.h"

namespace chorale {
namespace {

constexpr size_t kKeysMax = 1 << 16;

// Held by the stream's callbacks and the engine's handler; both let go when the call ends. Its
// state belongs to the engine's thread.
class PullCall : public std::enable_shared_from_this<PullCall> {
 public:
  PullCall(const Worker& worker, std::shared_ptr<EngineHost> host,
           std::shared_ptr<BlockStream> stream)
      : worker_(worker), host_(std::move(host)), stream_(std::move(stream)) {}

  void Start(std::vector<BlockKey> keys, const std::string& region_mapped) {
    auto self = shared_from_this();
    loan_ = host_->StartLoan([self] {
      self->End(absl::DeadlineExceededError("the blocks were lent for a lease and not taken"));
    });
    sender_ = std::make_shared<BlockSender>(worker_, host_, stream_, loan_, region_mapped,
                                            [weak = weak_from_this()](Engine& engine) {
                                              if (auto self = weak.lock()) self->Pump(engine);
                                            });
    // Before anything is sent: a write that nobody hears of would leave the rest unsent.
    stream_->OnWritten([self] { self->host_->Post([self](Engine& e) { self->Pump(e); }); });
    keys_ = std::move(keys);
    host_->Post([self](Engine& engine) { self->Pump(engine); });
    stream_->OnCancelled([self] {
      self->host_->Post(
          [self](Engine&) { self->End(absl::CancelledError("the reader went away")); });
    });
  }

  void Acknowledge(int blocks) {
    host_->Post([self = shared_from_this(), blocks](Engine& engine) {
      self->sender_->Acknowledged(engine, blocks);
      self->Pump(engine);
    });
  }

 private:
  void Pump(Engine& engine) {
    if (ended_) return;
    // Lent as they are sent: what the receiver is not ready for is not held for it.
    while (next_ < static_cast<int>(keys_.size()) && sender_->HasRoom()) {
      const absl::StatusOr<std::optional<int>> place = engine.Lend(loan_, keys_[next_]);
      if (absl::IsResourceExhausted(place.status())) {
        sender_->Flush();
        if (sender_->AwaitsReceiver()) return;  // which makes room
      }
      if (!place.ok()) return End(place.status());
      if (!*place) {
        keys_.resize(next_);  // what follows is no longer a chain
        break;
      }
      CHECK(sender_->Send(engine, **place, next_));
      ++next_;
    }
    sender_->Flush();
    // Until then the lease goes on, and the call can be broken off.
    if (next_ == static_cast<int>(keys_.size()) && !sender_->AwaitsReceiver()) {
      End(absl::OkStatus());
    }
  }

  // What gRPC still sends is lent until it lets go.
  void End(const absl::Status& status) {
    if (std::exchange(ended_, true)) return;
    if (status.ok()) {
      stream_->End(ToGrpc(status));
      host_->FinishLoan(loan_);
    } else {
      stream_->Abort(ToGrpc(status));
      host_->EndLoan(loan_);
    }
  }

  const Worker& worker_;
  const std::shared_ptr<EngineHost> host_;
  const std::shared_ptr<BlockStream> stream_;
  RequestId loan_ = 0;
  std::shared_ptr<BlockSender> sender_;
  std::vector<BlockKey> keys_;
  int next_ = 0;
  bool ended_ = false;
};

absl::StatusOr<AcknowledgeFn> Begin(Worker& worker, const std::shared_ptr<BlockStream>& stream,
                                    const grpc::ByteBuffer& bytes) {
  RETURN_IF_ERROR(worker.CheckReady());
  ASSIGN_OR_RETURN(const v1::PullMessage message, ParseMessage<v1::PullMessage>(bytes));
  if (!message.has_pull()) {
    return absl::InvalidArgumentError("field 'pull': missing from the call's first message");
  }
  RETURN_IF_ERROR(CheckFormat(worker.format(), message.pull().format()));
  ASSIGN_OR_RETURN(std::vector<BlockKey> keys, KeysFromProto(message.pull().keys(), kKeysMax));
  auto call = std::make_shared<PullCall>(worker, worker.host(), stream);
  call->Start(std::move(keys), message.pull().shared_region());
  return [call](int blocks_taken) { call->Acknowledge(blocks_taken); };
}

}  // namespace

void StartPullCall(Worker& worker, std::shared_ptr<BlockStream> stream) {
  ServeBlockCall(stream, [&worker](const auto& stream, const grpc::ByteBuffer& first) {
    return Begin(worker, stream, first);
  });
}

}  // namespace chorale
