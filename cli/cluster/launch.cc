#include "cli/cluster/launch.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "model/catalog.h"
#include "process/named_folder.h"

namespace chorale::cli {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kPollInterval = absl::Milliseconds(20);
constexpr int kLogLinesShown = 12;
// sockaddr_un holds 107 characters; names of processes need some of them.
constexpr size_t kSocketDirCharactersMax = 80;

absl::Status CheckNamedFolder(const std::string& flag, const std::string& text,
                              const std::string& file) {
  ASSIGN_OR_RETURN(const NamedFolder named, ParseNamedFolder(flag, text));
  std::error_code error;
  if (!fs::exists(fs::path(named.folder) / file, error)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s %s: %s has no %s; name the folder of a Hugging Face checkpoint or a PEFT "
        "adapter",
        flag, text, named.folder, file));
  }
  return absl::OkStatus();
}

// NAME=FOLDER, checked before, with the folder absolute, for processes that may run elsewhere.
std::string AbsoluteNamedFolder(const std::string& text) {
  const NamedFolder named = *ParseNamedFolder("", text);
  return absl::StrCat(named.name, "=", fs::absolute(named.folder).lexically_normal().string());
}

// The ADDRESS of a line KEY=ADDRESS; "" when there is none.
std::string AddressIn(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  std::string line;
  while (std::getline(in, line)) {
    if (absl::StartsWith(line, key + "=")) return line.substr(key.size() + 1);
  }
  return "";
}

std::string StoreName(int i) { return absl::StrCat("store-", i); }

absl::Status Ended(const ProcessRecord& process) {
  const std::string how = HowEnded(process.identity.pid);
  const std::string tail = LastLines(process.log, kLogLinesShown);
  return absl::UnavailableError(absl::StrFormat(
      "%s ended while the cluster was starting%s. The end of %s:\n%s", process.name,
      how.empty() ? "" : " (" + how + ")", process.log, tail.empty() ? "(nothing)" : tail));
}

}  // namespace

std::string OwnBinDir() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path().string();
}

absl::StatusOr<std::string> FindShippedModels(const std::string& bin_dir, const std::string& name) {
  for (fs::path folder = bin_dir; !folder.empty(); folder = folder.parent_path()) {
    for (const char* place : {"share/chorale/models", "models"}) {
      std::error_code error;
      const fs::path found = folder / place / name;
      for (const char* file : {"config.json", "chorale.yaml"}) {
        if (fs::exists(found / file, error)) return found.string();
      }
    }
    if (folder == folder.root_path()) break;
  }
  return absl::NotFoundError(
      absl::StrFormat("the shipped models/%s are not near %s: name others with --models FOLDER, or "
                      "one with --model NAME=FOLDER where the command takes it",
                      name, bin_dir));
}

absl::StatusOr<std::string> FirstModel(const LaunchOptions& options) {
  if (options.models.empty()) {
    ASSIGN_OR_RETURN(const NamedFolder named, ParseNamedFolder("--model", options.model));
    return named.name;
  }
  ASSIGN_OR_RETURN(const CatalogSpec catalog, ReadCatalog(options.models));
  return catalog.models.front().name;
}

absl::Status CheckAddressFree(const std::string& flag, const std::string& address) {
  if (absl::StartsWith(address, "unix:")) return absl::OkStatus();
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) ||
      port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s '%s': expected HOST:PORT, for example 127.0.0.1:8080", flag, address));
  }
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  const addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), absl::StrCat(port).c_str(), &hints, &found) != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s '%s': '%s' is not a host of this machine", flag, address, host));
  }
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int reuse = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
  const bool is_free = bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, 1) == 0;
  const int error = errno;
  close(fd);
  freeaddrinfo(found);
  if (is_free) return absl::OkStatus();
  if (error == EADDRINUSE) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s %s is in use by another program: stop it, or choose another address with %s (port 0 "
        "picks a free one)",
        flag, address, flag));
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("%s %s: %s", flag, address, std::generic_category().message(error)));
}

