#include "services/router/cluster_backend.h"

#include <map>
#include <mutex>
#include <set>
#include <utility>

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "chorale/v1/worker.grpc.pb.h"
#include "kernels/tensor.h"
#include "process/log.h"
#include "rpc/convert_control.h"
#include "rpc/deadline.h"
#include "rpc/status.h"

namespace chorale {
namespace {

// How many workers a request names, in case the first has lost its blocks meanwhile.
constexpr int kHoldersNamed = 2;

// One generation: an attempt on one worker, and a second one elsewhere if the first worker was lost
// before it said anything.
class ClusterCall : public std::enable_shared_from_this<ClusterCall> {
 public:
  ClusterCall(std::shared_ptr<RoutingWatch> watch, std::shared_ptr<BlockDirectory> directory,
              std::shared_ptr<Channels> channels, v1::DecodeRequest request, absl::Time deadline,
              ChunkFn on_chunk, DoneFn on_done)
      : watch_(std::move(watch)),
        directory_(std::move(directory)),
        channels_(std::move(channels)),
        request_(std::move(request)),
        deadline_(deadline),
        on_chunk_(std::move(on_chunk)),
        on_done_(std::move(on_done)) {}

  void Attempt(const std::string& avoid) {
    absl::StatusOr<Route> route = watch_->Acquire(request_.model(), avoid);
    if (!route.ok()) {
      on_done_(route.status());
      return;
    }
    request_.set_prefill_address(route->prefill ? route->prefill->address : "");
    NameHolders(*route);
    auto* reader = new Reader(shared_from_this(), *std::move(route));  // frees itself in OnDone
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
    Reader(std::shared_ptr<ClusterCall> call, Route route)
        : call_(std::move(call)),
          route_(std::move(route)),
          stub_(v1::Decode::NewStub(call_->channels_->Get(route_.decode.address))) {}

    void Start() {
      SetDeadline(context_, call_->deadline_);
      stub_->async()->Generate(&context_, &call_->request_, this);
      StartRead(&chunk_);
      StartCall();
    }

    void OnReadDone(bool ok) override {
      if (!ok) return;
      any_chunk_ = true;
      call_->on_chunk_(chunk_);
      StartRead(&chunk_);
    }

    void OnDone(const grpc::Status& status) override {
      std::unique_ptr<Reader> self(this);
      call_->watch_->Release(route_);
      {
        std::lock_guard lock(call_->mutex_);
        call_->context_ = nullptr;
      }
      call_->OnAttemptDone(route_, FromGrpc(status), any_chunk_);
    }

    const std::shared_ptr<ClusterCall> call_;
    const Route route_;
    const std::unique_ptr<v1::Decode::Stub> stub_;
    grpc::ClientContext context_;
    v1::GenerateChunk chunk_;
    bool any_chunk_ = false;
  };

  // Who has leading blocks of the prompt, besides the decode worker itself.
  void NameHolders(const Route& route) {
    request_.clear_holders();
    const int tokens = (request_.prompt_size() - 1) / kernels::kBlockTokens * kernels::kBlockTokens;
    if (request_.no_prefix_reuse() || tokens == 0) return;
    const ServedModelInfo* model = FindModel(route.decode, request_.model());
    if (model == nullptr) return;
    const bool is_long =
        model->short_context_tokens > 0 && request_.prompt_size() > model->short_context_tokens;
    const std::vector<BlockKey> keys =
        MakeBlockKeys({request_.prompt().data(), static_cast<size_t>(tokens)},
                      is_long ? WriterOfLongContext(model->prompt_writer) : model->prompt_writer,
                      {request_.tenant_salt(), request_.public_tokens()});
    for (v1::BlockHolder& holder : directory_->Find(keys, kHoldersNamed, route.decode.address)) {
      *request_.add_holders() = std::move(holder);
    }
  }

  void OnAttemptDone(const Route& route, const absl::Status& status, bool any_chunk) {
    if (!absl::IsUnavailable(status)) {
      on_done_(status);
      return;
    }
    LogWarning("decode worker ", route.decode.id, ": ", status.message());
    if (!any_chunk && attempts_++ == 0) {
      Attempt(route.decode.id);
      return;
    }
    on_done_(absl::UnavailableError(
        absl::StrFormat("decode worker %s was lost: %s", route.decode.id, status.message())));
  }

  const std::shared_ptr<RoutingWatch> watch_;
  const std::shared_ptr<BlockDirectory> directory_;
  const std::shared_ptr<Channels> channels_;
  v1::DecodeRequest request_;
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

std::vector<BackendModel> ClusterBackend::Models() const {
  std::map<std::string, BackendModel> models;
  std::set<std::string> of_decode;  // models of which a decode worker has spoken
  for (const WorkerInfo& worker : watch_->workers()) {
    const v1::WorkerReport report = ToProto(worker);
    for (const v1::ServedModel& served : report.models()) {
      BackendModel& model = models[served.name()];
      // What a prefill worker says of a model is about its prompt writer only. Of the decode
      // workers any may be chosen: the shortest context counts.
      const bool decodes = worker.role == WorkerRole::kDecode;
      if (model.served.name().empty() ||
          (decodes && (!of_decode.contains(served.name()) ||
                       served.context_tokens() < model.served.context_tokens()))) {
        model.served = served;
      }
      if (decodes) of_decode.insert(served.name());
      if (!worker.ready || worker.draining) continue;
      ++(worker.role == WorkerRole::kPrefill ? model.prefill_workers : model.decode_workers);
    }
  }
  std::vector<BackendModel> list;
  for (auto& [name, model] : models) list.push_back(std::move(model));
  return list;
}

std::function<void()> ClusterBackend::Start(v1::DecodeRequest request, absl::Time deadline,
                                            ChunkFn on_chunk, DoneFn on_done) {
  auto call = std::make_shared<ClusterCall>(watch_, directory_, channels_, std::move(request),
                                            deadline, std::move(on_chunk), std::move(on_done));
  call->Attempt("");
  return [call] { call->Cancel(); };
}

}  // namespace chorale
