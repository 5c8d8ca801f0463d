#include "model/transformer.h"

#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/formats/kv_codec.h"
#include "model/adapter/peft.h"

namespace chorale {
namespace {

// What the last norm is stored in decides, not what config.json says of it: it is there, and as it
// was, in a converted checkpoint too.
kernels::DType DTypeFor(const Checkpoint& checkpoint, std::optional<kernels::DType> wanted) {
  if (wanted) return *wanted;
  for (const Tensor* tensor : checkpoint.tensors()) {
    if (tensor->name == "model.norm.weight" && tensor->dtype == kernels::DType::kBF16) {
      return kernels::DType::kBF16;
    }
  }
  return kernels::DType::kF32;
}

Digest DigestOfKvInt8(const Digest& exact) {
  DigestBuilder digest;
  digest.AddString("chorale kv int8").AddInt(kernels::kKvCodecVersion);
  return digest.AddString(exact.AsBytes()).Finish();
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Transformer>> Transformer::Load(
    const std::string& model_folder, const Options& options, kernels::ThreadPool& pool,
    const LoadProgress& progress) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(model_folder));
  ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(model_folder));
  return Create(config, *checkpoint, options, pool, progress);
}

absl::StatusOr<std::unique_ptr<const Transformer>> Transformer::Create(
    const ModelConfig& config, const Checkpoint& checkpoint, const Options& options,
    kernels::ThreadPool& pool, const LoadProgress& progress) {
  CHECK(options.kernels != nullptr);
  const kernels::DType dtype = DTypeFor(checkpoint, options.dtype);
  CHECK(dtype == kernels::DType::kF32 || dtype == kernels::DType::kBF16);
  ASSIGN_OR_RETURN(Weights weights,
                   LoadWeights(config, checkpoint, *options.kernels, dtype, options.quantization,
                               options.digest_cache, pool, progress));
  if (options.kv_int8) weights.digest = DigestOfKvInt8(weights.digest);
  return std::unique_ptr<const Transformer>(
      new Transformer(config, *options.kernels, dtype, options.kv_int8, std::move(weights)));
}

Transformer::Transformer(const ModelConfig& config, const kernels::Kernels& kernels,
                         kernels::DType dtype, bool kv_int8, Weights weights)
    : config_(config),
      kernels_(kernels),
      dtype_(dtype),
      kv_int8_(kv_int8),
      weights_(std::move(weights)),
      rope_(config_) {}

absl::StatusOr<std::unique_ptr<const Adapter>> Transformer::LoadAdapter(
    const std::string& folder, kernels::ThreadPool& pool) const {
  return LoadPeftAdapter(folder, config_, weights_, kernels_, dtype_, pool);
}

}  // namespace chorale
