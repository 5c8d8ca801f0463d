#include "model/adapter/peft.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "model/adapter/dora.h"
#include "model/adapter/peft_config.h"
#include "model/adapter/peft_keys.h"
#include "model/checkpoint/config_fields.h"
#include "model/checkpoint/digest.h"
#include "model/checkpoint/quantized_tensor.h"
#include "model/checkpoint/safetensors.h"
#include "model/linears.h"
#include "model/weights.h"

namespace chorale {
namespace {

constexpr char kEmbedding[] = "model.embed_tokens";
constexpr char kOutput[] = "lm_head";
constexpr int64_t kConfigBytesMax = 1 << 20;
constexpr size_t kConfigKeysMax = 8192;  // of an object: a pattern for each module is many

// Of two tensors for one part, as when a file has the key with and without the adapter's name.
bool AreEqual(const Tensor& a, const Tensor& b) {
  return a.dtype_name == b.dtype_name && a.shape == b.shape && std::ranges::equal(a.bytes, b.bytes);
}

// As packed, whatever they were before.
bool AreEqual(const kernels::PackedMatrix& a, const kernels::PackedMatrix& b) {
  return a.dtype == b.dtype && a.rows == b.rows && a.cols == b.cols &&
         a.data.bytes() == b.data.bytes() &&
         std::memcmp(a.data.data(), b.data.data(), a.data.bytes()) == 0;
}

// Tells what was read, in one form for all spellings of an adapter.
class PeftReader {
 public:
  PeftReader(const PeftConfig& peft, const ModelConfig& config, const Weights& base,
             const Checkpoint& checkpoint, const kernels::Kernels& kernels, kernels::DType dtype,
             kernels::ThreadPool& pool)
      : peft_(peft),
        config_(config),
        base_(base),
        checkpoint_(checkpoint),
        kernels_(kernels),
        dtype_(dtype),
        pool_(pool) {}

  absl::StatusOr<std::unique_ptr<Adapter>> Read() {
    std::map<PeftPlace, const Tensor*> tensors;
    for (const Tensor* tensor : checkpoint_.tensors()) {
      const auto [at, is_new] = tensors.emplace(PlaceOf(tensor->name), tensor);
      if (!is_new && !AreEqual(*at->second, *tensor)) {
        return absl::InvalidArgumentError(
            absl::StrFormat("tensors '%s' and '%s' are the same part of one module, and differ",
                            at->second->name, tensor->name));
      }
      keys_.emplace(at->first, tensor->name);
    }
    auto adapter = std::make_unique<Adapter>();
    RETURN_IF_ERROR(ReadLinears(*adapter));
    RETURN_IF_ERROR(ReadEmbedding(*adapter));
    RETURN_IF_ERROR(ReadOutput(*adapter));  // its update may come on top of a saved embedding
    RETURN_IF_ERROR(ReadNorms(*adapter));
    if (read_.empty()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("adapter_config.json: field 'target_modules': %s matches no module of "
                          "this model; it has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
                          "down_proj, lm_head and embed_tokens",
                          peft_.targets_text()));
    }
    for (const auto& [place, key] : keys_) {
      if (read_.contains(place)) continue;
      return absl::InvalidArgumentError(absl::StrFormat(
          "tensor '%s' belongs to no target module of this model: the adapter was made for another "
          "base, or adapter_config.json does not list it",
          key));
    }
    adapter->digest = digest_.Finish();
    return adapter;
  }

 private:
  bool Has(const PeftPlace& place) const { return keys_.contains(place); }

