// Ending a cluster: exactly the processes its record names, front door first.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "cli/cluster/run_dir.h"

namespace chorale::cli {

struct StopReport {
  std::vector<std::string> ended;      // after SIGTERM
  std::vector<std::string> killed;     // after SIGKILL, for they outlived the grace
  std::vector<std::string> gone;       // had ended before
  std::vector<std::string> strangers;  // their pid is another process's by now: left alone
};

// Ends the router, then the workers, then the stores and the orchestrator; each group gets SIGTERM,
// `grace` to drain, and SIGKILL.
StopReport StopProcesses(const ClusterRecord& cluster, absl::Duration grace);

// Removes what the cluster left in its folder: sockets, address files and the record. Logs stay.
void RemoveTraces(const std::string& run_dir, const ClusterRecord& cluster);

}  // namespace chorale::cli
