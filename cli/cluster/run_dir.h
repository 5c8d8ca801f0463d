// The run folder of a cluster, and cluster.json in it: what `chorale up` started, so that the other
// commands find it and `chorale down` ends exactly that.
//
//   RUN_DIR/cluster.json   processes, addresses       RUN_DIR/logs/NAME.log
//   RUN_DIR/lock           held by up and down        RUN_DIR/sockets/NAME.sock
//   RUN_DIR/stores/NAME    blocks; they outlive a cluster, and the next one finds them
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/cluster/processes.h"

namespace chorale::cli {

struct ProcessRecord {
  std::string name;  // "orchestrator", "store-0", "prefill-0", "decode-1", "router"
  ProcessIdentity identity;
  std::string binary;
  std::string log;
  std::string address;  // of its gRPC services; empty until it listens
  std::string http;     // of the router
  std::string metrics;  // host:port of /metrics; empty: not served

  bool operator==(const ProcessRecord&) const = default;
};

struct ClusterRecord {
  std::string boot_id;
  int64_t started_unix_s = 0;
  std::string model;       // the first model's name, for the canary and examples
  std::string socket_dir;  // empty: TCP only
  int prefill_workers = 0;
  int decode_workers = 0;
  std::vector<ProcessRecord> processes;  // in the order they were started

  bool operator==(const ClusterRecord&) const = default;

  // Null when there is none of this name.
  const ProcessRecord* Find(const std::string& name) const;
};

// By its name.
bool IsStore(const ProcessRecord& process);

// `flag` if given, else $CHORALE_RUN_DIR, else .chorale.
std::string ResolveRunDir(const std::string& flag);

// NotFound (naming the folder and what to do) when there is no record; InvalidArgument when it is
// not one of ours.
absl::StatusOr<ClusterRecord> ReadCluster(const std::string& run_dir);
// Atomic: a reader sees the old record or the new one.
absl::Status WriteCluster(const std::string& run_dir, const ClusterRecord& cluster);

// What has become of a recorded process; one of an earlier boot has ended.
ProcessState StateOf(const ClusterRecord& cluster, const ProcessRecord& process);
// The names of the recorded processes that still run.
std::vector<std::string> Running(const ClusterRecord& cluster);

// Held while a command changes what runs. Released with its scope.
class RunDirLock {
 public:
  // Creates the folder if need be. FailedPrecondition when another command holds the lock.
  static absl::StatusOr<RunDirLock> Take(const std::string& run_dir);
  RunDirLock(RunDirLock&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  RunDirLock& operator=(RunDirLock&&) = delete;
  ~RunDirLock();

 private:
  explicit RunDirLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace chorale::cli
