// The life of a worker process: listen, join the cluster, load the weights, serve, drain.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/impl/service_type.h>

#include "chorale/v1/control.pb.h"
#include "services/common/process.h"
#include "services/worker/worker.h"

namespace chorale {

struct WorkerProcessOptions {
  ProcessOptions process;
  WorkerOptions worker;
  std::string orchestrator;  // address; empty: stand alone
  std::string worker_id;     // empty: role and process id
};

// Parses the flags of a worker process; `add_flags` may add the role's own. Exits the process on
// --help and on bad flags.
WorkerProcessOptions ParseWorkerFlags(int argc, char** argv, const std::string& description,
                                      const std::function<void(CLI::App&)>& add_flags = nullptr);

// Runs until SIGTERM; `services` are the role's gRPC services over `worker`. Returns the exit code.
int RunWorkerProcess(const WorkerProcessOptions& options, v1::Role role, Worker& worker,
                     const std::vector<grpc::Service*>& services);

}  // namespace chorale
