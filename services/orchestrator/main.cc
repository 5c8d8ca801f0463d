// chorale-orchestrator: knows the members of the cluster and tells routers where to send requests.
#include <CLI/CLI.hpp>

#include "absl/time/clock.h"
#include "process/log.h"
#include "process/process.h"
#include "rpc/server.h"
#include "services/common/metrics.h"
#include "services/orchestrator/control_service.h"

namespace chorale {
namespace {

int Main(int argc, char** argv) {
  BlockTerminationSignals();
  ProcessOptions options;
  int silence_ms = 3000;
  CLI::App app("chorale-orchestrator: membership and routing of a cluster");
  AddProcessFlags(app, options);
  app.add_option("--silence-ms", silence_ms, "a worker silent for longer is dropped")
      ->capture_default_str()
      ->check(CLI::Range(100, 600'000));
  if (const auto exit_code = ParseCommandLine(app, argc, argv, options)) return *exit_code;

  const absl::Duration silence_max = absl::Milliseconds(silence_ms);
  ControlService service({.report_interval = std::min(absl::Milliseconds(250), silence_max / 4),
                          .silence_max = silence_max});
  auto server = RpcServer::Start(options.listen, {&service});
  if (!server.ok()) return ExitCodeOf(server.status());
  const std::string address = (*server)->address();
  std::vector<std::string> lines = {"grpc=" + address};
  const auto metrics = StartMetrics(
      options.metrics,
      [&service](MetricSet& set) {
        v1::RoutingTable table;
        service.GetRouting(/*context=*/nullptr, /*request=*/nullptr, &table);
        AddRouting(table, set);
      },
      lines);
  if (!metrics.ok()) return ExitCodeOf(metrics.status());
  if (absl::Status status = WriteAddressFile(options.address_file, lines); !status.ok()) {
    return ExitCodeOf(status);
  }
  LogInfo("orchestrator listens on ", address);
  (*server)->SetServing(true);
  WaitForTermination();
  LogInfo("stopping");
  service.Stop();
  (*server)->Drain(absl::Now() + absl::Seconds(1));
  return 0;
}

}  // namespace
}  // namespace chorale

int main(int argc, char** argv) { return chorale::Main(argc, argv); }
