// `chorale run --single`: the same front door and engine as a cluster's, in this process.
#include <memory>

#include "absl/strings/str_format.h"
#include "cli/cluster/launch.h"
#include "cli/commands.h"
#include "services/single/single.h"
#include "services/worker/worker_flags.h"

namespace chorale::cli {
namespace {

int Run(SingleOptions options) {
  if (options.worker.catalog.models.empty()) {
    absl::StatusOr<std::string> folder = FindShippedModels(OwnBinDir(), "base");
    if (!folder.ok()) return Fail(folder.status());
    options.worker.catalog = {.base = *std::move(folder), .models = {{.name = "base"}}};
  }
  BlockTerminationSignals();
  return RunSingle(std::move(options));
}

}  // namespace

void AddRun(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<SingleOptions>();
  CLI::App* run = app.add_subcommand("run", "serve a model from this process alone");
  run->add_flag("--single")->required()->description("one process; a cluster is started by `up`");
  options->process.listen = "127.0.0.1:8081";
  options->front_door.http = "127.0.0.1:8080";
  AddProcessFlags(*run, options->process);
  AddFrontDoorFlags(*run, options->front_door);
  AddWorkerFlags(*run, options->worker, /*model_required=*/false);
  run->footer("Example: chorale run --single --model base=models/base --kernels reference");
  run->callback([options, &chosen] { chosen = [options] { return Run(*options); }; });
}

}  // namespace chorale::cli
