// Checkpoints of random weights, for tests and benches: the same seed writes the same bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/tensor.h"
#include "model/adapter/adapter.h"
#include "model/checkpoint/config.h"
#include "model/transformer.h"

namespace chorale {

// Writes config.json and model.safetensors into an existing folder. The scales keep activations
// near one, so that the next token is neither certain nor arbitrary.
absl::Status WriteRandomCheckpoint(const std::string& folder, const ModelConfig& config,
                                   kernels::DType dtype, uint64_t seed);

// Which linear layers an adapter updates: all, or all but keys and values (a reader of ICaRus).
enum class AdapterTargets { kAll, kReader };

// Writes adapter_config.json and adapter_model.safetensors for a model of `config`.
absl::Status WriteRandomAdapter(const std::string& folder, const ModelConfig& config, int rank,
                                double alpha, uint64_t seed,
                                AdapterTargets targets = AdapterTargets::kAll);

// A model of random weights, by way of a checkpoint in a temporary folder.
absl::StatusOr<std::unique_ptr<const Transformer>> MakeRandomTransformer(
    const ModelConfig& config, kernels::DType dtype, uint64_t seed,
    const Transformer::Options& options, kernels::ThreadPool& pool);

}  // namespace chorale
