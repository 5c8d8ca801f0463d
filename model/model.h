// A transformer ready to run: packed weights, rope tables, adapters, and one forward pass over a
// batch of sequences.
//
//   tokens -> embed -> layers x (norm, qkv, rope, store K/V, attention, out, norm, swiglu) -> norm
//          -> logits of the rows that ask for them
//
// A batch mixes prompt chunks and single decode rows of any sequences, each with its own adapter or
// none. Not thread safe: one engine owns a Model and its scratch memory.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/hash.h"
#include "base/token.h"
#include "kernels/kernels.h"
#include "model/adapter.h"
#include "model/config.h"
#include "model/safetensors.h"

namespace chorale {

// Rows of one batch that belong to one sequence.
struct BatchSequence {
  std::span<const TokenId> tokens;           // the new rows; their K/V are written
  int context = 0;                           // tokens already in the blocks
  std::span<const kernels::BlockId> blocks;  // ceil((context + tokens) / kBlockTokens) at least
  const Adapter* adapter = nullptr;          // null: the base
  bool wants_logits = false;                 // of the last row
};

// Told the share of the weights that is loaded, in [0, 1].
using LoadProgress = std::function<void(double)>;

class Model {
 public:
  struct Options {
    const kernels::Kernels* kernels = nullptr;
    // What weights and K/V blocks are held in. Unset: bf16 for a bf16 checkpoint, else f32.
    std::optional<kernels::DType> dtype;
  };

  // Reads a Hugging Face model folder. `pool` must outlive the model.
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& model_folder,
                                                     const Options& options,
                                                     kernels::ThreadPool& pool,
                                                     const LoadProgress& progress = nullptr);
  // The same from parts, for tests and benches that make their own weights.
  static absl::StatusOr<std::unique_ptr<Model>> Create(const ModelConfig& config,
                                                       const Checkpoint& checkpoint,
                                                       const Options& options,
                                                       kernels::ThreadPool& pool,
                                                       const LoadProgress& progress = nullptr);
  ~Model();

  // Reads a PEFT adapter folder for this model: adapter_config.json and adapter_model.safetensors.
  // InvalidArgument names the tensor, the expected and the found shape, or the target module that
  // this model does not have.
  absl::StatusOr<std::unique_ptr<const Adapter>> LoadAdapter(const std::string& folder) const;

  // Runs the batch: writes K/V of every row into `kv` and the logits of the sequences that want
  // them into `logits`, [count of wants_logits, vocab], in batch order.
  void Forward(std::span<const BatchSequence> batch, kernels::KvMemory kv,
               std::vector<float>& logits);

  const ModelConfig& config() const;
  kernels::KvShape kv_shape() const;
  // Names these weights and all that changes the K/V they write: tensors, dtype, rope, layout.
  const Digest& digest() const;
  const kernels::Kernels& kernels() const;

 private:
  struct State;
  explicit Model(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace chorale
