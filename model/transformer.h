// A transformer's weights, packed and ready to run, with all that changes the numbers it writes.
//
// Immutable, and so shared: by the modules that are this base with different adapters, by engines,
// by threads. ForwardPass runs it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/hash.h"
#include "kernels/kernels.h"
#include "model/adapter/adapter.h"
#include "model/checkpoint/config.h"
#include "model/checkpoint/safetensors.h"
#include "model/rope.h"
#include "model/weights.h"

namespace chorale {

class Transformer {
 public:
  struct Options {
    const kernels::Kernels* kernels = nullptr;
    // What weights and K/V blocks are held in. Unset: bf16 for a bf16 checkpoint, else f32.
    std::optional<kernels::DType> dtype;
    // Set: the linear layers are held in 8 or 4 bits (kI8, kI4).
    std::optional<kernels::DType> quantization;
    // Keys and values are rounded to 8 bits where they are written (kernels/kv_codec.h). For all
    // modules of a family or for none: the digest tells, so that neither reads what the other
    // wrote.
    bool kv_int8 = false;
    // Folder of digests that were computed before; empty: none (digest_cache.h).
    std::string digest_cache;
  };

  // Reads a Hugging Face model folder. `pool` packs the weights.
  static absl::StatusOr<std::unique_ptr<const Transformer>> Load(
      const std::string& model_folder, const Options& options, kernels::ThreadPool& pool,
      const LoadProgress& progress = nullptr);
  // The same from parts.
  static absl::StatusOr<std::unique_ptr<const Transformer>> Create(
      const ModelConfig& config, const Checkpoint& checkpoint, const Options& options,
      kernels::ThreadPool& pool, const LoadProgress& progress = nullptr);

  // Reads a PEFT adapter folder for this model: adapter_config.json and adapter_model.safetensors.
  // InvalidArgument names the tensor, the expected and the found shape, or the target module that
  // this model does not have.
  absl::StatusOr<std::unique_ptr<const Adapter>> LoadAdapter(const std::string& folder,
                                                             kernels::ThreadPool& pool) const;

  const ModelConfig& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  const Rope& rope() const { return rope_; }
  kernels::KvShape kv_shape() const { return config_.kv_shape(dtype_); }
  bool kv_int8() const { return kv_int8_; }
  // Names these weights and all that changes the K/V they write: tensors, dtype, rope, layout,
  // rounding.
  const Digest& digest() const { return weights_.digest; }
  const kernels::Kernels& kernels() const { return kernels_; }

 private:
  Transformer(const ModelConfig& config, const kernels::Kernels& kernels, kernels::DType dtype,
              bool kv_int8, Weights weights);

  const ModelConfig config_;
  const kernels::Kernels& kernels_;
  const kernels::DType dtype_;
  const bool kv_int8_;
  const Weights weights_;
  const Rope rope_;
};

}  // namespace chorale
