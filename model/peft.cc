#include "model/peft.h"

#include <bit>
#include <cmath>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "model/digest.h"
#include "model/linears.h"
#include "model/safetensors.h"
#include "model/weights.h"

namespace chorale {
namespace {

constexpr int kRankMax = 4096;

struct PeftConfig {
  int rank = 0;
  double scale = 0;
  std::array<bool, kLinears> targets{};
  std::optional<std::set<int>> layers;  // unset: all
};

bool IsEmpty(const Json& value) {
  return value.is_null() || value == false ||
         ((value.is_array() || value.is_object()) && value.empty());
}

// Fields that change results when they are set, and are not known here.
absl::Status RefuseUnknown(const Json& json) {
  for (const char* field : {"use_dora", "modules_to_save", "rank_pattern", "alpha_pattern",
                            "layer_replication", "fan_in_fan_out", "lora_bias", "use_qalora",
                            "trainable_token_indices", "target_parameters", "exclude_modules"}) {
    const auto it = json.find(field);
    if (it != json.end() && !IsEmpty(*it)) {
      return absl::UnimplementedError(
          absl::StrFormat("field '%s': %s is not supported; merge the adapter or train it without",
                          field, DumpJson(*it).substr(0, 80)));
    }
  }
  ASSIGN_OR_RETURN(const std::string type, JsonString(json, "peft_type"));
  if (type != "LORA") {
    return absl::UnimplementedError(
        absl::StrFormat("field 'peft_type': '%s' is not known; expected LORA", type.substr(0, 80)));
  }
  ASSIGN_OR_RETURN(const std::string bias, JsonString(json, "bias", "none"));
  if (bias != "none") {
    return absl::UnimplementedError(
        absl::StrFormat("field 'bias': '%s' is not supported; expected none", bias.substr(0, 80)));
  }
  return absl::OkStatus();
}

// A target is "q_proj" or "self_attn.q_proj".
absl::Status AddTarget(const std::string& target, PeftConfig& config) {
  for (int i = 0; i < kLinears; ++i) {
    const std::string name(kLinearNames[i]);
    if (target == name || absl::EndsWith(name, "." + target)) {
      config.targets[i] = true;
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "field 'target_modules': this model has no linear layer '%s'; known are q_proj, k_proj, "
      "v_proj, o_proj, gate_proj, up_proj, down_proj",
      target.substr(0, 80)));
}

absl::Status ParseTargets(const Json& json, PeftConfig& config) {
  const auto it = json.find("target_modules");
  if (it != json.end() && it->is_string() && *it == "all-linear") {
    config.targets.fill(true);
    return absl::OkStatus();
  }
  if (it == json.end() || !it->is_array() || it->empty()) {
    return absl::InvalidArgumentError(
        "field 'target_modules': expected a list of names or \"all-linear\"");
  }
  for (const Json& target : *it) {
    if (!target.is_string()) {
      return absl::InvalidArgumentError("field 'target_modules': expected names");
    }
    RETURN_IF_ERROR(AddTarget(target.get<std::string>(), config));
  }
  return absl::OkStatus();
}

absl::Status ParseLayers(const Json& json, int layers, PeftConfig& config) {
  const auto it = json.find("layers_to_transform");
  if (it == json.end() || it->is_null()) return absl::OkStatus();
  config.layers.emplace();
  for (const Json& layer : it->is_array() ? *it : Json::array({*it})) {
    if (!layer.is_number_integer() || layer < 0 || layer >= layers) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field 'layers_to_transform': %s is not a layer of this model (0 to %d)",
                          DumpJson(layer).substr(0, 80), layers - 1));
    }
    config.layers->insert(layer.get<int>());
  }
  return absl::OkStatus();
}

