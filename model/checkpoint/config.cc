#include "model/checkpoint/config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "kernels/formats/quantize.h"
#include "model/checkpoint/config_fields.h"
#include "model/checkpoint/config_rope.h"

namespace chorale {
namespace {

constexpr char kQuantizationMethod[] = "chorale";

// Far beyond any model of these architectures, and small enough that no product of two of them, nor
// the bytes of a block, comes near an overflow.
constexpr int kLayersMax = 1024;
constexpr int kHiddenMax = 65536;
constexpr int kHeadsMax = 1024;
constexpr int kHeadDimMax = 512;
constexpr int kFfnMax = 1 << 19;
constexpr int kVocabMax = 1 << 22;
// max_window_layers of Qwen's configuration classes.
constexpr int kFirstWindowLayerDefault = 28;

// How the architectures differ, besides names: the defaults of their configuration classes.
struct Architecture {
  std::string_view name;
  std::string_view model_type;
  bool qkv_bias_always = false;
  bool reads_attention_bias = false;
  bool qk_norm = false;
  int head_dim_default = 0;  // 0: hidden / heads
  int positions_default = 0;
  int window_default = 0;            // 0: no layer can have one
  bool window_needs_switch = false;  // sliding_window counts only with use_sliding_window
};

constexpr std::array<Architecture, 4> kArchitectures = {{
    {.name = "LlamaForCausalLM",
     .model_type = "llama",
     .reads_attention_bias = true,
     .positions_default = 2048},
    {.name = "MistralForCausalLM",
     .model_type = "mistral",
     .positions_default = 131072,
     .window_default = 4096},
    {.name = "Qwen2ForCausalLM",
     .model_type = "qwen2",
     .qkv_bias_always = true,
     .positions_default = 32768,
     .window_default = 4096,
     .window_needs_switch = true},
    {.name = "Qwen3ForCausalLM",
     .model_type = "qwen3",
     .reads_attention_bias = true,
     .qk_norm = true,
     .head_dim_default = 128,
     .positions_default = 32768,
     .window_default = 4096,
     .window_needs_switch = true},
}};

absl::StatusOr<const Architecture*> FindArchitecture(const Json& config) {
  std::string found;
  const auto list = config.find("architectures");
  if (list != config.end() && !list->is_null()) {
    if (!list->is_array() || list->size() != 1 || !(*list)[0].is_string()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'architectures': expected a list of one name, found %s", JsonExcerpt(*list)));
    }
    found = (*list)[0].get<std::string>();
  } else {
    ASSIGN_OR_RETURN(found, JsonString(config, "model_type"));
  }
  for (const Architecture& a : kArchitectures) {
    if (found == a.name || found == a.model_type) return &a;
  }
  std::vector<std::string> known;
  for (const Architecture& a : kArchitectures) known.emplace_back(a.name);
  return absl::UnimplementedError(
      absl::StrFormat("field 'architectures': '%s' is not known; known are %s", found.substr(0, 80),
                      absl::StrJoin(known, ", ")));
}

absl::Status ParseShape(const Json& json, const Architecture& a, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.layers, IntWithin(json, "num_hidden_layers", 0, 1, kLayersMax));
  ASSIGN_OR_RETURN(config.hidden, IntWithin(json, "hidden_size", 0, 1, kHiddenMax));
  ASSIGN_OR_RETURN(config.heads, IntWithin(json, "num_attention_heads", 0, 1, kHeadsMax));
  ASSIGN_OR_RETURN(config.kv_heads,
                   IntWithin(json, "num_key_value_heads", config.heads, 1, kHeadsMax));
  ASSIGN_OR_RETURN(config.ffn, IntWithin(json, "intermediate_size", 0, 1, kFfnMax));
  ASSIGN_OR_RETURN(config.vocab, IntWithin(json, "vocab_size", 0, 1, kVocabMax));
  if (config.heads % config.kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'num_key_value_heads': %d does not divide num_attention_heads = %d",
                        config.kv_heads, config.heads));
  }
  if (!JsonHas(json, "head_dim") && a.head_dim_default == 0 && config.hidden % config.heads != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'hidden_size': %d is not a multiple of num_attention_heads = %d; set 'head_dim'",
        config.hidden, config.heads));
  }
  const int head_dim = a.head_dim_default != 0 ? a.head_dim_default : config.hidden / config.heads;
  ASSIGN_OR_RETURN(config.head_dim,
                   IntWithin(json, "head_dim", std::max(head_dim, 1), 2, kHeadDimMax));
  if (config.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'head_dim': %d is odd; rotary embeddings need an even one", config.head_dim));
  }
  return absl::OkStatus();
}

