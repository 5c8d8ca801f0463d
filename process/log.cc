#include "process/log.h"

#include <atomic>

#include <unistd.h>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace chorale {
namespace {

std::atomic<LogLevel> g_level = LogLevel::kInfo;

constexpr const char* kNames[] = {"info", "warning", "error"};

}  // namespace

absl::Status SetLogLevel(const std::string& name) {
  for (int i = 0; i < 3; ++i) {
    if (name == kNames[i]) {
      g_level = static_cast<LogLevel>(i);
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("--log-level '%s': expected info, warning or error", name));
}

void LogLine(LogLevel level, const std::string& message) {
  if (level < g_level) return;
  const std::string line = absl::StrFormat(
      "%s %s %s\n", absl::FormatTime("%Y-%m-%dT%H:%M:%E3S", absl::Now(), absl::UTCTimeZone()),
      kNames[static_cast<int>(level)], message);
  // A log that cannot be written must not stop the service.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace chorale