absl::StatusOr<PeftConfig> ParsePeftConfig(const Json& json, int layers) {
  if (!json.is_object()) return absl::InvalidArgumentError("expected a JSON object");
  RETURN_IF_ERROR(RefuseUnknown(json));
  PeftConfig config;
  ASSIGN_OR_RETURN(const int64_t rank, JsonInt(json, "r"));
  if (rank < 1 || rank > kRankMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'r': %d is not within [1, %d]", rank, kRankMax));
  }
  config.rank = static_cast<int>(rank);
  ASSIGN_OR_RETURN(const double alpha, JsonNumber(json, "lora_alpha"));
  if (!std::isfinite(alpha) || std::abs(alpha) > 1e6) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'lora_alpha': %g is not within [-1e6, 1e6]", alpha));
  }
  ASSIGN_OR_RETURN(const bool rslora, JsonBool(json, "use_rslora", false));
  // LoRA (arXiv 2106.09685), section 4.1; rank-stabilised (arXiv 2312.03732), section 3.
  config.scale = alpha / (rslora ? std::sqrt(config.rank) : config.rank);
  RETURN_IF_ERROR(ParseTargets(json, config));
  RETURN_IF_ERROR(ParseLayers(json, layers, config));
  return config;
}

// The first tensor of the file that the adapter did not read.
absl::Status RefuseUnread(const Checkpoint& checkpoint, const TensorDigests& read) {
  for (const Tensor* tensor : checkpoint.tensors()) {
    if (!read.contains(tensor->name)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "tensor '%s' belongs to no target module of this model: the adapter was made for another "
          "base, or adapter_config.json does not list it",
          tensor->name));
    }
  }
  return absl::OkStatus();
}

absl::Status InFile(const std::string& file, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrFormat("%s: %s", file, std::string(status.message())));
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Adapter>> LoadPeftAdapter(
    const std::string& folder, const ModelConfig& config, const Digest& base,
    const kernels::Kernels& kernels, kernels::DType dtype, kernels::ThreadPool& pool) {
  const std::string config_path = folder + "/adapter_config.json";
  ASSIGN_OR_RETURN(const Json json, ParseJsonFile(config_path));
  absl::StatusOr<PeftConfig> peft = ParsePeftConfig(json, config.layers);
  if (!peft.ok()) return InFile(config_path, peft.status());
  ASSIGN_OR_RETURN(const auto checkpoint,
                   Checkpoint::OpenFile(folder + "/adapter_model.safetensors"));

  auto adapter = std::make_unique<Adapter>();
  adapter->layers.resize(config.layers);
  TensorDigests read;
  const auto load = [&](const std::string& name, int rows,
                        int cols) -> absl::StatusOr<kernels::PackedMatrix> {
    const int64_t shape[] = {rows, cols};
    ASSIGN_OR_RETURN(const Tensor tensor, checkpoint->Get(name, shape));
    read[name] = DigestOfTensor(tensor);
    return PackTensors({&tensor, 1}, kernels, dtype, pool);
  };
  for (int layer = 0; layer < config.layers; ++layer) {
    if (peft->layers && !peft->layers->contains(layer)) continue;
    for (int i = 0; i < kLinears; ++i) {
      if (!peft->targets[i]) continue;
      const LinearShape shape = ShapeOf(config, static_cast<Linear>(i));
      const std::string name = "base_model.model." + ModuleName(layer, static_cast<Linear>(i));
      LowRank& low_rank = adapter->layers[layer][i];
      ASSIGN_OR_RETURN(low_rank.a, load(name + ".lora_A.weight", peft->rank, shape.in));
      ASSIGN_OR_RETURN(low_rank.b, load(name + ".lora_B.weight", shape.out, peft->rank));
      low_rank.scale = static_cast<float>(peft->scale);
    }
  }
  RETURN_IF_ERROR(RefuseUnread(*checkpoint, read));

  DigestBuilder digest;
  digest.AddString("chorale adapter").AddInt(std::bit_cast<int64_t>(peft->scale));
  for (const auto& [name, tensor] : read) digest.AddString(name).AddString(tensor.AsBytes());
  adapter->digest = digest.Finish();
  adapter->module_digest = DigestOfModule(base, adapter->digest);
  return adapter;
}

}  // namespace chorale
