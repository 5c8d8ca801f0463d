// A folder of a test's own.
#pragma once

#include <string>

namespace chorale {

// A folder under the system's temporary one; removed with all it holds.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace chorale
