// The flags of every process that runs a model.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include "absl/status/statusor.h"
#include "services/worker/worker.h"

namespace chorale {

void AddWorkerFlags(CLI::App& app, WorkerOptions& options);

// InvalidArgument unless `text` is NAME=FOLDER; `flag` names it in the error.
absl::StatusOr<NamedFolder> ParseNamedFolder(const std::string& flag, const std::string& text);

}  // namespace chorale
