// The matrices of a checkpoint in 8 or 4 bits: made while it is loaded, or ahead by
// ConvertCheckpoint
// (`chorale convert`). Both give the same codes and so the same digest.
//
// A converted checkpoint holds, instead of NAME (float, [rows, cols]),
//   NAME.codes   U8    [rows, CodeBytesOfRow(cols)]
//   NAME.scales  BF16  [rows, QuantGroups(cols)]
// and config.json says so: "quantization_config": {"quant_method": "chorale", "bits": 4, ...}.
// Kernels/quantize.h defines the codes. Linear layers take the bits that were asked for; embedding
// and output matrix always take 8: they are where few bits cost most.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/hash.h"
#include "base/json.h"
#include "kernels/quantize.h"
#include "model/safetensors.h"
#include "model/weights.h"

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

// What config.json says of a converted checkpoint, and what that is read back as; nothing for any
// other method, number of bits, group or version.
Json QuantizationToJson(kernels::DType dtype);
std::optional<kernels::DType> QuantizationFromJson(const Json& json);

// Writes the checkpoint of `in` to the new folder `out` in 8 or 4 bits, tokenizer and all.
// AlreadyExists: `out` is there. FailedPrecondition: `in` is quantised already.
absl::Status ConvertCheckpoint(const std::string& in, const std::string& out, kernels::DType dtype,
                               kernels::ThreadPool& pool, const LoadProgress& progress);

}  // namespace chorale
