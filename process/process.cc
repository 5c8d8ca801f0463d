#include "process/process.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <regex>

#include <signal.h>

#include "absl/strings/str_format.h"
#include "process/log.h"

namespace chorale {
namespace {

sigset_t TerminationSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

// Those of --redis, before the @ or as a parameter.
std::string WithoutPasswords(const std::string& text) {
  static const std::regex login("redis=\"[^\"]*@");
  static const std::regex parameter("password=[^&\"]*");
  return std::regex_replace(std::regex_replace(text, login, "redis=\"(hidden)@"), parameter,
                            "password=(hidden)");
}

}  // namespace

void AddProcessFlags(CLI::App& app, ProcessOptions& options) {
  app.add_option("--listen", options.listen, "gRPC address: host:port (0 picks one) or unix:/path")
      ->capture_default_str();
  app.add_option("--address-file", options.address_file, "write the listening addresses here");
  app.add_option("--metrics", options.metrics,
                 "host:port (0 picks one) of /metrics for Prometheus; without it there is none");
  app.add_option("--log-level", options.log_level, "info, warning or error")->capture_default_str();
  app.add_option("--drain-seconds", options.drain_seconds, "how long SIGTERM lets calls finish")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 3600.0));
}

std::optional<int> ParseCommandLine(CLI::App& app, int argc, char** argv,
                                    const ProcessOptions& options) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitBadConfiguration;
  }
  if (absl::Status status = SetLogLevel(options.log_level); !status.ok()) return ExitCodeOf(status);
  std::string text = app.config_to_str(/*default_also=*/true);
  std::replace(text.begin(), text.end(), '\n', ' ');
  LogInfo("options: ", WithoutPasswords(text));
  return std::nullopt;
}

void BlockTerminationSignals() {
  const sigset_t set = TerminationSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

bool WaitForTermination(const std::function<bool()>& stop) {
  const sigset_t set = TerminationSignals();
  const timespec poll = {.tv_sec = 0, .tv_nsec = 100'000'000};
  do {
    if (stop && stop()) return false;
  } while (sigtimedwait(&set, nullptr, &poll) < 0);
  return true;
}

absl::Status WriteAddressFile(const std::string& path, const std::vector<std::string>& lines) {
  if (path.empty()) return absl::OkStatus();
  const std::string partial = path + ".partial";
  {
    std::ofstream out(partial);
    for (const std::string& line : lines) out << line << "\n";
    if (!out.flush()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--address-file %s: cannot be written", path));
    }
  }
  std::error_code error;
  std::filesystem::rename(partial, path, error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--address-file %s: %s", path, error.message()));
  }
  return absl::OkStatus();
}

int ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return 0;
  LogError(status.message());
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kUnimplemented:
      return kExitBadConfiguration;
    default:
      return 1;
  }
}

}  // namespace chorale
