// FormatTable: numbers for the formats of blocks, so that each block need not carry its own.
//
// A format is any text; the service serialises its KvFormat. Numbers count from 1, and are kept in
// a file, so that blocks on disk mean the same after a restart: a line per format, its checksum and
// the text in hex. From the first bad line on the file is cut; blocks of those formats are gone
// then. Thread safe.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace chorale {

class FormatTable {
 public:
  // A model that is served has one format or two; this many mean that something is wrong.
  static constexpr uint32_t kFormatsMax = 1024;
  static constexpr size_t kFormatBytesMax = 256;

  // Empty: kept in memory only.
  static absl::StatusOr<std::unique_ptr<FormatTable>> Open(const std::string& path);

  // The number of `format`, if it has one.
  std::optional<uint32_t> Find(const std::string& format) const;
  // The number of `format`, which is new or not. InvalidArgument: it is too long.
  // ResourceExhausted: there are too many. Unavailable: the file cannot be written.
  absl::StatusOr<uint32_t> NumberOf(const std::string& format);
  // The format of a number that NumberOf gave.
  std::string Format(uint32_t number) const;
  uint32_t count() const;
  // What stands for a format outside this store: a hash of its text. Nothing: no such format here.
  uint64_t IdOf(uint32_t number) const;
  std::optional<uint32_t> NumberOfId(uint64_t id) const;

 private:
  FormatTable() = default;
  std::optional<uint32_t> FindLocked(const std::string& format) const;
  absl::Status AppendLine(const std::string& line);

  std::string path_;
  mutable std::mutex mutex_;
  std::vector<std::string> formats_;  // under mutex_
};

}  // namespace chorale
