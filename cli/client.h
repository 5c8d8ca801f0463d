// How commands reach a cluster: the router by its address or through the run folder.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "chorale/v1/control.pb.h"
#include "chorale/v1/inference.grpc.pb.h"
#include "chorale/v1/worker.pb.h"

namespace chorale::cli {

struct ClusterFlags {
  std::string run_dir;
  std::string router;  // address; empty: the one recorded in the run folder
};

void AddRunDirFlag(CLI::App& app, ClusterFlags& flags);
// --run-dir and --router.
void AddClusterFlags(CLI::App& app, ClusterFlags& flags);
// --api-key.
void AddApiKeyFlag(CLI::App& app, std::string& api_key);

// NotFound or Unavailable says which command to give.
absl::StatusOr<std::string> FindRouter(const ClusterFlags& flags);

// The address of a cluster's orchestrator, by its run folder. Errors as for FindRouter.
absl::StatusOr<std::string> FindOrchestrator(const ClusterFlags& flags);

// The workers that the orchestrator at `address` knows.
absl::StatusOr<v1::RoutingTable> GetRouting(const std::string& address, absl::Duration timeout);
// What the worker at `address` counts.
absl::StatusOr<v1::WorkerStatusResponse> GetWorkerStatus(const std::string& address,
                                                         absl::Duration timeout);
// What workers count, by their ids.
using WorkerStatuses = std::map<std::string, v1::WorkerStatusResponse>;
// The counters of each model, summed over the workers.
std::map<std::string, v1::ModelCounters> CountersByModel(const WorkerStatuses& workers);
// Has the orchestrator at `address` change every worker.
absl::StatusOr<v1::ModelChanges> LoadModel(const std::string& address,
                                           const v1::LoadModelRequest& request,
                                           absl::Duration timeout);
absl::StatusOr<v1::ModelChanges> UnloadModel(const std::string& address,
                                             const v1::UnloadModelRequest& request,
                                             absl::Duration timeout);

// A connection to a router. Thread safe.
class RouterClient {
 public:
  // `api_key` names the tenant that the client speaks for; empty: the one without a key.
  explicit RouterClient(const std::string& address, const std::string& api_key = "");

  absl::StatusOr<v1::ListModelsResponse> ListModels(absl::Duration timeout);

  // Streams a completion; `on_chunk` is called in this thread. DataLoss when a chunk is missing or
  // doubled; InvalidArgument when the API key cannot be one.
  absl::Status Generate(const v1::GenerateRequest& request, absl::Duration timeout,
                        const std::function<void(const v1::GenerateChunk&)>& on_chunk);
  // Ends the Generate under way, if any, with Cancelled.
  void Cancel();

 private:
  absl::Status Explain(const absl::Status& status) const;

  const std::string address_;
  const std::string api_key_;
  const std::unique_ptr<v1::Inference::Stub> stub_;
  std::mutex mutex_;
  grpc::ClientContext* context_ = nullptr;  // of the Generate under way; under mutex_
};

}  // namespace chorale::cli
