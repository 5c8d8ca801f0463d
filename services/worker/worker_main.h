// The life of a worker process: listen, join the cluster, load the weights, serve, drain.
#pragma once

#include <string>
#include <vector>

#include <grpcpp/impl/service_type.h>

#include "chorale/v1/control.pb.h"
#include "process/process.h"
#include "services/worker/worker.h"
#include "services/worker/worker_blocks.h"

namespace chorale {

struct WorkerProcessOptions {
  ProcessOptions process;
  WorkerOptions worker;
  WorkerBlocksOptions blocks;
  std::string orchestrator;  // address; empty: stand alone
  std::string worker_id;
};

// Parses the flags of a worker process. Exits the process on --help and on bad flags.
WorkerProcessOptions ParseWorkerFlags(int argc, char** argv, v1::Role role,
                                      const std::string& description);

// Runs until SIGTERM; `service` is the role's gRPC service over `worker`, whose blocks are `blocks`.
// Returns the exit code.
int RunWorkerProcess(const WorkerProcessOptions& options, v1::Role role, Worker& worker,
                     WorkerBlocks& blocks, grpc::Service& service);

}  // namespace chorale
