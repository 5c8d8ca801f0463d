#include "cli/cluster/run_dir.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/json.h"
#include "base/status_macros.h"

namespace chorale::cli {
namespace {

constexpr int64_t kFormat = 1;

std::string ClusterPath(const std::string& run_dir) { return run_dir + "/cluster.json"; }

Json ToJson(const ProcessRecord& process) {
  return {{"name", process.name},
          {"pid", process.identity.pid},
          {"start_ticks", process.identity.start_ticks},
          {"binary", process.binary},
          {"log", process.log},
          {"address", process.address},
          {"http", process.http},
          {"metrics", process.metrics}};
}

absl::StatusOr<ProcessRecord> ProcessFromJson(const Json& json) {
  ProcessRecord process;
  ASSIGN_OR_RETURN(process.name, JsonString(json, "name"));
  ASSIGN_OR_RETURN(process.identity.pid, JsonInt(json, "pid"));
  ASSIGN_OR_RETURN(process.identity.start_ticks, JsonInt(json, "start_ticks"));
  ASSIGN_OR_RETURN(process.binary, JsonString(json, "binary", ""));
  ASSIGN_OR_RETURN(process.log, JsonString(json, "log", ""));
  ASSIGN_OR_RETURN(process.address, JsonString(json, "address", ""));
  ASSIGN_OR_RETURN(process.http, JsonString(json, "http", ""));
  ASSIGN_OR_RETURN(process.metrics, JsonString(json, "metrics", ""));
  // kill(2) reads 0, -1 and other negatives as groups of processes.
  if (process.identity.pid <= 1 || process.identity.pid > INT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'pid': %d is not the pid of a process that `chorale up` started",
                        process.identity.pid));
  }
  return process;
}

absl::StatusOr<ClusterRecord> FromJson(const Json& json) {
  ASSIGN_OR_RETURN(const int64_t format, JsonInt(json, "format"));
  if (format != kFormat) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'format': %d, but this program reads %d; use the `chorale` that wrote it", format,
        kFormat));
  }
  ClusterRecord cluster;
  ASSIGN_OR_RETURN(cluster.boot_id, JsonString(json, "boot_id"));
  ASSIGN_OR_RETURN(cluster.started_unix_s, JsonInt(json, "started_unix_s"));
  ASSIGN_OR_RETURN(cluster.model, JsonString(json, "model"));
  ASSIGN_OR_RETURN(cluster.socket_dir, JsonString(json, "socket_dir", ""));
  ASSIGN_OR_RETURN(cluster.prefill_workers, JsonInt(json, "prefill_workers"));
  ASSIGN_OR_RETURN(cluster.decode_workers, JsonInt(json, "decode_workers"));
  const auto processes = json.find("processes");
  if (processes == json.end() || !processes->is_array()) {
    return absl::InvalidArgumentError("field 'processes': expected an array");
  }
  for (const Json& each : *processes) {
    ASSIGN_OR_RETURN(ProcessRecord process, ProcessFromJson(each));
    cluster.processes.push_back(std::move(process));
  }
  return cluster;
}

}  // namespace

const ProcessRecord* ClusterRecord::Find(const std::string& name) const {
  for (const ProcessRecord& process : processes) {
    if (process.name == name) return &process;
  }
  return nullptr;
}

bool IsStore(const ProcessRecord& process) { return absl::StartsWith(process.name, "store-"); }

std::string ResolveRunDir(const std::string& flag) {
  if (!flag.empty()) return flag;
  const char* from_environment = std::getenv("CHORALE_RUN_DIR");
  return from_environment != nullptr && *from_environment != '\0' ? from_environment : ".chorale";
}

absl::StatusOr<ClusterRecord> ReadCluster(const std::string& run_dir) {
  const std::string path = ClusterPath(run_dir);
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(absl::StrFormat(
        "no cluster in %s: start one with `chorale up`, or name its folder with --run-dir",
        run_dir));
  }
  ASSIGN_OR_RETURN(const Json json, ParseJsonFile(path));
  absl::StatusOr<ClusterRecord> cluster = FromJson(json);
  if (!cluster.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", cluster.status().message()));
  }
  return cluster;
}

absl::Status WriteCluster(const std::string& run_dir, const ClusterRecord& cluster) {
  Json json = {{"format", kFormat},
               {"boot_id", cluster.boot_id},
               {"started_unix_s", cluster.started_unix_s},
               {"model", cluster.model},
               {"socket_dir", cluster.socket_dir},
               {"prefill_workers", cluster.prefill_workers},
               {"decode_workers", cluster.decode_workers},
               {"processes", Json::array()}};
  for (const ProcessRecord& process : cluster.processes) {
    json["processes"].push_back(ToJson(process));
  }
  const std::string path = ClusterPath(run_dir);
  const std::string partial = path + ".partial";
  std::ofstream out(partial, std::ios::trunc);
  out << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
  out.close();
  if (const int fd = open(partial.c_str(), O_WRONLY | O_CLOEXEC); fd >= 0) {
    fsync(fd);  // a crash leaves the old file or the new one, never an empty one
    close(fd);
  }
  std::error_code error;
  if (out) std::filesystem::rename(partial, path, error);
  if (!out || error) {
    return absl::UnavailableError(
        absl::StrFormat("%s cannot be written; is the disk full or the folder read-only?", path));
  }
  return absl::OkStatus();
}

ProcessState StateOf(const ClusterRecord& cluster, const ProcessRecord& process) {
  return cluster.boot_id == BootId() ? StateOf(process.identity) : ProcessState::kEnded;
}

std::vector<std::string> Running(const ClusterRecord& cluster) {
  std::vector<std::string> names;
  for (const ProcessRecord& process : cluster.processes) {
    if (StateOf(cluster, process) == ProcessState::kRunning) names.push_back(process.name);
  }
  return names;
}

absl::StatusOr<RunDirLock> RunDirLock::Take(const std::string& run_dir) {
  std::error_code error;
  std::filesystem::create_directories(run_dir, error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--run-dir %s: %s", run_dir, error.message()));
  }
  const std::string path = run_dir + "/lock";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s", path, strerror(errno)));
  }
  RunDirLock lock(fd);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "another `chorale up` or `chorale down` is at work in %s: wait for it to end", run_dir));
  }
  return lock;
}

RunDirLock::~RunDirLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace chorale::cli
