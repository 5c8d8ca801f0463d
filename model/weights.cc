#include "model/weights.h"

#include <cstdint>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "model/digest.h"
#include "model/linears.h"

namespace chorale {
namespace {

using kernels::MatrixView;
using kernels::PackedMatrix;

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kNorm[] = "model.norm.weight";
constexpr char kOutput[] = "lm_head.weight";

std::string LayerName(int layer, const char* what) {
  return absl::StrFormat("model.layers.%d.%s", layer, what);
}

bool HasBias(const ModelConfig& config, Linear linear) {
  switch (linear) {
    case Linear::kQ:
    case Linear::kK:
    case Linear::kV:
      return config.qkv_bias;
    case Linear::kO:
      return config.o_bias;
    default:
      return false;
  }
}

// Packs tensors that are known to be there.
class Packer {
 public:
  Packer(const std::map<std::string, Tensor>& tensors, const kernels::Kernels& kernels,
         kernels::DType dtype, kernels::ThreadPool& pool)
      : tensors_(tensors), kernels_(kernels), dtype_(dtype), pool_(pool) {}

  PackedMatrix Matrix(std::initializer_list<std::string> names) const {
    std::vector<Tensor> matrices;
    for (const std::string& name : names) matrices.push_back(tensors_.at(name));
    return PackTensors(matrices, kernels_, dtype_, pool_);
  }
  std::vector<float> Vector(const std::string& name) const { return ToFloats(tensors_.at(name)); }

  LayerWeights Layer(const ModelConfig& config, int layer) const {
    const auto weight = [&](Linear linear) { return ModuleName(layer, linear) + ".weight"; };
    LayerWeights out;
    out.attention_norm = Vector(LayerName(layer, "input_layernorm.weight"));
    out.ffn_norm = Vector(LayerName(layer, "post_attention_layernorm.weight"));
    if (config.qk_norm) {
      out.q_norm = Vector(LayerName(layer, "self_attn.q_norm.weight"));
      out.k_norm = Vector(LayerName(layer, "self_attn.k_norm.weight"));
    }
    out.qkv = Matrix({weight(Linear::kQ), weight(Linear::kK), weight(Linear::kV)});
    if (config.qkv_bias) {
      for (Linear linear : {Linear::kQ, Linear::kK, Linear::kV}) {
        const std::vector<float> bias = Vector(ModuleName(layer, linear) + ".bias");
        out.qkv_bias.insert(out.qkv_bias.end(), bias.begin(), bias.end());
      }
    }
    out.o = Matrix({weight(Linear::kO)});
    if (config.o_bias) out.o_bias = Vector(ModuleName(layer, Linear::kO) + ".bias");
    out.gate_up = Matrix({weight(Linear::kGate), weight(Linear::kUp)});
    out.down = Matrix({weight(Linear::kDown)});
    return out;
  }

 private:
  const std::map<std::string, Tensor>& tensors_;
  const kernels::Kernels& kernels_;
  kernels::DType dtype_;
  kernels::ThreadPool& pool_;
};

absl::StatusOr<std::map<std::string, Tensor>> GetTensors(const ModelConfig& config,
                                                         const Checkpoint& checkpoint) {
  std::map<std::string, Tensor> tensors;
  for (const TensorSpec& spec : RequiredTensors(config)) {
    ASSIGN_OR_RETURN(tensors[spec.name], checkpoint.Get(spec.name, spec.shape));
  }
  for (const Tensor* tensor : checkpoint.tensors()) {
    if (absl::StartsWith(tensor->name, "model.layers.") && !tensors.contains(tensor->name) &&
        !absl::EndsWith(tensor->name, ".rotary_emb.inv_freq")) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "tensor '%s' is in the checkpoint, but a %s with %d layers and this config.json has no "
          "place for it",
          tensor->name, config.architecture, config.layers));
    }
  }
  return tensors;
}

Digest DigestOf(const ModelConfig& config, kernels::DType dtype,
                const std::map<std::string, Tensor>& tensors, kernels::ThreadPool& pool) {
  std::vector<const Tensor*> list;
  for (const auto& [name, tensor] : tensors) list.push_back(&tensor);
  std::vector<Digest> digests(list.size());
  pool.ParallelFor(static_cast<int>(list.size()),
                   [&](int i) { digests[i] = DigestOfTensor(*list[i]); });
  TensorDigests by_name;
  for (size_t i = 0; i < list.size(); ++i) by_name[list[i]->name] = digests[i];
  return DigestOfBase(config, dtype, by_name);
}

}  // namespace

