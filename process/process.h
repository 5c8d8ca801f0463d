// What the main() of every Chorale process does alike: flags that all have, signals, the file that
// tells others where it listens, exit codes.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/status/status.h"

namespace chorale {

inline constexpr int kExitBadConfiguration = 2;

struct ProcessOptions {
  std::string listen = "127.0.0.1:0";
  std::string address_file;
  std::string metrics;  // HOST:PORT for Prometheus; empty: none
  std::string log_level = "info";
  double drain_seconds = 10;  // how long SIGTERM lets running calls go on
};

void AddProcessFlags(CLI::App& app, ProcessOptions& options);
// Parses the command line, sets the log level and logs what the options come to. The exit code to
// end with, when there is nothing to run.
std::optional<int> ParseCommandLine(CLI::App& app, int argc, char** argv,
                                    const ProcessOptions& options);

// Blocks SIGTERM and SIGINT in this thread and all it starts; call first in main().
void BlockTerminationSignals();
// Waits for SIGTERM or SIGINT, or until `stop` (polled every 100 ms) says so; null: never. True
// when it was a signal, which is spent then.
bool WaitForTermination(const std::function<bool()>& stop = nullptr);

// Writes lines of NAME=ADDRESS, atomically, for whoever started this process.
absl::Status WriteAddressFile(const std::string& path, const std::vector<std::string>& lines);

// Logs the error and gives the exit code that fits: 2 for a bad configuration, else 1.
int ExitCodeOf(const absl::Status& status);

}  // namespace chorale