// The layers that have a sliding window, by layer_types.
absl::StatusOr<std::vector<bool>> WindowedLayers(const Json& types, int layers) {
  if (!types.is_array() || static_cast<int>(types.size()) != layers) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'layer_types': expected a list of %d names, one a layer, found %s",
                        layers, JsonExcerpt(types)));
  }
  std::vector<bool> windowed;
  for (const Json& type : types) {
    if (type != "sliding_attention" && type != "full_attention") {
      return absl::UnimplementedError(absl::StrFormat(
          "field 'layer_types': %s is not known; known are full_attention, sliding_attention",
          JsonExcerpt(type)));
    }
    windowed.push_back(type == "sliding_attention");
  }
  return windowed;
}

// Mistral has a window in every layer unless sliding_window is null, Qwen2 and Qwen3 where
// use_sliding_window is true in the layers from max_window_layers on; layer_types, where a file has
// them, say which layers in place of that.
absl::Status ParseWindow(const Json& json, const Architecture& a, ModelConfig& config) {
  std::vector<bool> layers(config.layers, !a.window_needs_switch);
  ASSIGN_OR_RETURN(const bool switched, JsonBool(json, "use_sliding_window", false));
  if (a.window_needs_switch && switched) {
    ASSIGN_OR_RETURN(const int first,
                     IntWithin(json, "max_window_layers", kFirstWindowLayerDefault, 0, kLayersMax));
    for (int layer = first; layer < config.layers; ++layer) layers[layer] = true;
  }
  const bool named = JsonHas(json, "layer_types");
  if (named) {
    ASSIGN_OR_RETURN(layers, WindowedLayers(json["layer_types"], config.layers));
  }
  const bool some = std::find(layers.begin(), layers.end(), true) != layers.end();
  if (named && some && a.window_default == 0) {
    return absl::UnimplementedError(
        absl::StrFormat("field 'layer_types': sliding_attention is not known for %s", a.name));
  }
  const bool none = json.contains("sliding_window") && json["sliding_window"].is_null();
  if (a.window_default == 0 || !some || (none && !named)) return absl::OkStatus();
  if (none || (a.window_needs_switch && !switched)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'layer_types': sliding_attention, but %s; say which holds",
                        none ? "sliding_window is null" : "use_sliding_window is not true"));
  }
  ASSIGN_OR_RETURN(config.window.tokens,
                   IntWithin(json, "sliding_window", a.window_default, 1, kPositionsMax));
  if (config.window.tokens >= config.positions_max) {
    config.window.tokens = 0;  // it hides nothing
  } else {
    config.window.layers = std::move(layers);
  }
  return absl::OkStatus();
}

absl::Status RefuseUnknownParts(const Json& json) {
  ASSIGN_OR_RETURN(const std::string activation, JsonString(json, "hidden_act", "silu"));
  if (activation != "silu") {
    return absl::UnimplementedError(absl::StrFormat(
        "field 'hidden_act': '%s' is not known; silu is", activation.substr(0, 80)));
  }
  ASSIGN_OR_RETURN(const bool mlp_bias, JsonBool(json, "mlp_bias", false));
  if (mlp_bias) return absl::UnimplementedError("field 'mlp_bias': true is not known; false is");
  ASSIGN_OR_RETURN(const double share, JsonNumber(json, "partial_rotary_factor", 1));
  if (share != 1) {
    return absl::UnimplementedError(
        absl::StrFormat("field 'partial_rotary_factor': %g is not known; 1 is", share));
  }
  for (const std::string_view field : {kQuantizationField, "compression_config"}) {
    if (!JsonHas(json, field)) continue;
    const Json& quantization = json[field];
    if (field == kQuantizationField && QuantizationFromJson(quantization)) continue;
    const auto method = JsonString(quantization, "quant_method", JsonExcerpt(quantization));
    return absl::UnimplementedError(absl::StrFormat(
        "field '%s': quantisation '%s' is not known; use the checkpoint in f32, f16 or bf16", field,
        method.ok() ? method->substr(0, 80) : JsonExcerpt(quantization)));
  }
  return absl::OkStatus();
}

