#include "services/worker/worker_main.h"

#include <atomic>
#include <optional>
#include <thread>

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "chorale/v1/worker.grpc.pb.h"
#include "rpc/server.h"
#include "services/common/log.h"
#include "services/worker/reporter.h"
#include "services/worker/worker_flags.h"

namespace chorale {
namespace {

const char* NameOf(v1::Role role) { return role == v1::ROLE_PREFILL ? "prefill" : "decode"; }

// Tells operators what this worker is doing.
class WorkerControlService : public v1::WorkerControl::CallbackService {
 public:
  WorkerControlService(const Worker& worker, std::string worker_id,
                       const std::atomic<bool>& draining)
      : worker_(worker), worker_id_(std::move(worker_id)), draining_(draining) {}

  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context,
                                   const v1::WorkerStatusRequest*,
                                   v1::WorkerStatusResponse* response) override {
    response->set_worker_id(worker_id_);
    response->set_state(draining_ ? "draining" : worker_.ready() ? "serving" : "loading");
    response->set_load_progress(worker_.load_progress());
    for (const auto& [name, value] : worker_.Metrics()) (*response->mutable_engine())[name] = value;
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  const Worker& worker_;
  const std::string worker_id_;
  const std::atomic<bool>& draining_;
};

// Pids alone repeat between containers.
std::string DefaultId(v1::Role role) {
  char host[256] = "host";
  gethostname(host, sizeof(host) - 1);
  return absl::StrCat(NameOf(role), "-", host, "-", getpid());
}

}  // namespace

WorkerProcessOptions ParseWorkerFlags(int argc, char** argv, const std::string& description,
                                      const std::function<void(CLI::App&)>& add_flags) {
  WorkerProcessOptions options;
  CLI::App app(description);
  AddProcessFlags(app, options.process);
  app.add_option("--orchestrator", options.orchestrator, "address of the orchestrator to join");
  app.add_option("--worker-id", options.worker_id,
                 "name in the cluster; default: role, host and pid");
  AddWorkerFlags(app, options.worker);
  if (add_flags) add_flags(app);
  if (const auto exit_code = ParseCommandLine(app, argc, argv, options.process)) {
    std::exit(*exit_code);
  }
  return options;
}

int RunWorkerProcess(const WorkerProcessOptions& options, v1::Role role, Worker& worker,
                     const std::vector<grpc::Service*>& role_services) {
  const std::string id = options.worker_id.empty() ? DefaultId(role) : options.worker_id;
  std::atomic<bool> draining = false;
  WorkerControlService control(worker, id, draining);
  std::vector<grpc::Service*> services = role_services;
  services.push_back(&control);
  auto server = RpcServer::Start(options.process.listen, services);
  if (!server.ok()) return ExitCodeOf(server.status());
  const std::string address = (*server)->address();
  LogInfo(id, " listens on ", address, ", loading ", options.worker.model.folder);
  if (absl::Status status = WriteAddressFile(options.process.address_file, {"grpc=" + address});
      !status.ok()) {
    return ExitCodeOf(status);
  }

  std::optional<Reporter> reporter;
  if (!options.orchestrator.empty()) {
    reporter.emplace(options.orchestrator, [&] {
      v1::WorkerReport report;
      report.set_worker_id(id);
      report.set_address(address);
      report.set_role(role);
      report.set_pid(getpid());
      report.set_draining(draining);
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
    LogInfo("serving ", options.worker.model.name, " with ",
            std::string(worker.model().kernels().name), " kernels and ",
            worker.host()->stats().blocks_total, " blocks, writer ",
            worker.model().digest().Short(), ", loaded in ",
            absl::FormatDuration(absl::Trunc(absl::Now() - begin, absl::Milliseconds(1))));
    (*server)->SetServing(true);
    if (reporter) reporter->ReportNow();
  });
  WaitForTermination([&] { return failed.load(); });
  draining = true;
  loader.join();
  if (reporter) reporter->ReportNow();
  LogInfo("draining");
  (*server)->Drain(absl::Now() + absl::Seconds(options.process.drain_seconds));
  reporter.reset();
  return ExitCodeOf(loaded);
}

}  // namespace chorale