absl::Status CheckLaunch(const LaunchOptions& options) {
  std::vector<const char*> programs = {"chorale-orchestrator", "chorale-prefill", "chorale-decode",
                                       "chorale-router"};
  if (options.stores > 0) programs.push_back("chorale-kvstore");
  for (const char* program : programs) {
    if (access(absl::StrCat(options.bin_dir, "/", program).c_str(), X_OK) != 0) {
      return absl::NotFoundError(absl::StrFormat(
          "%s/%s is missing: build all of Chorale, or install it whole", options.bin_dir, program));
    }
  }
  RETURN_IF_ERROR(FirstModel(options).status());
  if (options.models.empty()) {
    RETURN_IF_ERROR(CheckNamedFolder("--model", options.model, "config.json"));
  }
  for (const std::string& adapter : options.adapters) {
    RETURN_IF_ERROR(CheckNamedFolder("--adapter", adapter, "adapter_config.json"));
  }
  RETURN_IF_ERROR(CheckAddressFree("--http", options.http));
  return CheckAddressFree("--grpc", options.grpc);
}

Launch::Launch(LaunchOptions options)
    : options_(std::move(options)),
      root_(fs::absolute(options_.run_dir).lexically_normal().string()) {}

absl::Status Launch::Start(absl::Time deadline, const std::function<bool()>& interrupted) {
  deadline_ = deadline;
  interrupted_ = interrupted;
  RETURN_IF_ERROR(PrepareFolders());
  RETURN_IF_ERROR(StartProcess("orchestrator", "chorale-orchestrator",
                               {"--listen", ListenAddress("orchestrator")}));
  RETURN_IF_ERROR(AwaitAddress("orchestrator"));
  for (int i = 0; i < options_.stores; ++i) {
    RETURN_IF_ERROR(StartStore(StoreName(i)));
  }
  for (int i = 0; i < options_.stores; ++i) {  // the workers are told where they listen
    RETURN_IF_ERROR(AwaitAddress(StoreName(i)));
  }
  for (int i = 0; i < options_.prefill; ++i) {
    RETURN_IF_ERROR(StartWorker(absl::StrCat("prefill-", i), "chorale-prefill"));
  }
  for (int i = 0; i < options_.decode; ++i) {
    RETURN_IF_ERROR(StartWorker(absl::StrCat("decode-", i), "chorale-decode"));
  }
  std::vector<std::string> router_flags = {
      "--listen",
      options_.grpc,
      "--http",
      options_.http,
      "--orchestrator",
      cluster_.Find("orchestrator")->address,
      "--generation-config",
      options_.generation_config,
  };
  AddRedis(router_flags);
  RETURN_IF_ERROR(StartProcess("router", "chorale-router", router_flags));
  for (size_t i = 1; i < cluster_.processes.size(); ++i) {
    RETURN_IF_ERROR(AwaitAddress(cluster_.processes[i].name));
  }
  return absl::OkStatus();
}

absl::Status Launch::CheckRunning() const {
  for (const ProcessRecord& process : cluster_.processes) {
    if (StateOf(cluster_, process) != ProcessState::kRunning) return Ended(process);
  }
  return absl::OkStatus();
}

absl::Status Launch::PrepareFolders() {
  ASSIGN_OR_RETURN(const std::string first_model, FirstModel(options_));
  std::error_code error;
  fs::create_directories(root_ + "/logs", error);
  if (!error) fs::create_directories(root_ + "/addresses", error);
  std::string socket_dir;
  if (!options_.tcp && !error) {
    socket_dir = root_ + "/sockets";
    if (socket_dir.size() <= kSocketDirCharactersMax) {
      fs::create_directories(socket_dir, error);
    } else {
      socket_dir = "/tmp/chorale-XXXXXX";
      if (mkdtemp(socket_dir.data()) == nullptr) error.assign(errno, std::generic_category());
    }
  }
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--run-dir %s: %s", options_.run_dir, error.message()));
  }
  cluster_ = {.boot_id = BootId(),
              .started_unix_s = absl::ToUnixSeconds(absl::Now()),
              .model = first_model,
              .socket_dir = socket_dir,
              .prefill_workers = options_.prefill,
              .decode_workers = options_.decode};
  return WriteCluster(root_, cluster_);
}

