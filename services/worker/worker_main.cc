#include "services/worker/worker_main.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "chorale/v1/worker.grpc.pb.h"
#include "process/log.h"
#include "rpc/server.h"
#include "rpc/status.h"
#include "services/common/metrics.h"
#include "services/worker/reporter.h"
#include "services/worker/worker_flags.h"

namespace chorale {
namespace {

constexpr absl::Duration kDrainMax = absl::Hours(1);

const char* NameOf(v1::Role role) { return role == v1::ROLE_PREFILL ? "prefill" : "decode"; }

// Tells operators what this worker is doing, and changes its models. Changes take their time: they
// run on threads of gRPC's, not on its callbacks.
class WorkerControlService
    : public v1::WorkerControl::WithCallbackMethod_Status<v1::WorkerControl::Service> {
 public:
  WorkerControlService(Worker& worker, const WorkerBlocks& blocks, std::string worker_id,
                       const std::atomic<bool>& draining, std::function<void()> on_change)
      : worker_(worker),
        blocks_(blocks),
        worker_id_(std::move(worker_id)),
        draining_(draining),
        on_change_(std::move(on_change)) {}

  void Describe(v1::WorkerStatusResponse& response) const {
    response.set_worker_id(worker_id_);
    response.set_state(draining_ ? "draining" : worker_.ready() ? "serving" : "loading");
    response.set_load_progress(worker_.load_progress());
    worker_.Describe(response);
    blocks_.Describe(response);
  }

  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context,
                                   const v1::WorkerStatusRequest*,
                                   v1::WorkerStatusResponse* response) override {
    Describe(*response);
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::Status LoadModel(grpc::ServerContext* context, const v1::LoadModelRequest* request,
                         v1::ModelChange* change) override {
    return Answer(worker_.LoadModel(request->model(), DrainOf(*context, request->drain_ms())),
                  request->model().name(), change);
  }
  grpc::Status UnloadModel(grpc::ServerContext* context, const v1::UnloadModelRequest* request,
                           v1::ModelChange* change) override {
    return Answer(worker_.UnloadModel(request->name(), DrainOf(*context, request->drain_ms())),
                  request->name(), change);
  }

 private:
  static Worker::Drain DrainOf(const grpc::ServerContext& context, int64_t drain_ms) {
    return {.until = absl::Now() +
                     std::clamp(absl::Milliseconds(drain_ms), absl::ZeroDuration(), kDrainMax),
            .is_cancelled = [&context] { return context.IsCancelled(); }};
  }

  grpc::Status Answer(absl::StatusOr<v1::ModelChange> result, const std::string& name,
                      v1::ModelChange* change) {
    if (!result.ok()) {
      LogWarning("change of model ", name, " refused: ", result.status().message());
      return ToGrpc(result.status());
    }
    *change = *std::move(result);
    const absl::StatusOr<Digest> digest = Digest::FromBytes(change->digest());
    LogInfo("model ", name, digest.ok() ? " is now " + digest->Short() : " is unloaded", ", ",
            change->requests_ended(), " requests ended");
    on_change_();
    return grpc::Status::OK;
  }

  Worker& worker_;
  const WorkerBlocks& blocks_;
  const std::string worker_id_;
  const std::atomic<bool>& draining_;
  const std::function<void()> on_change_;
};

// Pids alone repeat between containers.
std::string DefaultId(v1::Role role) {
  char host[256] = "host";
  gethostname(host, sizeof(host) - 1);
  return absl::StrCat(NameOf(role), "-", host, "-", getpid());
}

}  // namespace

WorkerProcessOptions ParseWorkerFlags(int argc, char** argv, v1::Role role,
                                      const std::string& description) {
  WorkerProcessOptions options;
  CLI::App app(description);
  AddProcessFlags(app, options.process);
  app.add_option("--orchestrator", options.orchestrator, "address of the orchestrator to join");
  app.add_option("--worker-id", options.worker_id,
                 "name in the cluster; default: role, host and pid");
  AddWorkerFlags(app, options.worker);
  AddBlockFlags(app, options.blocks);
  if (const auto exit_code = ParseCommandLine(app, argc, argv, options.process)) {
    std::exit(*exit_code);
  }
  if (options.worker_id.empty()) options.worker_id = DefaultId(role);
  return options;
}

int RunWorkerProcess(const WorkerProcessOptions& options, v1::Role role, Worker& worker,
                     WorkerBlocks& blocks, grpc::Service& service) {
  const std::string& id = options.worker_id;
  std::atomic<bool> draining = false;
  std::optional<Reporter> reporter;
  WorkerControlService control(worker, blocks, id, draining, [&] {
    if (reporter) reporter->ReportNow();
  });
  auto server = RpcServer::Start(options.process.listen, {&service, &control, blocks.service()});
  if (!server.ok()) return ExitCodeOf(server.status());
  const std::string address = (*server)->address();
  LogInfo(id, " listens on ", address, ", loading ", options.worker.catalog.base);
  std::vector<std::string> lines = {"grpc=" + address};
  const auto metrics = StartMetrics(
      options.process.metrics,
      [&control, collect_blocks = CollectBlocks(address)](MetricSet& set) {
        v1::WorkerStatusResponse status;
        control.Describe(status);
        AddWorkerStatus(status, set);
        collect_blocks(set);
      },
      lines);
  if (!metrics.ok()) return ExitCodeOf(metrics.status());
  if (absl::Status status = WriteAddressFile(options.process.address_file, lines); !status.ok()) {
    return ExitCodeOf(status);
  }

  if (!options.orchestrator.empty()) {
    reporter.emplace(options.orchestrator, [&] {
      WorkerInfo report = {
          .id = id,
          .address = address,
          .role = role == v1::ROLE_PREFILL ? WorkerRole::kPrefill : WorkerRole::kDecode,
          .draining = draining,
          .pid = getpid()};
      worker.Describe(report);
      return report;
    });
  }

  absl::Status loaded;
  std::atomic<bool> failed = false;
  std::thread loader([&] {
    const absl::Time begin = absl::Now();
    loaded = worker.Load();
    if (!loaded.ok()) {
      failed = true;
      return;
    }
    LogInfo("serving ", worker.ServedModels().size(), " models on base ",
            worker.base().digest().Short(), " with ", std::string(worker.base().kernels().name),
            " kernels and ", worker.host()->stats().blocks_total, " blocks, loaded in ",
            absl::FormatDuration(absl::Trunc(absl::Now() - begin, absl::Milliseconds(1))));
    blocks.Start();
    (*server)->SetServing(true);
    if (reporter) reporter->ReportNow();
  });
  WaitForTermination([&] { return failed.load(); });
  draining = true;
  loader.join();
  if (reporter) reporter->ReportNow();
  LogInfo("draining");
  blocks.Close();
  (*server)->Drain(absl::Now() + absl::Seconds(options.process.drain_seconds));
  reporter.reset();
  return ExitCodeOf(loaded);
}

}  // namespace chorale
