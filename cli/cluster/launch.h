// Launch: the processes of one cluster on this machine, from nothing to all of them listening.
//
//   orchestrator --> store-0 ... --> prefill-0 ... decode-0 decode-1 ... router
//
// Every process is in cluster.json before its program runs. One thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/cluster/run_dir.h"

namespace chorale::cli {

struct LaunchOptions {
  std::string run_dir;
  std::string bin_dir;                // holds chorale-orchestrator and the others
  std::string models;                 // a chorale.yaml or its folder; or else:
  std::string model;                  // NAME=FOLDER
  std::vector<std::string> adapters;  // NAME=FOLDER
  int prefill = 1;
  int decode = 2;
  int stores = 0;                // of K/V blocks; they keep them in RUN_DIR/stores
  int64_t store_dram_mib = 256;  // of each
  int64_t store_disk_mib = 4096;
  std::string redis;     // URL, for the stores and the router; empty: none
  bool metrics = false;  // every process serves /metrics on a port of its own
  bool tcp = false;      // between the processes; else unix sockets
  std::string http = "127.0.0.1:8080";
  std::string grpc = "127.0.0.1:8081";
  std::string generation_config = "model";  // where unset sampling fields come from, or off
  std::vector<std::string> worker_flags;  // passed on as they are
};

// The folder of the running program: the other programs of Chorale lie beside it.
std::string OwnBinDir();
// models/<name> of the source tree or share/chorale/models/<name> of the installation around
// `bin_dir`.
absl::StatusOr<std::string> FindShippedModels(const std::string& bin_dir, const std::string& name);
// FailedPrecondition when something listens on host:port already. unix: addresses are not checked.
absl::Status CheckAddressFree(const std::string& flag, const std::string& address);
// What must hold before anything is started; the error says what to change.
absl::Status CheckLaunch(const LaunchOptions& options);
// The first model that the options name.
absl::StatusOr<std::string> FirstModel(const LaunchOptions& options);

class Launch {
 public:
  explicit Launch(LaunchOptions options);

  // Starts everything and returns when every process listens. Cancelled when `interrupted` says so;
  // Unavailable, with the end of its log, when a process ends; DeadlineExceeded at `deadline`.
  absl::Status Start(absl::Time deadline, const std::function<bool()>& interrupted);
  // Unavailable, with the end of its log, when some process has ended.
  absl::Status CheckRunning() const;

  const ClusterRecord& cluster() const { return cluster_; }

 private:
  absl::Status PrepareFolders();
  absl::Status StartProcess(const std::string& name, const std::string& program,
                            const std::vector<std::string>& flags);
  void AddRedis(std::vector<std::string>& flags) const;
  absl::Status StartStore(const std::string& name);
  absl::Status StartWorker(const std::string& name, const std::string& program);
  absl::Status AwaitAddress(const std::string& name);
  std::string AddressFile(const std::string& name) const;
  std::string ListenAddress(const std::string& name) const;

  const LaunchOptions options_;
  const std::string root_;  // the run folder, absolute
  ClusterRecord cluster_;
  absl::Time deadline_;
  std::function<bool()> interrupted_;
};

}  // namespace chorale::cli
