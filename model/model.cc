#include "model/model.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/forward.h"
#include "model/peft.h"
#include "model/rope.h"
#include "model/weights.h"

namespace chorale {

struct Model::State {
  State(const ModelConfig& config, const kernels::Kernels& kernels, kernels::DType dtype,
        kernels::ThreadPool& pool, Weights weights)
      : config(config),
        kernels(kernels),
        dtype(dtype),
        pool(pool),
        weights(std::move(weights)),
        rope(this->config),
        forward(this->config, this->weights, rope, kernels, pool) {}

  const ModelConfig config;
  const kernels::Kernels& kernels;
  const kernels::DType dtype;
  kernels::ThreadPool& pool;
  const Weights weights;
  const Rope rope;
  ForwardPass forward;
};

namespace {

// What the embedding is stored in decides, not what config.json says of it.
kernels::DType DTypeFor(const Checkpoint& checkpoint, std::optional<kernels::DType> wanted) {
  if (wanted) return *wanted;
  for (const Tensor* tensor : checkpoint.tensors()) {
    if (tensor->name == "model.embed_tokens.weight" && tensor->dtype == kernels::DType::kBF16) {
      return kernels::DType::kBF16;
    }
  }
  return kernels::DType::kF32;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const std::string& model_folder,
                                                   const Options& options,
                                                   kernels::ThreadPool& pool,
                                                   const LoadProgress& progress) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(model_folder));
  ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(model_folder));
  return Create(config, *checkpoint, options, pool, progress);
}

absl::StatusOr<std::unique_ptr<Model>> Model::Create(const ModelConfig& config,
                                                     const Checkpoint& checkpoint,
                                                     const Options& options,
                                                     kernels::ThreadPool& pool,
                                                     const LoadProgress& progress) {
  CHECK(options.kernels != nullptr);
  const kernels::DType dtype = DTypeFor(checkpoint, options.dtype);
  CHECK(dtype != kernels::DType::kF16);
  ASSIGN_OR_RETURN(Weights weights,
                   LoadWeights(config, checkpoint, *options.kernels, dtype, pool, progress));
  return std::unique_ptr<Model>(new Model(
      std::make_unique<State>(config, *options.kernels, dtype, pool, std::move(weights))));
}

Model::Model(std::unique_ptr<State> state) : state_(std::move(state)) {}
Model::~Model() = default;

absl::StatusOr<std::unique_ptr<const Adapter>> Model::LoadAdapter(const std::string& folder) const {
  return LoadPeftAdapter(folder, state_->config, state_->weights.digest, state_->kernels,
                         state_->dtype, state_->pool);
}

void Model::Forward(std::span<const BatchSequence> batch, kernels::KvMemory kv,
                    std::vector<float>& logits) {
  state_->forward.Run(batch, kv, logits);
}

const ModelConfig& Model::config() const { return state_->config; }
kernels::KvShape Model::kv_shape() const { return state_->config.kv_shape(state_->dtype); }
const Digest& Model::digest() const { return state_->weights.digest; }
const kernels::Kernels& Model::kernels() const { return state_->kernels; }

}  // namespace chorale
