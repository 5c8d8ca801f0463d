// The whole of Chorale in one process: the router's front door over one engine. It is the judge: a
// cluster's tokens are compared with those of this process.
#pragma once

#include "process/process.h"
#include "services/gateway/front_door.h"
#include "services/worker/worker.h"

namespace chorale {

struct SingleOptions {
  ProcessOptions process;
  FrontDoorOptions front_door;  // grpc is taken from process.listen
  WorkerOptions worker;
};

// Loads the model and serves until SIGTERM or SIGINT, which BlockTerminationSignals has blocked.
// Returns the exit code.
int RunSingle(SingleOptions options);

}  // namespace chorale
