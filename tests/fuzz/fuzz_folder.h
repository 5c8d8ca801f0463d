// A folder that a fuzz target writes its input into, for readers of files.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

// One a process, in memory where the system has such a place.
inline const std::string& FuzzFolder() {
  static const std::string folder = [] {
    std::string path =
        std::filesystem::exists("/dev/shm") ? "/dev/shm/chorale-fuzz-XXXXXX" : "/tmp/chorale-fuzz-XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) std::abort();
    std::atexit([] {
      std::error_code ignored;
      std::filesystem::remove_all(FuzzFolder(), ignored);
    });
    return path;
  }();
  return folder;
}

inline void WriteFuzzFile(const std::string& name, std::string_view bytes) {
  std::ofstream(FuzzFolder() + "/" + name, std::ios::binary) << bytes;
}
