#include "model/weights.h"

#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "model/checkpoint/digest.h"
#include "model/checkpoint/digest_cache.h"
#include "model/checkpoint/quantized_tensor.h"
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

// The tensors of a checkpoint, in what they are held in here, with the digest of each.
class Tensors {
 public:
  Tensors(const ModelConfig& config, const Checkpoint& checkpoint,
          std::optional<kernels::DType> quantization, kernels::ThreadPool& pool)
      : config_(config), checkpoint_(checkpoint), quantization_(quantization), pool_(pool) {}

  // Finds every tensor with its shape, and no other.
  absl::Status Check();
  bool MayBeLeftOut(const std::string& name) const;

  bool is_quantized() const { return quantization_.has_value(); }
  const Tensor& Float(const std::string& name) const { return floats_.at(name); }
  // A matrix in codes; `name` counts as used with its digest from now on.
  QuantizedTensor Quantized(const std::string& name);
  // Of everything; after the last call of Quantized.
  TensorDigests Digests(const std::string& cache);

 private:
  absl::Status CheckQuantized(const TensorSpec& spec);

  const ModelConfig& config_;
  const Checkpoint& checkpoint_;
  const std::optional<kernels::DType> quantization_;
  kernels::ThreadPool& pool_;
  std::map<std::string, Tensor> floats_;  // those that are read as they are, or quantised here
  std::map<std::string, kernels::QuantizedView> codes_;  // of a converted checkpoint
  TensorDigests digests_;
};

// Packs tensors that are known to be there.
class Packer {
 public:
  Packer(Tensors& tensors, const kernels::Kernels& kernels, kernels::DType dtype,
         kernels::ThreadPool& pool)
      : tensors_(tensors), kernels_(kernels), dtype_(dtype), pool_(pool) {}

  PackedMatrix Matrix(std::initializer_list<std::string> names) const {
    if (tensors_.is_quantized()) {
      std::vector<QuantizedTensor> matrices;
      std::vector<kernels::QuantizedView> views;
      for (const std::string& name : names) {
        views.push_back(matrices.emplace_back(tensors_.Quantized(name)).view);
      }
      return kernels_.pack_quantized(views, pool_);
    }
    std::vector<Tensor> matrices;
    for (const std::string& name : names) matrices.push_back(tensors_.Float(name));
    return PackTensors(matrices, kernels_, dtype_, pool_);
  }
  std::vector<float> Vector(const std::string& name) const {
    return ToFloats(tensors_.Float(name));
  }

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
  Tensors& tensors_;
  const kernels::Kernels& kernels_;
  kernels::DType dtype_;
  kernels::ThreadPool& pool_;
};

absl::Status Tensors::CheckQuantized(const TensorSpec& spec) {
  ASSIGN_OR_RETURN(const QuantizedTensor tensor,
                   GetQuantized(checkpoint_, spec.name, static_cast<int>(spec.shape[0]),
                                static_cast<int>(spec.shape[1]),
                                QuantizationOf(spec.name, *config_.quantization)));
  codes_[spec.name] = tensor.view;
  return absl::OkStatus();
}

// Tensors that the reference library passes over too: angles that config.json says, and the output
// matrix beside an embedding that stands for it.
bool Tensors::MayBeLeftOut(const std::string& name) const {
  return absl::EndsWith(name, ".rotary_emb.inv_freq") ||
         (config_.tied_embeddings && absl::StartsWith(name, "lm_head.weight"));
}

absl::Status Tensors::Check() {
  std::set<std::string> expected;
  for (const TensorSpec& spec : RequiredTensors(config_)) {
    if (config_.quantization && spec.shape.size() == 2) {
      RETURN_IF_ERROR(CheckQuantized(spec));
      expected.insert({spec.name + ".codes", spec.name + ".scales"});
    } else {
      ASSIGN_OR_RETURN(floats_[spec.name], checkpoint_.Get(spec.name, spec.shape));
      expected.insert(spec.name);
    }
  }
  for (const Tensor* tensor : checkpoint_.tensors()) {
    if (!expected.contains(tensor->name) && !MayBeLeftOut(tensor->name)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "tensor '%s' is in the checkpoint, but a %s with %d layers and this config.json has no "
          "place for it",
          tensor->name, config_.architecture, config_.layers));
    }
  }
  return absl::OkStatus();
}

