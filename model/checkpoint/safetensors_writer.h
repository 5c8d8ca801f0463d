// Writes one safetensors file: the header first, then the bytes of each tensor in its order.
//
//   8 bytes of header length | JSON {name: {dtype, shape, data_offsets}} | bytes of the tensors
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/tensor.h"

namespace chorale {

// A tensor to be written. `bytes` is what Append will be given for it.
struct TensorHeader {
  std::string name;
  std::string dtype_name;  // "F32", "F16", "BF16", "U8"
  std::vector<int64_t> shape;
  int64_t bytes = 0;
};

// "F32", "F16", "BF16"; CHECKs that the type is one of these.
const char* SafetensorsName(kernels::DType dtype);

class SafetensorsWriter {
 public:
  // Unavailable: the file cannot be written.
  static absl::StatusOr<SafetensorsWriter> Create(const std::string& path,
                                                  const std::vector<TensorHeader>& tensors);
  // The bytes of the next tensor; CHECKs that they are as many as its header says.
  absl::Status Append(std::span<const std::byte> bytes);
  // CHECKs that every tensor was written.
  absl::Status Finish();

 private:
  SafetensorsWriter() = default;
  std::string path_;
  std::ofstream file_;
  std::vector<int64_t> sizes_;  // of the tensors
  size_t next_ = 0;
};

}  // namespace chorale
