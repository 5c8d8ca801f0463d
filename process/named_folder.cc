#include "process/named_folder.h"

#include "absl/strings/str_format.h"

namespace chorale {

absl::StatusOr<NamedFolder> ParseNamedFolder(const std::string& flag, const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s '%s': expected NAME=FOLDER", flag, text));
  }
  return NamedFolder{.name = text.substr(0, equals), .folder = text.substr(equals + 1)};
}

}  // namespace chorale
