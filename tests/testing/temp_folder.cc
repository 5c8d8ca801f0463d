#include "tests/testing/temp_folder.h"

#include <filesystem>

#include <stdlib.h>

#include "base/check.h"

namespace chorale {

TempFolder::TempFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "chorale-test-XXXXXX").string();
  CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempFolder::~TempFolder() { std::filesystem::remove_all(path_); }

}  // namespace chorale
