// What commands print: progress, tables, durations.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace chorale::cli {

// Progress of something that takes seconds, on stderr. On a terminal one line is redrawn; elsewhere
// a plain line is printed when the text changes.
class ProgressLine {
 public:
  ProgressLine();
  // Leaves the terminal line empty.
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // `fraction` in [0, 1].
  void Show(double fraction, const std::string& text);

 private:
  const bool is_terminal_;
  std::string text_;
};

// Columns padded to their widest cell, two spaces between; the first row is the head.
std::string Table(const std::vector<std::vector<std::string>>& rows);

// "12.3 ms", "4.56 s", "3 min 20 s".
std::string Readable(absl::Duration duration);

// "512 B", "1.5 KiB", "12.3 MiB", "4.0 GiB".
std::string ReadableBytes(int64_t bytes);

}  // namespace chorale::cli
