// Reads LoRA adapters in the format of the PEFT library.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/hash.h"
#include "kernels/kernels.h"
#include "model/adapter.h"
#include "model/config.h"

namespace chorale {

// The adapter of a folder with adapter_config.json and adapter_model.safetensors, for the base
// named by `base`. InvalidArgument names the field, or the tensor with its expected and found
// shape; Unimplemented names a feature of PEFT that changes results and is not known here (DoRA,
// biases, saved modules, patterns of ranks).
absl::StatusOr<std::unique_ptr<const Adapter>> LoadPeftAdapter(
    const std::string& folder, const ModelConfig& config, const Digest& base,
    const kernels::Kernels& kernels, kernels::DType dtype, kernels::ThreadPool& pool);

}  // namespace chorale
