// A name and the folder it stands for, as in --model NAME=FOLDER.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace chorale {

struct NamedFolder {
  std::string name;
  std::string folder;
};

// InvalidArgument unless `text` is NAME=FOLDER; `flag` names it in the error.
absl::StatusOr<NamedFolder> ParseNamedFolder(const std::string& flag, const std::string& text);

}  // namespace chorale
