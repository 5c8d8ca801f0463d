// chorale-router: the front door of a cluster.
#include <CLI/CLI.hpp>

#include "absl/time/clock.h"
#include "services/common/log.h"
#include "services/common/process.h"
#include "services/router/cluster_backend.h"
#include "services/router/front_door.h"

namespace chorale {
namespace {

int Main(int argc, char** argv) {
  BlockTerminationSignals();
  ProcessOptions options;
  FrontDoorOptions door_options;
  std::string orchestrator;
  CLI::App app("chorale-router: OpenAI-compatible HTTP and gRPC in front of a cluster");
  AddProcessFlags(app, options);
  AddFrontDoorFlags(app, door_options);
  app.add_option("--orchestrator", orchestrator, "address of the orchestrator")->required();
  if (const auto exit_code = ParseCommandLine(app, argc, argv, options)) return *exit_code;

  ClusterBackend backend(orchestrator);
  door_options.grpc = options.listen;
  auto door = FrontDoor::Open(door_options, backend);
  if (!door.ok()) return ExitCodeOf(door.status());
  for (const std::string& line : (*door)->AddressLines()) LogInfo("listening: ", line);
  if (absl::Status status = WriteAddressFile(options.address_file, (*door)->AddressLines());
      !status.ok()) {
    return ExitCodeOf(status);
  }
  // Ready once the cluster is known; what it can serve is another question, answered per model.
  if (!WaitForTermination([&] { return backend.connected(); })) {
    (*door)->SetServing(true);
    WaitForTermination();
  }
  LogInfo("draining");
  (*door)->Drain(absl::Now() + absl::Seconds(options.drain_seconds));
  return 0;
}

}  // namespace
}  // namespace chorale

int main(int argc, char** argv) { return chorale::Main(argc, argv); }
