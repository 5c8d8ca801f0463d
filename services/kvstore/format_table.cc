#include "services/kvstore/format_table.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <span>
#include <system_error>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

constexpr size_t kChecksumDigits = 16;

uint64_t IdOfText(const std::string& text) { return Checksum64(std::as_bytes(std::span(text))); }

std::string LineOf(const std::string& format) {
  return absl::StrFormat("%016x %s\n", IdOfText(format), absl::BytesToHexString(format));
}

// Whether `line`, without its end, is one; `format` is what it says then.
bool ParseLine(const std::string& line, std::string& format) {
  if (line.size() <= kChecksumDigits || line.size() % 2 == 0) return false;
  const std::string hex = line.substr(kChecksumDigits + 1);
  if (!std::all_of(hex.begin(), hex.end(), [](unsigned char c) { return std::isxdigit(c); })) {
    return false;
  }
  format = absl::HexStringToBytes(hex);
  return LineOf(format) == line + "\n";
}

}  // namespace

absl::StatusOr<std::unique_ptr<FormatTable>> FormatTable::Open(const std::string& path) {
  auto table = std::unique_ptr<FormatTable>(new FormatTable);
  table->path_ = path;
  if (path.empty() || !std::filesystem::exists(path)) return table;
  std::ifstream file(path, std::ios::binary);
  uintmax_t sound_bytes = 0;
  for (std::string line, format; std::getline(file, line) && !file.eof();) {
    if (table->formats_.size() == kFormatsMax || !ParseLine(line, format)) break;
    sound_bytes += line.size() + 1;
    table->formats_.push_back(format);
  }
  file.close();
  std::error_code error;
  std::filesystem::resize_file(path, sound_bytes, error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: cannot be written to: %s", path, error.message()));
  }
  return table;
}

absl::StatusOr<uint32_t> FormatTable::NumberOf(const std::string& format) {
  std::lock_guard lock(mutex_);
  if (const std::optional<uint32_t> known = FindLocked(format)) return *known;
  if (format.size() > kFormatBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'format': %d bytes long, at most %d; shorten dtype and encoding",
                        format.size(), kFormatBytesMax));
  }
  if (formats_.size() == kFormatsMax) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the store knows %d formats of blocks already; empty it, or use another", kFormatsMax));
  }
  if (!path_.empty()) RETURN_IF_ERROR(AppendLine(LineOf(format)));
  formats_.push_back(format);
  return static_cast<uint32_t>(formats_.size());
}

// All of it, or nothing: half a line would hide those behind it.
absl::Status FormatTable::AppendLine(const std::string& line) {
  std::error_code error;
  const uintmax_t sound_bytes =
      std::filesystem::exists(path_, error) ? std::filesystem::file_size(path_, error) : 0;
  if (!error) {
    std::ofstream file(path_, std::ios::binary | std::ios::app);
    if (file << line << std::flush) return absl::OkStatus();
    file.close();
    std::filesystem::resize_file(path_, sound_bytes, error);
  }
  return absl::UnavailableError(absl::StrFormat("%s: cannot be written to", path_));
}

std::optional<uint32_t> FormatTable::Find(const std::string& format) const {
  std::lock_guard lock(mutex_);
  return FindLocked(format);
}

std::optional<uint32_t> FormatTable::FindLocked(const std::string& format) const {
  const auto found = std::find(formats_.begin(), formats_.end(), format);
  if (found == formats_.end()) return std::nullopt;
  return static_cast<uint32_t>(found - formats_.begin()) + 1;
}

std::string FormatTable::Format(uint32_t number) const {
  std::lock_guard lock(mutex_);
  CHECK(number >= 1 && number <= formats_.size()) << "format " << number;
  return formats_[number - 1];
}

uint64_t FormatTable::IdOf(uint32_t number) const { return IdOfText(Format(number)); }

std::optional<uint32_t> FormatTable::NumberOfId(uint64_t id) const {
  std::lock_guard lock(mutex_);
  const auto found = std::find_if(formats_.begin(), formats_.end(),
                                  [id](const std::string& text) { return IdOfText(text) == id; });
  if (found == formats_.end()) return std::nullopt;
  return static_cast<uint32_t>(found - formats_.begin()) + 1;
}

uint32_t FormatTable::count() const {
  std::lock_guard lock(mutex_);
  return static_cast<uint32_t>(formats_.size());
}

}  // namespace chorale
