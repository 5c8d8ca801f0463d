#include "cli/client.h"

#include <grpcpp/client_context.h>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "api/tenant.h"
#include "base/status_macros.h"
#include "chorale/v1/control.grpc.pb.h"
#include "chorale/v1/worker.grpc.pb.h"
#include "cli/cluster/run_dir.h"
#include "rpc/channels.h"
#include "rpc/deadline.h"
#include "rpc/status.h"

namespace chorale::cli {

void AddRunDirFlag(CLI::App& app, ClusterFlags& flags) {
  app.add_option("--run-dir", flags.run_dir,
                 "folder of the cluster; default $CHORALE_RUN_DIR or .chorale");
}

void AddClusterFlags(CLI::App& app, ClusterFlags& flags) {
  AddRunDirFlag(app, flags);
  app.add_option("--router", flags.router, "gRPC address of a router, instead of a run folder");
}

void AddApiKeyFlag(CLI::App& app, std::string& api_key) {
  app.add_option("--api-key", api_key,
                 "names a tenant: cached K/V is shared by the requests of one key only; others on "
                 "this machine may see a flag, but not the variable")
      ->envname("CHORALE_API_KEY");
}

namespace {

// The address of a process of the cluster in the run folder.
absl::StatusOr<std::string> FindProcess(const ClusterFlags& flags, const std::string& name) {
  const std::string run_dir = ResolveRunDir(flags.run_dir);
  ASSIGN_OR_RETURN(const ClusterRecord cluster, ReadCluster(run_dir));
  const ProcessRecord* process = cluster.Find(name);
  if (process == nullptr || StateOf(cluster, *process) != ProcessState::kRunning) {
    return absl::UnavailableError(absl::StrFormat(
        "the %s of the cluster in %s is not running: see %s/logs/%s.log, then `chorale down` and "
        "`chorale up`",
        name, run_dir, run_dir, name));
  }
  if (process->address.empty()) {
    return absl::UnavailableError(absl::StrFormat(
        "the cluster in %s is still starting: try again when `chorale up` is done", run_dir));
  }
  return process->address;
}

// One unary call to `address`.
template <typename Service, typename Request, typename Response>
absl::StatusOr<Response> Call(const std::string& address, absl::Duration timeout,
                              grpc::Status (Service::Stub::*method)(grpc::ClientContext*,
                                                                    const Request&, Response*),
                              const Request& request) {
  const auto stub = Service::NewStub(OpenChannel(address));
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + timeout);
  Response response;
  RETURN_IF_ERROR(FromGrpc((stub.get()->*method)(&context, request, &response)));
  return response;
}

}  // namespace

absl::StatusOr<std::string> FindRouter(const ClusterFlags& flags) {
  if (!flags.router.empty()) return flags.router;
  return FindProcess(flags, "router");
}

absl::StatusOr<std::string> FindOrchestrator(const ClusterFlags& flags) {
  return FindProcess(flags, "orchestrator");
}

absl::StatusOr<v1::RoutingTable> GetRouting(const std::string& address, absl::Duration timeout) {
  return Call<v1::Control>(address, timeout, &v1::Control::Stub::GetRouting,
                           v1::GetRoutingRequest());
}

absl::StatusOr<v1::WorkerStatusResponse> GetWorkerStatus(const std::string& address,
                                                         absl::Duration timeout) {
  return Call<v1::WorkerControl>(address, timeout, &v1::WorkerControl::Stub::Status,
                                 v1::WorkerStatusRequest());
}

std::map<std::string, v1::ModelCounters> CountersByModel(const WorkerStatuses& workers) {
  std::map<std::string, v1::ModelCounters> models;
  for (const auto& [id, status] : workers) {
    for (const auto& [name, counters] : status.models()) {
      v1::ModelCounters& sum = models[name];
      sum.set_prompt_tokens_computed(sum.prompt_tokens_computed() +
                                     counters.prompt_tokens_computed());
      sum.set_prompt_tokens_reused_own(sum.prompt_tokens_reused_own() +
                                       counters.prompt_tokens_reused_own());
      sum.set_prompt_tokens_reused_shared(sum.prompt_tokens_reused_shared() +
                                          counters.prompt_tokens_reused_shared());
      sum.set_prompt_tokens_received(sum.prompt_tokens_received() +
                                     counters.prompt_tokens_received());
      sum.set_decode_rows(sum.decode_rows() + counters.decode_rows());
    }
  }
  return models;
}

absl::StatusOr<v1::ModelChanges> LoadModel(const std::string& address,
                                           const v1::LoadModelRequest& request,
                                           absl::Duration timeout) {
  return Call<v1::Control>(address, timeout, &v1::Control::Stub::LoadModel, request);
}

absl::StatusOr<v1::ModelChanges> UnloadModel(const std::string& address,
                                             const v1::UnloadModelRequest& request,
                                             absl::Duration timeout) {
  return Call<v1::Control>(address, timeout, &v1::Control::Stub::UnloadModel, request);
}

RouterClient::RouterClient(const std::string& address, const std::string& api_key)
    : address_(address), api_key_(api_key), stub_(v1::Inference::NewStub(OpenChannel(address))) {}

absl::StatusOr<v1::ListModelsResponse> RouterClient::ListModels(absl::Duration timeout) {
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + timeout);
  v1::ListModelsResponse response;
  RETURN_IF_ERROR(
      Explain(FromGrpc(stub_->ListModels(&context, v1::ListModelsRequest(), &response))));
  return response;
}

absl::Status RouterClient::Generate(const v1::GenerateRequest& request, absl::Duration timeout,
                                    const std::function<void(const v1::GenerateChunk&)>& on_chunk) {
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + timeout);
  if (!api_key_.empty()) {
    ASSIGN_OR_RETURN(const std::string authorization, AuthorizationOf(api_key_));
    context.AddMetadata("authorization", authorization);
  }
  {
    std::lock_guard lock(mutex_);
    context_ = &context;
  }
  const auto reader = stub_->Generate(&context, request);
  absl::Status order;
  int64_t expected = 0;
  v1::GenerateChunk chunk;
  while (reader->Read(&chunk)) {
    if (order.ok() && chunk.sequence_number() != expected++) {
      order = absl::DataLossError(
          absl::StrFormat("chunk %d came where %d was due: the router lost or doubled a chunk",
                          chunk.sequence_number(), expected - 1));
      context.TryCancel();
    }
    if (order.ok()) on_chunk(chunk);
  }
  const absl::Status status = FromGrpc(reader->Finish());
  std::lock_guard lock(mutex_);
  context_ = nullptr;
  return order.ok() ? Explain(status) : order;
}

void RouterClient::Cancel() {
  std::lock_guard lock(mutex_);
  if (context_ != nullptr) context_->TryCancel();
}

// gRPC's own words for a router that is not there name neither the router nor a remedy.
absl::Status RouterClient::Explain(const absl::Status& status) const {
  if (!absl::IsUnavailable(status) || !absl::StrContains(status.message(), "failed to connect")) {
    return status;
  }
  return absl::UnavailableError(absl::StrFormat(
      "no router answers at %s: see `chorale status`, or start a cluster with `chorale up`",
      address_));
}

}  // namespace chorale::cli
