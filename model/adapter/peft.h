// Reads LoRA adapters in the format of the PEFT library.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/kernels.h"
#include "model/adapter/adapter.h"
#include "model/checkpoint/config.h"
#include "model/weights.h"

namespace chorale {

// The adapter of a folder with adapter_config.json and adapter_model.safetensors, for the model
// whose weights are `base`. They name the module, and DoRA's gains are computed from them.
//
// Read are updates of linear layers, of lm_head and of embed_tokens, the first two with DoRA or
// biases too; trained biases; and norms, lm_head and embed_tokens saved whole. What equals the
// base's is dropped, and does not count for the digest.
// Tensors are found with the name of an adapter in their keys or without it, and with the usual
// prefix or without it. Every tensor of the file must belong to a module that adapter_config.json
// names, and every module that it names must have its tensors.
//
// InvalidArgument names the field, or the tensor with its expected and found shape; Unimplemented a
// feature of PEFT that changes results and is not known here (peft_config.h).
absl::StatusOr<std::unique_ptr<const Adapter>> LoadPeftAdapter(
    const std::string& folder, const ModelConfig& config, const Weights& base,
    const kernels::Kernels& kernels, kernels::DType dtype, kernels::ThreadPool& pool);

}  // namespace chorale
