// Writes safetensors files for tests, right ones and wrong ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/json.h"
#include "model/checkpoint/safetensors.h"

namespace chorale {

struct FileTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

// `header_bytes` is what the file says, whatever the header is.
inline std::string SafetensorsBytes(uint64_t header_bytes, std::string_view header,
                                    std::string_view data = "") {
  std::string file(sizeof(header_bytes), '\0');
  std::memcpy(file.data(), &header_bytes, sizeof(header_bytes));
  return file.append(header).append(data);
}
inline std::string SafetensorsBytes(std::string_view header, std::string_view data = "") {
  return SafetensorsBytes(header.size(), header, data);
}
inline std::string SafetensorsBytes(const std::vector<FileTensor>& tensors) {
  Json header = Json::object();
  std::string data;
  for (const FileTensor& t : tensors) {
    header[t.name] = {{"dtype", t.dtype},
                      {"shape", t.shape},
                      {"data_offsets", {data.size(), data.size() + t.bytes.size()}}};
    data += t.bytes;
  }
  return SafetensorsBytes(header.dump(), data);
}

inline std::span<const std::byte> AsBytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline void WriteFile(const std::string& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary);
  file << bytes << std::flush;
  CHECK(file.good()) << path;
}

// Every tensor of a checkpoint, to be changed and written again.
inline std::vector<FileTensor> TensorsOf(const Checkpoint& checkpoint) {
  std::vector<FileTensor> tensors;
  for (const Tensor* t : checkpoint.tensors()) {
    tensors.push_back(
        {t->name, t->dtype_name, t->shape,
         std::string(reinterpret_cast<const char*>(t->bytes.data()), t->bytes.size())});
  }
  return tensors;
}

}  // namespace chorale