  // The tensor of a part, whose shape must be this. It counts as read, but not for the digest.
  absl::StatusOr<Tensor> Find(const PeftPlace& place, std::vector<int64_t> shape) {
    const auto found = keys_.find(place);
    const std::string key = found == keys_.end() ? KeyOf(place) : found->second;
    ASSIGN_OR_RETURN(Tensor tensor, checkpoint_.Get(key, shape));
    read_.insert(place);
    return tensor;
  }
  // Named by its place: spellings of one adapter have one digest.
  void AddToDigest(const PeftPlace& place, Tensor tensor) {
    tensor.name = KeyOf(place);
    digest_.AddString(tensor.name).AddString(DigestOfTensor(tensor).AsBytes());
  }
  absl::StatusOr<Tensor> Get(const PeftPlace& place, std::vector<int64_t> shape) {
    ASSIGN_OR_RETURN(const Tensor tensor, Find(place, std::move(shape)));
    AddToDigest(place, tensor);
    return tensor;
  }
  absl::StatusOr<kernels::PackedMatrix> GetPacked(const PeftPlace& place,
                                                  std::vector<int64_t> shape) {
    ASSIGN_OR_RETURN(const Tensor tensor, Get(place, std::move(shape)));
    return PackTensors({&tensor, 1}, kernels_, dtype_, pool_);
  }

  absl::StatusOr<float> Scale(const std::string& module) {
    ASSIGN_OR_RETURN(const double scale, peft_.ScaleOf(module));
    digest_.AddInt(std::bit_cast<int64_t>(scale));
    return static_cast<float>(scale);
  }

  absl::Status ReadLowRank(const std::string& module, LinearShape shape, const LinearRows& base,
                           LowRank& low_rank) {
    ASSIGN_OR_RETURN(const int rank, peft_.RankOf(module));
    ASSIGN_OR_RETURN(low_rank.a, GetPacked({module, PeftPart::kA}, {rank, shape.in}));
    ASSIGN_OR_RETURN(low_rank.b, GetPacked({module, PeftPart::kB}, {shape.out, rank}));
    ASSIGN_OR_RETURN(low_rank.scale, Scale(module));
    if (peft_.has_update_biases()) {
      const PeftPlace place = {module, PeftPart::kUpdateBias};
      ASSIGN_OR_RETURN(const Tensor bias, Find(place, {shape.out}));
      std::vector<float> shift = ToFloats(bias);
      for (float& value : shift) value *= low_rank.scale;
      Shift(place, bias, shift, low_rank);
    }
    if (!peft_.has_magnitudes()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const Tensor magnitude, Get({module, PeftPart::kMagnitude}, {shape.out}));
    low_rank.gain = DoraGain(base, low_rank, ToFloats(magnitude), kernels_, pool_);
    for (const float gain : low_rank.gain) {
      if (std::isfinite(gain)) continue;
      return absl::InvalidArgumentError(absl::StrFormat(
          "tensor '%s': a magnitude that is not finite, or of a row of weights that is zero",
          magnitude.name));
    }
    return absl::OkStatus();
  }

  // Adds to the shift of a layer what a tensor gives. Zeros are as if they were not there.
  void Shift(const PeftPlace& place, const Tensor& tensor, const std::vector<float>& shift,
             LowRank& part) {
    if (std::ranges::all_of(shift, [](float value) { return value == 0; })) return;
    AddToDigest(place, tensor);
    part.shift.resize(shift.size());
    for (size_t i = 0; i < shift.size(); ++i) part.shift[i] += shift[i];
  }

  // A trained bias, in place of the base's. For `lora_only` versions of PEFT look for it under a name
  // that it has no longer, and leave it out (issue 3306 of PEFT): then the base's stays.
  absl::Status ReadBias(const std::string& module, bool targeted, const LinearRows& base,
                        LowRank& part) {
    if (base.bias.empty() || peft_.biases() == PeftBiases::kNone) return absl::OkStatus();
    const PeftPlace place = {module, PeftPart::kBias};
    if (peft_.biases() == PeftBiases::kOfTargets && (!targeted || !Has(place))) {
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const Tensor bias, Find(place, {static_cast<int64_t>(base.bias.size())}));
    std::vector<float> shift = ToFloats(bias);
    for (size_t i = 0; i < shift.size(); ++i) shift[i] -= base.bias[i];
    Shift(place, bias, shift, part);
    return absl::OkStatus();
  }