QuantizedTensor Tensors::Quantized(const std::string& name) {
  QuantizedTensor tensor;
  if (const auto found = codes_.find(name); found != codes_.end()) {
    tensor.view = found->second;
  } else {
    tensor = QuantizeTensor(floats_.at(name), QuantizationOf(name, *quantization_), pool_);
    floats_.erase(name);
  }
  digests_[name] = DigestOfQuantized(name, tensor.view);
  return tensor;
}

TensorDigests Tensors::Digests(const std::string& cache) {
  TensorDigests known = ReadDigests(cache, checkpoint_);
  std::vector<const Tensor*> unknown;
  for (const auto& [name, tensor] : floats_) {
    if (!known.contains(name)) unknown.push_back(&tensor);
  }
  std::vector<Digest> digests(unknown.size());
  pool_.ParallelFor(static_cast<int>(unknown.size()),
                    [&](int i) { digests[i] = DigestOfTensor(*unknown[i]); });
  for (size_t i = 0; i < unknown.size(); ++i) known[unknown[i]->name] = digests[i];
  if (!unknown.empty()) WriteDigests(cache, checkpoint_, known);
  for (const auto& [name, tensor] : floats_) digests_[name] = known.at(name);
  return digests_;
}

// The part of a vector over all rows of a matrix, if there is one.
std::span<const float> PartOf(const std::vector<float>& whole, int begin, int size) {
  return whole.empty() ? std::span<const float>() : std::span(whole).subspan(begin, size);
}

}  // namespace

LinearRows RowsOf(const LayerWeights& weights, const ModelConfig& config, Linear linear) {
  const int out = ShapeOf(config, linear).out;
  const auto of_qkv = [&](int begin) {
    return LinearRows{weights.qkv, begin, PartOf(weights.qkv_bias, begin, out)};
  };
  switch (linear) {
    case Linear::kQ:
      return of_qkv(0);
    case Linear::kK:
      return of_qkv(config.q_size());
    case Linear::kV:
      return of_qkv(config.q_size() + config.kv_size());
    case Linear::kO:
      return {weights.o, 0, weights.o_bias};
    case Linear::kGate:
      return {weights.gate_up, 0, {}};
    case Linear::kUp:
      return {weights.gate_up, config.ffn, {}};
    case Linear::kDown:
      return {weights.down, 0, {}};
  }
  __builtin_unreachable();
}

const std::vector<float>& NormOf(const LayerWeights& weights, LayerNorm norm) {
  switch (norm) {
    case LayerNorm::kAttention:
      return weights.attention_norm;
    case LayerNorm::kFfn:
      return weights.ffn_norm;
    case LayerNorm::kQ:
      return weights.q_norm;
    case LayerNorm::kK:
      return weights.k_norm;
  }
  __builtin_unreachable();
}

kernels::MatrixView ViewOf(const Tensor& tensor, kernels::Buffer& copy) {
  const void* data = tensor.bytes.data();
  if (reinterpret_cast<uintptr_t>(data) % kernels::BytesOf(*tensor.dtype) != 0) {
    copy = kernels::Buffer(tensor.bytes.size());
    std::memcpy(copy.data(), data, tensor.bytes.size());
    data = copy.data();
  }
  return {.data = data,
          .dtype = *tensor.dtype,
          .rows = static_cast<int>(tensor.shape[0]),
          .cols = static_cast<int>(tensor.shape[1])};
}

PackedMatrix PackTensors(std::span<const Tensor> tensors, const kernels::Kernels& kernels,
                         kernels::DType dtype, kernels::ThreadPool& pool) {
  std::vector<MatrixView> views;
  std::vector<kernels::Buffer> copies(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) views.push_back(ViewOf(tensors[i], copies[i]));
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
                                    std::optional<kernels::DType> quantization,
                                    const std::string& digest_cache, kernels::ThreadPool& pool,
                                    const LoadProgress& progress) {
  if (quantization && config.quantization && quantization != config.quantization) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s is asked for, but the checkpoint is in %s already; convert the one it was made from",
        kernels::NameOf(*quantization), kernels::NameOf(*config.quantization)));
  }
  Tensors tensors(config, checkpoint, config.quantization ? config.quantization : quantization,
                  pool);
  RETURN_IF_ERROR(tensors.Check());
  const int steps = config.layers + 3;  // the embedding, the layers, the output, the digest
  int done = 0;
  const auto report = [&] {
    if (progress) progress(static_cast<double>(++done) / steps);
  };
  Weights weights;
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
  weights.digest = DigestOfBase(config, dtype, tensors.Digests(digest_cache));
  report();
  return weights;
}

}  // namespace chorale
