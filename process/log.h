// Log lines on stderr: time, level, message. Thread safe; one line is one write.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace chorale {

enum class LogLevel { kInfo, kWarning, kError };

// Lines below the level are dropped from now on. InvalidArgument unless `name` is info, warning or
// error.
absl::Status SetLogLevel(const std::string& name);

void LogLine(LogLevel level, const std::string& message);

template <typename... Parts>
void LogInfo(const Parts&... parts) {
  LogLine(LogLevel::kInfo, absl::StrCat(parts...));
}
template <typename... Parts>
void LogWarning(const Parts&... parts) {
  LogLine(LogLevel::kWarning, absl::StrCat(parts...));
}
template <typename... Parts>
void LogError(const Parts&... parts) {
  LogLine(LogLevel::kError, absl::StrCat(parts...));
}

}  // namespace chorale