PackedMatrix PackTensors(std::span<const Tensor> tensors, const kernels::Kernels& kernels,
                         kernels::DType dtype, kernels::ThreadPool& pool) {
  std::vector<MatrixView> views;
  std::vector<kernels::Buffer> copies;
  for (const Tensor& tensor : tensors) {
    const void* data = tensor.bytes.data();
    if (reinterpret_cast<uintptr_t>(data) % kernels::BytesOf(*tensor.dtype) != 0) {
      std::byte* copy = copies.emplace_back(tensor.bytes.size()).data();
      std::memcpy(copy, data, tensor.bytes.size());
      data = copy;
    }
    views.push_back({.data = data,
                     .dtype = *tensor.dtype,
                     .rows = static_cast<int>(tensor.shape[0]),
                     .cols = static_cast<int>(tensor.shape[1])});
  }
  return kernels.pack(views, dtype, pool);
}

std::vector<float> ToFloats(const Tensor& tensor) {
  const size_t size = tensor.bytes.size() / kernels::BytesOf(*tensor.dtype);
  std::vector<float> out(size);
  if (*tensor.dtype == kernels::DType::kF32) {
    std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
    return out;
  }
  for (size_t i = 0; i < size; ++i) {
    uint16_t bits;
    std::memcpy(&bits, tensor.bytes.data() + 2 * i, 2);
    out[i] =
        *tensor.dtype == kernels::DType::kF16 ? kernels::F16ToF32(bits) : kernels::BF16ToF32(bits);
  }
  return out;
}

std::vector<TensorSpec> RequiredTensors(const ModelConfig& config) {
  std::vector<TensorSpec> specs;
  const auto add = [&](std::string name, std::vector<int64_t> shape) {
    specs.push_back({std::move(name), std::move(shape)});
  };
  add(kEmbedding, {config.vocab, config.hidden});
  for (int layer = 0; layer < config.layers; ++layer) {
    add(LayerName(layer, "input_layernorm.weight"), {config.hidden});
    add(LayerName(layer, "post_attention_layernorm.weight"), {config.hidden});
    if (config.qk_norm) {
      add(LayerName(layer, "self_attn.q_norm.weight"), {config.head_dim});
      add(LayerName(layer, "self_attn.k_norm.weight"), {config.head_dim});
    }
    for (int i = 0; i < kLinears; ++i) {
      const Linear linear = static_cast<Linear>(i);
      const LinearShape shape = ShapeOf(config, linear);
      add(ModuleName(layer, linear) + ".weight", {shape.out, shape.in});
      if (HasBias(config, linear)) add(ModuleName(layer, linear) + ".bias", {shape.out});
    }
  }
  add(kNorm, {config.hidden});
  if (!config.tied_embeddings) add(kOutput, {config.vocab, config.hidden});
  return specs;
}

absl::StatusOr<Weights> LoadWeights(const ModelConfig& config, const Checkpoint& checkpoint,
                                    const kernels::Kernels& kernels, kernels::DType dtype,
                                    kernels::ThreadPool& pool, const LoadProgress& progress) {
  using Tensors = std::map<std::string, Tensor>;
  ASSIGN_OR_RETURN(const Tensors tensors, GetTensors(config, checkpoint));
  const int steps = config.layers + 3;  // the digest, the embedding, the layers, the output
  int done = 0;
  const auto report = [&] {
    if (progress) progress(static_cast<double>(++done) / steps);
  };
  Weights weights;
  weights.digest = DigestOf(config, dtype, tensors, pool);
  report();
  const Packer packer(tensors, kernels, dtype, pool);
  weights.embedding = packer.Matrix({kEmbedding});
  report();
  for (int layer = 0; layer < config.layers; ++layer) {
    weights.layers.push_back(packer.Layer(config, layer));
    report();
  }
  weights.norm = packer.Vector(kNorm);
  if (!config.tied_embeddings) weights.output = packer.Matrix({kOutput});
  report();
  return weights;
}

}  // namespace chorale