// Adds the ids of eos_token_id, an integer or a list of them.
absl::Status AddEosIds(const Json& json, ModelConfig& config) {
  if (!JsonHas(json, "eos_token_id")) return absl::OkStatus();
  const Json& field = json["eos_token_id"];
  const Json list = field.is_array() ? field : Json::array({field});
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id >= config.vocab) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field 'eos_token_id': %s is not a token id within [0, %d]",
                          JsonExcerpt(id), config.vocab - 1));
    }
    const TokenId token = id.get<TokenId>();
    if (std::find(config.eos_ids.begin(), config.eos_ids.end(), token) == config.eos_ids.end()) {
      config.eos_ids.push_back(token);
    }
  }
  return absl::OkStatus();
}

}  // namespace

Json QuantizationToJson(kernels::DType dtype) {
  return {{"quant_method", kQuantizationMethod},
          {"bits", dtype == kernels::DType::kI8 ? 8 : 4},
          {"group_size", kernels::kQuantGroup},
          {"version", kernels::kQuantVersion}};
}

std::optional<kernels::DType> QuantizationFromJson(const Json& json) {
  for (kernels::DType dtype : {kernels::DType::kI8, kernels::DType::kI4}) {
    if (json == QuantizationToJson(dtype)) return dtype;
  }
  return std::nullopt;
}

absl::StatusOr<ModelConfig> ParseModelConfig(const Json& json) {
  if (!json.is_object()) return absl::InvalidArgumentError("config.json is not an object");
  ASSIGN_OR_RETURN(const Architecture* a, FindArchitecture(json));
  RETURN_IF_ERROR(RefuseUnknownParts(json));
  ModelConfig config;
  config.architecture = std::string(a->name);
  RETURN_IF_ERROR(ParseShape(json, *a, config));
  ASSIGN_OR_RETURN(config.positions_max, IntWithin(json, "max_position_embeddings",
                                                   a->positions_default, 1, kPositionsMax));
  config.context_reason = JsonHas(json, "max_position_embeddings")
                              ? "max_position_embeddings"
                              : absl::StrFormat("the default of %s", a->name);
  RETURN_IF_ERROR(ParseRope(json, config));
  RETURN_IF_ERROR(ParseWindow(json, *a, config));
  ASSIGN_OR_RETURN(const double eps, NumberWithin(json, "rms_norm_eps", 1e-6, 1e-12, 1));
  config.norm_eps = static_cast<float>(eps);
  ASSIGN_OR_RETURN(config.tied_embeddings, JsonBool(json, "tie_word_embeddings", false));
  ASSIGN_OR_RETURN(const bool attention_bias, JsonBool(json, "attention_bias", false));
  config.o_bias = a->reads_attention_bias && attention_bias;
  config.qkv_bias = a->qkv_bias_always || config.o_bias;
  config.qk_norm = a->qk_norm;
  ASSIGN_OR_RETURN(const std::string dtype, JsonString(json, "dtype", ""));
  ASSIGN_OR_RETURN(config.dtype, JsonString(json, "torch_dtype", dtype));
  if (JsonHas(json, kQuantizationField)) {
    config.quantization = QuantizationFromJson(json[kQuantizationField]);
  }
  RETURN_IF_ERROR(AddEosIds(json, config));
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_folder) {
  const std::string path = model_folder + "/config.json";
  ASSIGN_OR_RETURN(const Json json, ParseJsonFile(path));
  absl::StatusOr<ModelConfig> config = ParseModelConfig(json);
  if (!config.ok()) return Within(path, config.status());
  const std::string generation_path = model_folder + "/generation_config.json";
  ASSIGN_OR_RETURN(const std::optional<Json> generation, ObjectIn(generation_path));
  if (generation) RETURN_IF_ERROR(Within(generation_path, AddEosIds(*generation, *config)));
  return config;
}

}  // namespace chorale
