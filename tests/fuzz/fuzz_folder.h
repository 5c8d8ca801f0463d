// A folder that a fuzz target writes its input into, for readers of files.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

// One a process, in memory where the system has such a place; removed at its end.
inline const std::string& FuzzFolder() {
  struct Folder {
    Folder() {
      if (::mkdtemp(path.data()) == nullptr) std::abort();
    }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
    std::string path = std::filesystem::exists("/dev/shm") ? "/dev/shm/chorale-fuzz-XXXXXX"
                                                           : "/tmp/chorale-fuzz-XXXXXX";
  };
  static const Folder folder;
  return folder.path;
}

inline void WriteFuzzFile(const std::string& name, std::string_view bytes) {
  std::ofstream(FuzzFolder() + "/" + name, std::ios::binary) << bytes;
}
