// Any bytes as a safetensors file; every byte that a tensor promises is read.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "model/checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tensors =
      chorale::ParseSafetensors(std::as_bytes(std::span<const uint8_t>(data, size)), "fuzz");
  if (!tensors.ok()) return 0;
  size_t bytes = 0;
  uint8_t folded = 0;
  for (const chorale::Tensor& tensor : *tensors) {
    bytes += tensor.bytes.size();
    for (std::byte b : tensor.bytes) folded ^= std::to_integer<uint8_t>(b);
  }
  volatile uint8_t sink = folded;  // keeps the reads
  (void)sink;
  if (bytes > size) std::abort();  // more than the file has: tensors overlap
  return 0;
}
