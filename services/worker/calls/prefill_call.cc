#include "services/worker/calls/prefill_call.h"

#include <deque>
#include <utility>
#include <variant>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "rpc/blocks/convert_blocks.h"
#include "rpc/deadline.h"
#include "rpc/raw_message.h"
#include "rpc/status.h"

namespace chorale {
namespace {

// Held by the engine's handlers and by the stream's callbacks; all let go when the call ends. Its
// state belongs to the engine's thread.
class PrefillCall : public std::enable_shared_from_this<PrefillCall> {
 public:
  PrefillCall(Worker& worker, BlockFetcher& fetcher, std::shared_ptr<BlockStream> stream)
      : worker_(worker), fetcher_(fetcher), host_(worker.host()), stream_(std::move(stream)) {}

  void Start(PrefillRequest request, v1::PrefillRequest wanted, absl::Time deadline) {
    auto self = shared_from_this();
    next_block_ = wanted.first_block();
    loan_ = host_->StartLoan([self] {
      self->Fail(absl::DeadlineExceededError("the blocks were lent for a lease and not taken"));
    });
    sender_ = std::make_shared<BlockSender>(worker_, host_, stream_, loan_, wanted.shared_region(),
                                            [weak = weak_from_this()](Engine& engine) {
                                              if (auto self = weak.lock()) self->Pump(engine);
                                            });
    sources_.holders = HoldersFromProto(wanted.holders());
    sources_.deadline = deadline;
    request.await_blocks = request.reuse_prefix && fetcher_.CanFetch(sources_);
    // Before anything is sent: a write that nobody hears of would leave the rest unsent.
    stream_->OnWritten([self] { self->host_->Post([self](Engine& e) { self->Pump(e); }); });
    // From the engine's thread, so that the id is known before the first event.
    host_->Post([self, request = std::move(request)](Engine&) mutable {
      self->id_ = self->host_->Start(std::move(request), [self](Engine& engine, EngineEvent event) {
        if (auto* prefill = std::get_if<PrefillEvent>(&event)) self->On(engine, *prefill);
        if (auto* need = std::get_if<NeedBlocksEvent>(&event)) self->On(engine, *need);
        if (auto* layers = std::get_if<LayersEvent>(&event)) self->On(engine, *layers);
      });
    });
    stream_->OnCancelled([self] {
      self->host_->Post(
          [self](Engine&) { self->Fail(absl::CancelledError("the decode worker went away")); });
    });
  }

  void Acknowledge(int blocks) {
    host_->Post([self = shared_from_this(), blocks](Engine& engine) {
      self->sender_->Acknowledged(engine, blocks);
      self->Pump(engine);
    });
  }

 private:
  void On(Engine& engine, const PrefillEvent& event) {
    if (!event.status.ok()) return Fail(event.status);
    blocks_done_ = event.blocks_done;
    done_ = event.done;
    usage_ = event.usage;
    Pump(engine);
  }

  void On(Engine&, const NeedBlocksEvent& event) {
    if (!ended_) cancel_fetch_ = fetcher_.Start(event, std::move(sources_));
  }

  // A batch is running: sends what its layers have written already of the blocks that come next, so
  // that the receiver has most of them when the batch ends.
  void On(Engine& engine, const LayersEvent& event) {
    if (ended_ || !sender_->sends_parts() || next_block_ < event.first_block) return;
    for (int i = next_block_; i < event.blocks && sender_->HasRoomForParts(); ++i) {
      const size_t place = static_cast<size_t>(i - next_block_);
      if (sent_early_.size() <= place) sent_early_.push_back(0);
      const std::span<const std::byte> written = engine.ReadLayers(id_, i, event.layers);
      sender_->SendPart(i, written.subspan(sent_early_[place]));
      sent_early_[place] = written.size();
    }
    sender_->Flush();
  }