  absl::Status ReadLinears(Adapter& adapter) {
    adapter.layers.resize(config_.layers);
    for (int layer = 0; layer < config_.layers; ++layer) {
      for (int i = 0; i < kLinears; ++i) {
        const Linear linear = static_cast<Linear>(i);
        const LinearRows base = RowsOf(base_.layers[layer], config_, linear);
        const std::string module = ModuleName(layer, linear);
        LowRank& part = adapter.layers[layer][i];
        ASSIGN_OR_RETURN(const bool targeted, peft_.Targets(module, /*is_linear=*/true));
        if (targeted) RETURN_IF_ERROR(ReadLowRank(module, ShapeOf(config_, linear), base, part));
        RETURN_IF_ERROR(ReadBias(module, targeted, base, part));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadNorm(const std::string& module, const std::vector<float>& base,
                        std::vector<float>& own) {
    if (base.empty() || !peft_.Saves(module)) return absl::OkStatus();
    const PeftPlace place = {module, PeftPart::kWhole};
    ASSIGN_OR_RETURN(const Tensor tensor, Find(place, {static_cast<int64_t>(base.size())}));
    std::vector<float> weight = ToFloats(tensor);
    if (weight == base) return absl::OkStatus();
    AddToDigest(place, tensor);
    own = std::move(weight);
    return absl::OkStatus();
  }

  absl::Status ReadNorms(Adapter& adapter) {
    adapter.own_norms.resize(config_.layers);
    for (int layer = 0; layer < config_.layers; ++layer) {
      for (int i = 0; i < kLayerNorms; ++i) {
        const LayerNorm norm = static_cast<LayerNorm>(i);
        RETURN_IF_ERROR(ReadNorm(ModuleName(layer, norm), NormOf(base_.layers[layer], norm),
                                 adapter.own_norms[layer][i]));
      }
    }
    return ReadNorm("model.norm", base_.norm, adapter.own_norm);
  }

  // A whole matrix: one that is listed, or one that PEFT saved along (save_embedding_layers). One
  // that equals the base's, in few bits where the base has few, is as if it were not there.
  absl::Status ReadWhole(const PeftPlace& place, const kernels::PackedMatrix& base,
                         kernels::PackedMatrix& whole) {
    if (!peft_.Saves(place.module) && !Has(place)) return absl::OkStatus();
    return PackWhole(place, base, whole);
  }
  absl::Status PackWhole(const PeftPlace& place, const kernels::PackedMatrix& base,
                         kernels::PackedMatrix& whole) {
    ASSIGN_OR_RETURN(const Tensor tensor, Find(place, {config_.vocab, config_.hidden}));
    if (IsQuantized(base.dtype)) {
      const QuantizedTensor codes = QuantizeTensor(tensor, base.dtype, pool_);
      if (AreEqual(kernels_.pack_quantized({&codes.view, 1}, pool_), base)) return absl::OkStatus();
    }
    kernels::PackedMatrix packed = PackTensors({&tensor, 1}, kernels_, dtype_, pool_);
    if (AreEqual(packed, base)) return absl::OkStatus();
    AddToDigest(place, tensor);
    whole = std::move(packed);
    return absl::OkStatus();
  }

  absl::Status ReadOutput(Adapter& adapter) {
    ASSIGN_OR_RETURN(const bool targeted, peft_.Targets(kOutput, /*is_linear=*/false));
    RETURN_IF_ERROR(
        ReadWhole({kOutput, PeftPart::kWhole}, base_.output_or_embedding(), adapter.own_output));
    if (!targeted) return absl::OkStatus();
    const kernels::PackedMatrix& under =
        adapter.own_output.rows > 0 ? adapter.own_output : base_.output_or_embedding();
    return ReadLowRank(kOutput, {.out = config_.vocab, .in = config_.hidden}, {under, 0, {}},
                       adapter.output);
  }

  absl::Status ReadEmbedding(Adapter& adapter) {
    ASSIGN_OR_RETURN(const bool targeted, peft_.Targets(kEmbedding, /*is_linear=*/false));
    const PeftPlace whole = {kEmbedding, PeftPart::kWhole};
    RETURN_IF_ERROR(ReadWhole(whole, base_.embedding, adapter.own_embedding));
    const bool ties = peft_.ties_weights() && config_.tied_embeddings;
    if (ties && targeted) {
      return absl::UnimplementedError(
          "adapter_config.json: field 'ensure_weight_tying': not supported for an update of "
          "embed_tokens; save it whole");
    }
    // What was only saved along is loaded into the base's own matrix, which gives logits too.
    const bool is_bases = config_.tied_embeddings && !peft_.Saves(kEmbedding);
    if ((ties || is_bases) && Has(whole) && !Has({kOutput, PeftPart::kWhole})) {
      RETURN_IF_ERROR(PackWhole(whole, base_.embedding, adapter.own_output));
    }
    if (!targeted) return absl::OkStatus();
    if (peft_.has_magnitudes()) {
      return absl::UnimplementedError(
          "adapter_config.json: field 'use_dora': not supported for embed_tokens; save it whole, "
          "or merge the adapter");
    }
    if (peft_.has_update_biases()) {
      return absl::UnimplementedError(
          "adapter_config.json: field 'lora_bias': not supported for embed_tokens, nor by PEFT; "
          "save it whole");
    }
    ASSIGN_OR_RETURN(const int rank, peft_.RankOf(kEmbedding));
    ASSIGN_OR_RETURN(const Tensor a,
                     Get({kEmbedding, PeftPart::kEmbeddingA}, {rank, config_.vocab}));
    adapter.embedding.a = PackTransposed(a, rank, config_.vocab);
    ASSIGN_OR_RETURN(adapter.embedding.b,
                     GetPacked({kEmbedding, PeftPart::kEmbeddingB}, {config_.hidden, rank}));
    ASSIGN_OR_RETURN(adapter.embedding.scale, Scale(kEmbedding));
    return absl::OkStatus();
  }

  // PEFT keeps a of an embedding as [rank, vocab]; rows are looked up by token.
  kernels::PackedMatrix PackTransposed(const Tensor& tensor, int rows, int cols) {
    const std::vector<float> values = ToFloats(tensor);
    std::vector<float> transposed(values.size());
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < cols; ++col) {
        transposed[col * rows + row] = values[row * cols + col];
      }
    }
    const kernels::MatrixView view = {
        .data = transposed.data(), .dtype = kernels::DType::kF32, .rows = cols, .cols = rows};
    return kernels_.pack({&view, 1}, dtype_, pool_);
  }

  const PeftConfig& peft_;
  const ModelConfig& config_;
  const Weights& base_;
  const Checkpoint& checkpoint_;
  const kernels::Kernels& kernels_;
  const kernels::DType dtype_;
  kernels::ThreadPool& pool_;
  std::map<PeftPlace, std::string> keys_;  // as the file has them
  std::set<PeftPlace> read_;
  DigestBuilder digest_;
};

// Pickled tensors can run code where they are read, so they are not.
absl::Status RefusePickled(const std::string& folder) {
  std::error_code ignored;
  if (std::filesystem::exists(folder + "/adapter_model.safetensors", ignored) ||
      !std::filesystem::exists(folder + "/adapter_model.bin", ignored)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      folder +
      "/adapter_model.bin: pickled tensors are not read; convert it to "
      "adapter_model.safetensors (PeftModel.save_pretrained writes that)");
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Adapter>> LoadPeftAdapter(
    const std::string& folder, const ModelConfig& config, const Weights& base,
    const kernels::Kernels& kernels, kernels::DType dtype, kernels::ThreadPool& pool) {
  const std::string config_path = folder + "/adapter_config.json";
  ASSIGN_OR_RETURN(const OrderedJson json,
                   ParseOrderedJsonFile(config_path, kConfigBytesMax, kConfigKeysMax));
  RETURN_IF_ERROR(RefusePickled(folder));
  ASSIGN_OR_RETURN(const auto checkpoint,
                   Checkpoint::OpenFile(folder + "/adapter_model.safetensors"));
  ASSIGN_OR_RETURN(const PeftBase made_for, MadeFor(*checkpoint));
  const absl::StatusOr<PeftConfig> peft = PeftConfig::Parse(json, config.layers, made_for);
  if (!peft.ok()) return Within(config_path, peft.status());
  ASSIGN_OR_RETURN(std::unique_ptr<Adapter> adapter,
                   PeftReader(*peft, config, base, *checkpoint, kernels, dtype, pool).Read());
  adapter->module_digest = DigestOfModule(base.digest, adapter->digest);
  return std::unique_ptr<const Adapter>(std::move(adapter));
}

}  // namespace chorale
