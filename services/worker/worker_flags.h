// The flags of every process that runs a model.
#pragma once

#include <CLI/CLI.hpp>

#include "services/worker/worker.h"

namespace chorale {

// `model_required`: whether --models or --model must be given.
void AddWorkerFlags(CLI::App& app, WorkerOptions& options, bool model_required = true);

}  // namespace chorale
