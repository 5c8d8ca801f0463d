#include "services/router/cluster_backend.h"

#include <mutex>
#include <utility>
#include <vector>

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "chorale/v1/worker.grpc.pb.h"
#include "kernels/tensor.h"
#include "process/log.h"
#include "rpc/blocks/convert_blocks.h"
#include "rpc/convert.h"
#include "rpc/deadline.h"
#include "rpc/status.h"

namespace chorale {
namespace {

// How many workers a request names, in case the first has lost its blocks meanwhile.
constexpr int kHoldersNamed = 2;

// Who has leading blocks of a prompt, by what its writer is called in `model`.
struct Holders {
  Digest writer;
  std::vector<BlockHolder> found;  // the most first
};

Holders FindHolders(const GenerateRequest& request, const ServedModelInfo& model,
                    const BlockDirectory& directory) {
  const size_t tokens =
      (request.prompt.size() - 1) / kernels::kBlockTokens * kernels::kBlockTokens;
  Holders holders = {.writer = model.prompt_writer};
  if (!request.reuse_prefix || tokens == 0) return holders;
  const bool is_long = model.short_context_tokens > 0 &&
                       static_cast<int>(request.prompt.size()) > model.short_context_tokens;
  const std::vector<BlockKey> keys = MakeBlockKeys(
      {request.prompt.data(), tokens},
      is_long ? WriterOfLongContext(model.prompt_writer) : model.prompt_writer, request.scope);
  // One of them may be the worker that the request goes to.
  holders.found = directory.Find(keys, kHoldersNamed + 1);
  return holders;
}

// One generation: an attempt on one worker, and a second one elsewhere if the first worker was lost
// before it said anything.
class ClusterCall : public std::enable_shared_from_this<ClusterCall> {
 public:
  ClusterCall(std::shared_ptr<RoutingWatch> watch, std::shared_ptr<Channels> channels,
              const GenerateRequest& request, Holders holders, ChunkFn on_chunk, DoneFn on_done)
      : watch_(std::move(watch)),
        channels_(std::move(channels)),
        request_(ToProto(request)),
        holders_(std::move(holders)),
        deadline_(request.deadline),
        on_chunk_(std::move(on_chunk)),
        on_done_(std::move(on_done)) {}

  void Attempt(const std::string& avoid) {
    absl::StatusOr<RoutingWatch::Lease> lease = watch_->Acquire(request_.model(), avoid);
    if (!lease.ok()) {
      on_done_(lease.status());
      return;
    }
    const Route& route = lease->route;
    request_.set_prefill_address(route.prefill == nullptr ? "" : route.prefill->address);
    NameHolders(*route.decode);
    auto* reader = new Reader(shared_from_this(), *std::move(lease));  // frees itself in OnDone
    {
      std::lock_guard lock(mutex_);
      context_ = &reader->context_;
      if (cancelled_) context_->TryCancel();
    }
    reader->Start();
  }

  void Cancel() {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }

 private:
  class Reader : public grpc::ClientReadReactor<v1::GenerateChunk> {
   public:
    Reader(std::shared_ptr<ClusterCall> call, RoutingWatch::Lease lease)
        : call_(std::move(call)),
          lease_(std::move(lease)),
          stub_(v1::Decode::NewStub(call_->channels_->Get(lease_.route.decode->address))) {}

    void Start() {
      SetDeadline(context_, call_->deadline_);
      stub_->async()->Generate(&context_, &call_->request_, this);
      StartRead(&chunk_);
      StartCall();
    }

    void OnReadDone(bool ok) override {
      if (!ok) return;
      any_chunk_ = true;
      call_->on_chunk_(FromProto(std::move(chunk_)));
      chunk_.Clear();
      StartRead(&chunk_);
    }

    void OnDone(const grpc::Status& status) override {
      std::unique_ptr<Reader> self(this);
      call_->watch_->Release(lease_);
      {
        std::lock_guard lock(call_->mutex_);
        call_->context_ = nullptr;
      }
      call_->OnAttemptDone(lease_.route.decode->id, FromGrpc(status), any_chunk_);
    }

    const std::shared_ptr<ClusterCall> call_;
    const RoutingWatch::Lease lease_;
    const std::unique_ptr<v1::Decode::Stub> stub_;
    grpc::ClientContext context_;
    v1::GenerateChunk chunk_;
    bool any_chunk_ = false;
  };

  // Besides the decode worker itself, and only where its weights write the same blocks.
  void NameHolders(const WorkerInfo& decode) {
    request_.clear_holders();
    const ServedModelInfo* model = FindModel(decode, request_.model());
    if (model == nullptr || model->prompt_writer != holders_.writer) return;
    std::vector<BlockHolder> others = holders_.found;
    std::erase_if(others, [&](const BlockHolder& h) { return h.address == decode.address; });
    if (others.size() > kHoldersNamed) others.resize(kHoldersNamed);
    HoldersToProto(others, *request_.mutable_holders());
  }

  void OnAttemptDone(const std::string& worker, const absl::Status& status, bool any_chunk) {
    if (!absl::IsUnavailable(status)) {
      on_done_(status);
      return;
    }
    LogWarning("decode worker ", worker, ": ", status.message());
    if (!any_chunk && attempts_++ == 0) {
      Attempt(worker);
      return;
    }
    on_done_(absl::UnavailableError(
        absl::StrFormat("decode worker %s was lost: %s", worker, status.message())));
  }

  const std::shared_ptr<RoutingWatch> watch_;
  const std::shared_ptr<Channels> channels_;
  v1::DecodeRequest request_;
  const Holders holders_;
  const absl::Time deadline_;
  const ChunkFn on_chunk_;
  const DoneFn on_done_;
  int attempts_ = 0;
  std::mutex mutex_;
  grpc::ClientContext* context_ = nullptr;  // under mutex_
  bool cancelled_ = false;                  // under mutex_
};

}  // namespace

absl::StatusOr<std::unique_ptr<ClusterBackend>> ClusterBackend::Create(
    const std::string& orchestrator, const std::string& redis_url) {
  auto channels = std::make_shared<Channels>();
  ASSIGN_OR_RETURN(std::shared_ptr<BlockDirectory> directory,
                   BlockDirectory::Create(channels, redis_url));
  return std::unique_ptr<ClusterBackend>(
      new ClusterBackend(orchestrator, std::move(channels), std::move(directory)));
}

ClusterBackend::ClusterBackend(const std::string& orchestrator, std::shared_ptr<Channels> channels,
                               std::shared_ptr<BlockDirectory> directory)
    : channels_(std::move(channels)),
      directory_(std::move(directory)),
      watch_(std::make_shared<RoutingWatch>(
          orchestrator, [directory = directory_](const std::vector<WorkerInfo>& workers) {
            std::vector<std::string> addresses;
            for (const WorkerInfo& worker : workers) addresses.push_back(worker.address);
            directory->SetHolders(addresses);
          })) {}

std::function<void()> ClusterBackend::Start(GenerateRequest request, ChunkFn on_chunk,
                                            DoneFn on_done) {
  const std::shared_ptr<const ModelTable> models = this->models();
  const ModelEntry* model = models->Find(request.model);
  Holders holders;
  if (model != nullptr) holders = FindHolders(request, model->served, *directory_);
  auto call = std::make_shared<ClusterCall>(watch_, channels_, request, std::move(holders),
                                            std::move(on_chunk), std::move(on_done));
  call->Attempt("");
  return [call] { call->Cancel(); };
}

}  // namespace chorale
