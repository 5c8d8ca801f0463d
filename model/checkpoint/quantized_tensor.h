// Matrices of a checkpoint in 8 or 4 bits: made while it is loaded, or ahead by `chorale convert`.
// Both give the same codes and so the same digest.
//
// A converted checkpoint holds, instead of NAME (float, [rows, cols]),
//   NAME.codes   U8    [rows, CodeBytesOfRow(cols)]
//   NAME.scales  BF16  [rows, QuantGroups(cols)]
// (kernels/quantize.h) and its config.json says so (QuantizationToJson). Linear layers take the
// bits that were asked for; embedding and output matrix always take 8: they are where few bits cost
// most.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "base/hash.h"
#include "kernels/formats/quantize.h"
#include "model/checkpoint/safetensors.h"

namespace chorale {

// The bits of the matrix `name` in a model quantised to `dtype` (kI8, kI4).
kernels::DType QuantizationOf(const std::string& name, kernels::DType dtype);

// Codes of one matrix: in a mapped file, or made here.
struct QuantizedTensor {
  kernels::QuantizedMatrix own;
  kernels::QuantizedView view;
};

// Reads NAME.codes and NAME.scales; errors as for Checkpoint::Get.
absl::StatusOr<QuantizedTensor> GetQuantized(const Checkpoint& checkpoint, const std::string& name,
                                             int rows, int cols, kernels::DType dtype);
// Quantises a float matrix.
QuantizedTensor QuantizeTensor(const Tensor& tensor, kernels::DType dtype,
                               kernels::ThreadPool& pool);
Digest DigestOfQuantized(const std::string& name, const kernels::QuantizedView& view);

// The bytes of a matrix as files and digests have them.
std::span<const std::byte> CodesOf(const kernels::QuantizedView& view);
std::span<const std::byte> ScalesOf(const kernels::QuantizedView& view);

}  // namespace chorale
