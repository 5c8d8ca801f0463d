// The subcommands of `chorale`. Each Add... declares one on `app`, and sets `chosen` to what it
// does when the command line names it; main() then runs that.
//
// What a command is asked for goes to stdout; progress, timing and errors go to stderr. Exit codes:
// 0 done, 1 failed, 2 bad flags or configuration, 130 interrupted.
#pragma once

#include <functional>

#include <CLI/CLI.hpp>

#include "absl/status/status.h"

namespace chorale::cli {

inline constexpr int kExitFailed = 1;
inline constexpr int kExitBadConfiguration = 2;

using Command = std::function<int()>;

void AddUp(CLI::App& app, Command& chosen);
void AddRun(CLI::App& app, Command& chosen);
void AddDown(CLI::App& app, Command& chosen);
void AddStatus(CLI::App& app, Command& chosen);
void AddCache(CLI::App& app, Command& chosen);
void AddModels(CLI::App& app, Command& chosen);
void AddGenerate(CLI::App& app, Command& chosen);
void AddChat(CLI::App& app, Command& chosen);
void AddDemo(CLI::App& app, Command& chosen);
void AddConvert(CLI::App& app, Command& chosen);
void AddBench(CLI::App& app, Command& chosen);

// Prints the error on stderr and gives the exit code that fits it.
int Fail(const absl::Status& status);

}  // namespace chorale::cli
