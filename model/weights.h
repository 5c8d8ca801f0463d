// The weights of a model, packed by one kernel table.
//
// Query, key and value projections lie in one matrix, gate and up in another: one matmul each.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/hash.h"
#include "kernels/kernels.h"
#include "model/adapter/adapter.h"
#include "model/checkpoint/config.h"
#include "model/checkpoint/safetensors.h"

namespace chorale {

// Told the share of the weights that is loaded, in [0, 1].
using LoadProgress = std::function<void(double)>;

struct LayerWeights {
  std::vector<float> attention_norm;  // [hidden]
  std::vector<float> ffn_norm;        // [hidden]
  std::vector<float> q_norm;          // [head_dim], empty without qk_norm
  std::vector<float> k_norm;
  kernels::PackedMatrix qkv;      // [q_size + 2 kv_size, hidden]
  std::vector<float> qkv_bias;    // empty without
  kernels::PackedMatrix o;        // [hidden, q_size]
  std::vector<float> o_bias;      // empty without
  kernels::PackedMatrix gate_up;  // [2 ffn, hidden]
  kernels::PackedMatrix down;     // [hidden, ffn]
};

struct Weights {
  kernels::PackedMatrix embedding;  // [vocab, hidden]
  kernels::PackedMatrix output;     // [vocab, hidden], empty when tied
  std::vector<float> norm;          // [hidden]
  std::vector<LayerWeights> layers;
  Digest digest;

  const kernels::PackedMatrix& output_or_embedding() const {
    return output.rows > 0 ? output : embedding;
  }
};

// Where a linear layer lies: some rows of a packed matrix, from `begin` on, and its bias.
struct LinearRows {
  const kernels::PackedMatrix& matrix;
  int begin = 0;
  std::span<const float> bias;  // [out], empty without
};
LinearRows RowsOf(const LayerWeights& weights, const ModelConfig& config, Linear linear);
// The weight of a norm, empty where the model has none.
const std::vector<float>& NormOf(const LayerWeights& weights, LayerNorm norm);

// Checks that every tensor is there with its shape before any is packed. With `quantization` set
// matrices are held in 8 or 4 bits; a converted checkpoint is in its own already. Errors as in
// Checkpoint::Get; InvalidArgument also names a tensor that the model has no place for, because
// leaving a bias out would give wrong text without a word. Left out without an error are
// rotary_emb.inv_freq, and lm_head.weight where the embedding stands for it. `digest_cache` is a
// folder, or empty (digest_cache.h).
absl::StatusOr<Weights> LoadWeights(const ModelConfig& config, const Checkpoint& checkpoint,
                                    const kernels::Kernels& kernels, kernels::DType dtype,
                                    std::optional<kernels::DType> quantization,
                                    const std::string& digest_cache, kernels::ThreadPool& pool,
                                    const LoadProgress& progress);

// A vector of any readable dtype, widened.
std::vector<float> ToFloats(const Tensor& tensor);
// A float matrix as kernels read it. A file may hold it at any address; kernels read aligned ones,
// so another is copied into `copy` first.
kernels::MatrixView ViewOf(const Tensor& tensor, kernels::Buffer& copy);
// Packs matrices, one below the other.
kernels::PackedMatrix PackTensors(std::span<const Tensor> tensors, const kernels::Kernels& kernels,
                                  kernels::DType dtype, kernels::ThreadPool& pool);

// What one tensor of a checkpoint must look like.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
};
// Every tensor that a model of this config reads.
std::vector<TensorSpec> RequiredTensors(const ModelConfig& config);

}  // namespace chorale
