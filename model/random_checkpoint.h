// Checkpoints of random weights, for tests and benches: the same seed writes the same bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/tensor.h"
#include "model/adapter.h"
#include "model/config.h"
#include "model/model.h"

namespace chorale {

// Writes config.json and model.safetensors into an existing folder. The scales keep activations
// near one, so that the next token is neither certain nor arbitrary.
absl::Status WriteRandomCheckpoint(const std::string& folder, const ModelConfig& config,
                                   kernels::DType dtype, uint64_t seed);

// Writes adapter_config.json and adapter_model.safetensors for a model of `config`, with all linear
// layers as targets.
absl::Status WriteRandomAdapter(const std::string& folder, const ModelConfig& config, int rank,
                                double alpha, uint64_t seed);

// A model of random weights, by way of a checkpoint in a temporary folder.
absl::StatusOr<std::unique_ptr<Model>> MakeRandomModel(const ModelConfig& config,
                                                       kernels::DType dtype, uint64_t seed,
                                                       const Model::Options& options,
                                                       kernels::ThreadPool& pool);

}  // namespace chorale
