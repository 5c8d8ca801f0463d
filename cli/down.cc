// `chorale down`: ends exactly what `chorale up` started.
#include <algorithm>
#include <memory>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "cli/client.h"
#include "cli/cluster/stop.h"
#include "cli/commands.h"

namespace chorale::cli {
namespace {

struct DownOptions {
  ClusterFlags cluster;
  int grace_s = 15;
};

absl::Status Down(const DownOptions& options) {
  const std::string run_dir = ResolveRunDir(options.cluster.run_dir);
  if (const auto cluster = ReadCluster(run_dir); absl::IsNotFound(cluster.status())) {
    absl::PrintF("No cluster in %s.\n", run_dir);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const RunDirLock lock, RunDirLock::Take(run_dir));
  ASSIGN_OR_RETURN(const ClusterRecord cluster, ReadCluster(run_dir));
  const StopReport report = StopProcesses(cluster, absl::Seconds(options.grace_s));
  if (!report.killed.empty()) {
    absl::FPrintF(stderr, "chorale: killed after %d s, for they did not end by themselves: %s\n",
                  options.grace_s, absl::StrJoin(report.killed, ", "));
  }
  if (!report.strangers.empty()) {
    absl::FPrintF(stderr, "chorale: left alone, for their pid is another process's by now: %s\n",
                  absl::StrJoin(report.strangers, ", "));
  }
  if (const std::vector<std::string> running = Running(cluster); !running.empty()) {
    return absl::UnavailableError(absl::StrFormat(
        "still running: %s; give `chorale down` again, as the user who gave `chorale up`",
        absl::StrJoin(running, ", ")));
  }
  RemoveTraces(run_dir, cluster);
  const bool with_stores = std::any_of(cluster.processes.begin(), cluster.processes.end(), IsStore);
  absl::PrintF("Ended %d processes; %d had ended before. Logs stay in %s/logs%s.\n",
               report.ended.size() + report.killed.size(),
               report.gone.size() + report.strangers.size(), run_dir,
               with_stores ? ", stored blocks in " + run_dir + "/stores" : "");
  return absl::OkStatus();
}

}  // namespace

void AddDown(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<DownOptions>();
  CLI::App* down = app.add_subcommand("down", "end the cluster that `up` started");
  AddRunDirFlag(*down, options->cluster);
  down->add_option("--grace-seconds", options->grace_s, "for running calls, before SIGKILL")
      ->capture_default_str()
      ->check(CLI::Range(0, 3600));
  down->footer("Example: chorale down --grace-seconds 2");
  down->callback([options, &chosen] {
    chosen = [options] {
      const absl::Status status = Down(*options);
      return status.ok() ? 0 : Fail(status);
    };
  });
}

}  // namespace chorale::cli
