#include "cli/cluster/stop.h"

#include <filesystem>

#include <signal.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace chorale::cli {
namespace {

namespace fs = std::filesystem;

// How long a killed process may take to disappear.
constexpr absl::Duration kKillWait = absl::Seconds(5);

// 0 stops first. What serves others outlives them.
int StopGroup(const ProcessRecord& process) {
  if (process.name == "router") return 0;
  return process.name == "orchestrator" || IsStore(process) ? 2 : 1;
}

void StopGroupOf(const ClusterRecord& cluster, int group, absl::Duration grace,
                 StopReport& report) {
  std::vector<const ProcessRecord*> told;
  for (const ProcessRecord& process : cluster.processes) {
    if (StopGroup(process) != group) continue;
    const ProcessState state = StateOf(cluster, process);
    if (state == ProcessState::kStranger) {
      report.strangers.push_back(process.name);
    } else if (state == ProcessState::kRunning && Signal(process.identity, SIGTERM)) {
      told.push_back(&process);
    } else {
      report.gone.push_back(process.name);
    }
  }
  const absl::Time deadline = absl::Now() + grace;
  for (const ProcessRecord* process : told) {
    if (WaitEnded(process->identity, deadline)) {
      report.ended.push_back(process->name);
      continue;
    }
    Signal(process->identity, SIGKILL);
    WaitEnded(process->identity, absl::Now() + kKillWait);
    report.killed.push_back(process->name);
  }
}

}  // namespace

StopReport StopProcesses(const ClusterRecord& cluster, absl::Duration grace) {
  StopReport report;
  for (int group = 0; group < 3; ++group) StopGroupOf(cluster, group, grace, report);
  return report;
}

void RemoveTraces(const std::string& run_dir, const ClusterRecord& cluster) {
  std::error_code ignored;  // each may be gone already
  for (const ProcessRecord& process : cluster.processes) {
    fs::remove(absl::StrCat(run_dir, "/addresses/", process.name), ignored);
    if (!cluster.socket_dir.empty()) {
      fs::remove(absl::StrCat(cluster.socket_dir, "/", process.name, ".sock"), ignored);
    }
  }
  fs::remove(run_dir + "/addresses", ignored);
  if (!cluster.socket_dir.empty()) fs::remove(cluster.socket_dir, ignored);
  fs::remove(run_dir + "/cluster.json", ignored);
}

}  // namespace chorale::cli
