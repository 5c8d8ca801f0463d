// Processes that outlive the command that started them, and how to be sure of them later.
//
// A pid alone names nothing: the kernel hands it out again. With the time the process started, in
// clock ticks since boot, it names one process for as long as the machine runs. Signals go through
// a pidfd that is opened before the start time is compared, so they reach that process or none.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace chorale::cli {

struct ProcessIdentity {
  int64_t pid = 0;
  int64_t start_ticks = 0;

  bool operator==(const ProcessIdentity&) const = default;
};

enum class ProcessState {
  kRunning,
  kEnded,     // no such pid, or a zombie
  kStranger,  // the pid belongs to another process by now
};

// NotFound when no process has this pid.
absl::StatusOr<ProcessIdentity> IdentityOf(int64_t pid);
ProcessState StateOf(const ProcessIdentity& process);

// Differs after every boot of the machine; identities of another boot mean nothing.
std::string BootId();

// Sends `signal` to this very process. False when it has ended.
bool Signal(const ProcessIdentity& process, int signal);

// Waits until the process has ended; false when it still runs at `deadline`.
bool WaitEnded(const ProcessIdentity& process, absl::Time deadline);

// Starts command[0] in a session of its own, with stdin from /dev/null and stdout and stderr
// appended to `log_path`. `record` gets the new process's identity before the program runs; when it
// fails, or this process dies in it, the program never runs. So nothing runs that is not recorded.
absl::StatusOr<ProcessIdentity> Spawn(
    const std::vector<std::string>& command, const std::string& log_path,
    const std::function<absl::Status(const ProcessIdentity&)>& record);

// "exit code 2" or "signal 11" of an ended child of this process; "" when that cannot be known.
std::string HowEnded(int64_t pid);

// The last `lines_max` lines of a file; "" when it cannot be read.
std::string LastLines(const std::string& path, int lines_max);

}  // namespace chorale::cli