absl::Status Launch::StartProcess(const std::string& name, const std::string& program,
                                  const std::vector<std::string>& flags) {
  ProcessRecord process = {.name = name,
                           .binary = absl::StrCat(options_.bin_dir, "/", program),
                           .log = absl::StrCat(root_, "/logs/", name, ".log")};
  std::error_code ignored;  // neither need exist
  fs::remove(process.log, ignored);
  fs::remove(AddressFile(name), ignored);
  std::vector<std::string> command = {process.binary, "--address-file", AddressFile(name)};
  if (options_.metrics) command.insert(command.end(), {"--metrics", "127.0.0.1:0"});
  command.insert(command.end(), flags.begin(), flags.end());
  return Spawn(command, process.log,
               [&](const ProcessIdentity& identity) {
                 process.identity = identity;
                 cluster_.processes.push_back(process);
                 return WriteCluster(root_, cluster_);
               })
      .status();
}

void Launch::AddRedis(std::vector<std::string>& flags) const {
  if (!options_.redis.empty()) flags.insert(flags.end(), {"--redis", options_.redis});
}

absl::Status Launch::StartStore(const std::string& name) {
  const std::string folder = absl::StrCat(root_, "/stores/", name);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s", folder, error.message()));
  }
  std::vector<std::string> flags = {"--listen",   ListenAddress(name),
                                    "--dram-mib", absl::StrCat(options_.store_dram_mib),
                                    "--disk-mib", absl::StrCat(options_.store_disk_mib)};
  if (options_.store_disk_mib > 0) flags.insert(flags.end(), {"--dir", folder});
  AddRedis(flags);
  return StartProcess(name, "chorale-kvstore", flags);
}

absl::Status Launch::StartWorker(const std::string& name, const std::string& program) {
  std::vector<std::string> flags = {"--listen",       ListenAddress(name),
                                    "--orchestrator", cluster_.Find("orchestrator")->address,
                                    "--worker-id",    name};
  if (options_.models.empty()) {
    flags.insert(flags.end(), {"--model", AbsoluteNamedFolder(options_.model)});
  } else {
    flags.insert(flags.end(), {"--models", fs::absolute(options_.models).string()});
  }
  for (const std::string& adapter : options_.adapters) {
    flags.push_back("--adapter");
    flags.push_back(AbsoluteNamedFolder(adapter));
  }
  for (int i = 0; i < options_.stores; ++i) {
    flags.insert(flags.end(), {"--store", cluster_.Find(StoreName(i))->address});
  }
  flags.insert(flags.end(), options_.worker_flags.begin(), options_.worker_flags.end());
  return StartProcess(name, program, flags);
}

absl::Status Launch::AwaitAddress(const std::string& name) {
  const std::string path = AddressFile(name);
  while (AddressIn(path, "grpc").empty()) {
    if (interrupted_()) return absl::CancelledError("interrupted");
    RETURN_IF_ERROR(CheckRunning());
    if (absl::Now() >= deadline_) {
      return absl::DeadlineExceededError(absl::StrFormat(
          "%s does not listen yet: see %s/logs, or allow more with --timeout-seconds", name,
          options_.run_dir));
    }
    absl::SleepFor(kPollInterval);
  }
  for (ProcessRecord& process : cluster_.processes) {
    if (process.name != name) continue;
    process.address = AddressIn(path, "grpc");
    process.http = AddressIn(path, "http");
    process.metrics = AddressIn(path, "metrics");
  }
  return WriteCluster(root_, cluster_);
}

std::string Launch::AddressFile(const std::string& name) const {
  return absl::StrCat(root_, "/addresses/", name);
}

std::string Launch::ListenAddress(const std::string& name) const {
  return options_.tcp ? "127.0.0.1:0"
                      : absl::StrCat("unix:", cluster_.socket_dir, "/", name, ".sock");
}

}  // namespace chorale::cli
