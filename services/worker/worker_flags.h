// The flags of every process that runs a model.
#pragma once

#include <CLI/CLI.hpp>

#include "services/worker/worker.h"

namespace chorale {

void AddWorkerFlags(CLI::App& app, WorkerOptions& options);

}  // namespace chorale
