#include "cli/output.h"

#include <algorithm>
#include <cstdio>
#include <iterator>

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace chorale::cli {
namespace {

constexpr int kBarWidth = 30;

}  // namespace

ProgressLine::ProgressLine() : is_terminal_(isatty(STDERR_FILENO)) {}

ProgressLine::~ProgressLine() {
  if (is_terminal_) fputs("\r\033[K", stderr);
}

void ProgressLine::Show(double fraction, const std::string& text) {
  if (!is_terminal_) {
    if (text == text_) return;
    text_ = text;
    absl::FPrintF(stderr, "%s\n", text);
    return;
  }
  const int filled = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * kBarWidth);
  absl::FPrintF(stderr, "\r\033[K[%s%s] %3d%%  %s", std::string(filled, '='),
                std::string(kBarWidth - filled, ' '), static_cast<int>(100 * fraction), text);
  fflush(stderr);
}

std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    if (widths.size() < row.size()) widths.resize(row.size());
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      absl::StrAppend(&line, row[i], std::string(widths[i] - row[i].size() + 2, ' '));
    }
    absl::StrAppend(&text, absl::StripTrailingAsciiWhitespace(line), "\n");
  }
  return text;
}

std::string Readable(absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (seconds < 1) return absl::StrFormat("%.1f ms", 1e3 * seconds);
  if (seconds < 60) return absl::StrFormat("%.2f s", seconds);
  const int64_t minutes = static_cast<int64_t>(seconds) / 60;
  if (minutes < 60) return absl::StrFormat("%d min %d s", minutes, static_cast<int>(seconds) % 60);
  return absl::StrFormat("%d h %d min", minutes / 60, minutes % 60);
}

std::string ReadableBytes(int64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

}  // namespace chorale::cli
