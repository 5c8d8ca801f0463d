#include "services/single/single.h"

#include <utility>

#include "absl/time/clock.h"
#include "process/log.h"
#include "services/common/metrics.h"
#include "services/single/local_backend.h"

namespace chorale {

int RunSingle(SingleOptions options) {
  if (absl::Status status = SetLogLevel(options.process.log_level); !status.ok()) {
    return ExitCodeOf(status);
  }
  LogInfo("loading ", options.worker.catalog.base);
  Worker worker(options.worker);
  if (absl::Status status = worker.Load(); !status.ok()) return ExitCodeOf(status);
  LocalBackend backend(worker);
  options.front_door.grpc = options.process.listen;
  auto front_door = FrontDoor::Open(options.front_door, backend);
  if (!front_door.ok()) return ExitCodeOf(front_door.status());
  std::vector<std::string> lines = (*front_door)->AddressLines();
  const auto metrics = StartMetrics(
      options.process.metrics,
      [&worker](MetricSet& set) {
        v1::WorkerStatusResponse status;
        status.set_worker_id("single");
        status.set_state("serving");
        status.set_load_progress(worker.load_progress());
        worker.Describe(status);
        AddWorkerStatus(status, set);
      },
      lines);
  if (!metrics.ok()) return ExitCodeOf(metrics.status());
  for (const std::string& line : lines) LogInfo("listening: ", line);
  if (absl::Status status = WriteAddressFile(options.process.address_file, lines); !status.ok()) {
    return ExitCodeOf(status);
  }
  (*front_door)->SetServing(true);
  WaitForTermination();
  LogInfo("draining");
  (*front_door)->Drain(absl::Now() + absl::Seconds(options.process.drain_seconds));
  worker.host()->Stop();
  return 0;
}

}  // namespace chorale