  // Sends what is finished and fits, ends the call when all is sent and taken.
  void Pump(Engine& engine) {
    if (ended_) return;
    while (next_block_ < blocks_done_ && sender_->HasRoom()) {
      const absl::StatusOr<int> place = engine.LendWritten(loan_, id_, next_block_);
      if (absl::IsResourceExhausted(place.status())) {
        sender_->Flush();
        if (sender_->AwaitsReceiver()) return;  // which makes room
      }
      if (!place.ok()) return Fail(place.status());
      size_t sent = 0;
      if (!sent_early_.empty()) {
        sent = sent_early_.front();
        sent_early_.pop_front();
      }
      CHECK(sender_->Send(engine, *place, next_block_, sent));
      ++next_block_;
    }
    sender_->Flush();
    // Until all is taken the lease goes on, and the call can be broken off.
    if (!done_ || next_block_ < blocks_done_ || sender_->AwaitsReceiver()) return;
    v1::PrefillUsage& usage = *sender_->header().mutable_usage();
    usage.set_tokens_cached(usage_.cached_tokens);
    usage.set_tokens_computed(usage_.computed_tokens);
    usage.set_tokens_received(usage_.transferred_tokens);
    sender_->Flush();
    End(absl::OkStatus());
  }

  void Fail(const absl::Status& status) {
    if (!ended_) End(status);
  }

  // What gRPC still sends is lent until it lets go.
  void End(const absl::Status& status) {
    ended_ = true;
    status.ok() ? stream_->End(ToGrpc(status)) : stream_->Abort(ToGrpc(status));
    if (cancel_fetch_) cancel_fetch_();
    cancel_fetch_ = nullptr;
    if (status.ok()) {
      host_->ReleasePrefill(id_);
      host_->FinishLoan(loan_);
    } else {
      host_->Cancel(id_, status);
      host_->EndLoan(loan_);
    }
  }

  Worker& worker_;
  BlockFetcher& fetcher_;
  const std::shared_ptr<EngineHost> host_;
  const std::shared_ptr<BlockStream> stream_;
  FetchSources sources_;
  std::function<void()> cancel_fetch_;
  RequestId id_ = 0;
  RequestId loan_ = 0;
  std::shared_ptr<BlockSender> sender_;
  int next_block_ = 0;
  // Bytes of next_block_ and those behind it that were sent while they were written.
  std::deque<size_t> sent_early_;
  int blocks_done_ = 0;
  bool done_ = false;
  bool ended_ = false;
  Usage usage_;
};

absl::StatusOr<PrefillRequest> Convert(Worker& worker, const v1::PrefillRequest& proto) {
  RETURN_IF_ERROR(CheckFormat(worker.format(), proto.format()));
  absl::StatusOr<Digest> theirs = Digest::FromBytes(proto.format().writer());
  if (!theirs.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'format.writer': %s", theirs.status().message()));
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
                        .scope = {proto.tenant_salt(), proto.public_tokens()},
                        .reuse_prefix = !proto.no_prefix_reuse()};
}

absl::StatusOr<AcknowledgeFn> Begin(Worker& worker, BlockFetcher& fetcher, absl::Time deadline,
                                    const std::shared_ptr<BlockStream>& stream,
                                    const grpc::ByteBuffer& bytes) {
  RETURN_IF_ERROR(worker.CheckReady());
  ASSIGN_OR_RETURN(v1::PrefillMessage message, ParseMessage<v1::PrefillMessage>(bytes));
  if (!message.has_run()) {
    return absl::InvalidArgumentError("field 'run': missing from the call's first message");
  }
  ASSIGN_OR_RETURN(PrefillRequest request, Convert(worker, message.run()));
  request.deadline = deadline;
  auto call = std::make_shared<PrefillCall>(worker, fetcher, stream);
  call->Start(std::move(request), std::move(*message.mutable_run()), deadline);
  return [call](int blocks_taken) { call->Acknowledge(blocks_taken); };
}

}  // namespace

void StartPrefillCall(Worker& worker, BlockFetcher& fetcher, absl::Time deadline,
                      std::shared_ptr<BlockStream> stream) {
  ServeBlockCall(stream, [&worker, &fetcher, deadline](const auto& stream, const auto& first) {
    return Begin(worker, fetcher, deadline, stream, first);
  });
}

}  // namespace chorale
