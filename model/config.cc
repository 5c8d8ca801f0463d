#include "model/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "kernels/quantize.h"

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
constexpr int kPositionsMax = 1 << 24;
constexpr double kRopeFactorMax = 1e6;

// How the architectures differ, besides names: the defaults of their configuration classes.
struct Architecture {
  std::string_view name;
  std::string_view model_type;
  bool qkv_bias_always = false;
  bool reads_attention_bias = false;
  bool qk_norm = false;
  int head_dim_default = 0;  // 0: hidden / heads
  int positions_default = 0;
  int window_default = 0;            // 0: none
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

std::string Shown(const Json& value) { return DumpJson(value).substr(0, 80); }

bool IsSet(const Json& object, std::string_view field) {
  const auto it = object.find(field);
  return it != object.end() && !it->is_null();
}

absl::Status OutOfRange(std::string_view field, double value, double low, double high) {
  return absl::InvalidArgumentError(
      absl::StrFormat("field '%s': %g is not within [%g, %g]", field, value, low, high));
}

// The integer `field` within [low, high]; `fallback` 0 makes it required.
absl::StatusOr<int> IntWithin(const Json& object, std::string_view field, int64_t fallback,
                              int64_t low, int64_t high) {
  ASSIGN_OR_RETURN(const int64_t value,
                   fallback == 0 ? JsonInt(object, field) : JsonInt(object, field, fallback));
  if (value < low || value > high) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': %d is not within [%d, %d]", field, value, low, high));
  }
  return static_cast<int>(value);
}

absl::StatusOr<double> NumberWithin(const Json& object, std::string_view field, double fallback,
                                    double low, double high) {
  ASSIGN_OR_RETURN(const double value, JsonNumber(object, field, fallback));
  if (!(value >= low && value <= high)) return OutOfRange(field, value, low, high);
  return value;
}

absl::StatusOr<const Architecture*> FindArchitecture(const Json& config) {
  std::string found;
  const auto list = config.find("architectures");
  if (list != config.end() && !list->is_null()) {
    if (!list->is_array() || list->size() != 1 || !(*list)[0].is_string()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'architectures': expected a list of one name, found %s", Shown(*list)));
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
  if (!IsSet(json, "head_dim") && a.head_dim_default == 0 && config.hidden % config.heads != 0) {
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

// mscale of the YaRN paper's temperature, as DeepSeek's checkpoints write it.
double YarnScale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

absl::Status ParseYarn(const Json& json, int positions, RopeScaling& rope) {
  ASSIGN_OR_RETURN(rope.original_positions, IntWithin(json, "original_max_position_embeddings",
                                                      positions, 1, kPositionsMax));
  const double ratio = std::max(1.0, static_cast<double>(positions) / rope.original_positions);
  ASSIGN_OR_RETURN(rope.factor, NumberWithin(json, "factor", ratio, 1, kRopeFactorMax));
  ASSIGN_OR_RETURN(rope.beta_fast, NumberWithin(json, "beta_fast", 32, 1e-3, 1e6));
  ASSIGN_OR_RETURN(rope.beta_slow, NumberWithin(json, "beta_slow", 1, 1e-3, rope.beta_fast));
  ASSIGN_OR_RETURN(const double mscale, NumberWithin(json, "mscale", 0, 0, 100));
  ASSIGN_OR_RETURN(const double mscale_all, NumberWithin(json, "mscale_all_dim", 0, 0, 100));
  const double derived = mscale > 0 && mscale_all > 0
                             ? YarnScale(rope.factor, mscale) / YarnScale(rope.factor, mscale_all)
                             : YarnScale(rope.factor, 1);
  ASSIGN_OR_RETURN(rope.attention_factor,
                   NumberWithin(json, "attention_factor", derived, 1e-3, 1e3));
  ASSIGN_OR_RETURN(const bool truncate, JsonBool(json, "truncate", true));
  if (!truncate) {
    return absl::UnimplementedError("field 'truncate': false is not known for yarn; true is");
  }
  return absl::OkStatus();
}

absl::Status ParseLlama3(const Json& json, RopeScaling& rope) {
  if (!IsSet(json, "factor")) return absl::InvalidArgumentError("field 'factor' is missing");
  ASSIGN_OR_RETURN(rope.factor, NumberWithin(json, "factor", 1, 1, kRopeFactorMax));
  ASSIGN_OR_RETURN(rope.low_freq_factor, NumberWithin(json, "low_freq_factor", 1, 1e-3, 1e6));
  ASSIGN_OR_RETURN(rope.high_freq_factor, NumberWithin(json, "high_freq_factor", 4, 1e-3, 1e6));
  ASSIGN_OR_RETURN(rope.original_positions,
                   IntWithin(json, "original_max_position_embeddings", 0, 1, kPositionsMax));
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'high_freq_factor': %g is not above low_freq_factor = %g",
                        rope.high_freq_factor, rope.low_freq_factor));
  }
  return absl::OkStatus();
}

absl::Status ParseScaling(const Json& json, int positions, RopeScaling& rope) {
  ASSIGN_OR_RETURN(const std::string legacy, JsonString(json, "type", "default"));
  ASSIGN_OR_RETURN(const std::string kind, JsonString(json, "rope_type", legacy));
  if (kind == "default" || kind == "none") return absl::OkStatus();
  if (kind == "linear") {
    rope.kind = RopeScaling::Kind::kLinear;
    if (!IsSet(json, "factor")) return absl::InvalidArgumentError("field 'factor' is missing");
    ASSIGN_OR_RETURN(rope.factor, NumberWithin(json, "factor", 1, 1, kRopeFactorMax));
    return absl::OkStatus();
  }
  if (kind == "llama3") {
    rope.kind = RopeScaling::Kind::kLlama3;
    return ParseLlama3(json, rope);
  }
  if (kind == "yarn") {
    rope.kind = RopeScaling::Kind::kYarn;
    return ParseYarn(json, positions, rope);
  }
  return absl::UnimplementedError(
      absl::StrFormat("field 'rope_type': '%s' is not known; known are default, linear, llama3, "
                      "yarn",
                      kind.substr(0, 80)));
}

// rope_scaling, or rope_parameters, which holds rope_theta too.
absl::Status ParseRope(const Json& json, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.rope_theta, NumberWithin(json, "rope_theta", 10000, 1.001, 1e12));
  for (const char* field : {"rope_scaling", "rope_parameters"}) {
    if (!IsSet(json, field)) continue;
    const Json& rope = json[field];
    if (!rope.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field '%s': expected an object, found %s", field, Shown(rope)));
    }
    for (const auto& [name, value] : rope.items()) {
      if (!value.is_object()) continue;
      return absl::UnimplementedError(absl::StrFormat(
          "field '%s.%s': settings of their own per layer type are not known", field, name));
    }
    const absl::Status status = [&]() -> absl::Status {
      RETURN_IF_ERROR(ParseScaling(rope, config.positions_max, config.rope_scaling));
      ASSIGN_OR_RETURN(config.rope_theta,
                       NumberWithin(rope, "rope_theta", config.rope_theta, 1.001, 1e12));
      ASSIGN_OR_RETURN(const double share, JsonNumber(rope, "partial_rotary_factor", 1));
      if (share == 1) return absl::OkStatus();
      return absl::UnimplementedError(
          absl::StrFormat("field 'partial_rotary_factor': %g is not known; 1 is", share));
    }();
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrFormat("in '%s': %s", field, status.message()));
    }
  }
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::kYarn) {
    const double stretched = scaling.factor * scaling.original_positions;
    config.positions_max =
        static_cast<int>(std::clamp<double>(stretched, config.positions_max, kPositionsMax));
  }
  return absl::OkStatus();
}

// The sliding window that holds for some layer of this model, 0 for none.
absl::StatusOr<int> ParseWindow(const Json& json, const Architecture& a) {
  if (a.window_default == 0) return 0;
  ASSIGN_OR_RETURN(bool windowed, JsonBool(json, "use_sliding_window", !a.window_needs_switch));
  if (IsSet(json, "layer_types")) {
    const Json& types = json["layer_types"];
    if (!types.is_array()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field 'layer_types': expected a list, found %s", Shown(types)));
    }
    windowed = false;
    for (const Json& type : types) {
      if (type == "sliding_attention") {
        windowed = true;
      } else if (type != "full_attention") {
        return absl::UnimplementedError(absl::StrFormat(
            "field 'layer_types': %s is not known; known are full_attention, sliding_attention",
            Shown(type)));
      }
    }
  }
  const bool none = json.contains("sliding_window") && json["sliding_window"].is_null();
  if (!windowed || none) return 0;
  return IntWithin(json, "sliding_window", a.window_default, 1, kPositionsMax);
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
    if (!IsSet(json, field)) continue;
    const Json& quantization = json[field];
    if (field == kQuantizationField && QuantizationFromJson(quantization)) continue;
    const auto method = JsonString(quantization, "quant_method", Shown(quantization));
    return absl::UnimplementedError(absl::StrFormat(
        "field '%s': quantisation '%s' is not known; use the checkpoint in f32, f16 or bf16", field,
        method.ok() ? method->substr(0, 80) : Shown(quantization)));
  }
  return absl::OkStatus();
}

// Adds the ids of eos_token_id, an integer or a list of them.
absl::Status AddEosIds(const Json& json, ModelConfig& config) {
  if (!json.is_object() || !IsSet(json, "eos_token_id")) return absl::OkStatus();
  const Json& field = json["eos_token_id"];
  const Json list = field.is_array() ? field : Json::array({field});
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id >= config.vocab) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field 'eos_token_id': %s is not a token id within [0, %d]", Shown(id),
                          config.vocab - 1));
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
  RETURN_IF_ERROR(ParseRope(json, config));
  ASSIGN_OR_RETURN(const int window, ParseWindow(json, *a));
  if (window > 0) config.positions_max = std::min(config.positions_max, window);
  ASSIGN_OR_RETURN(const double eps, NumberWithin(json, "rms_norm_eps", 1e-6, 1e-12, 1));
  config.norm_eps = static_cast<float>(eps);
  ASSIGN_OR_RETURN(config.tied_embeddings, JsonBool(json, "tie_word_embeddings", false));
  ASSIGN_OR_RETURN(const bool attention_bias, JsonBool(json, "attention_bias", false));
  config.o_bias = a->reads_attention_bias && attention_bias;
  config.qkv_bias = a->qkv_bias_always || config.o_bias;
  config.qk_norm = a->qk_norm;
  ASSIGN_OR_RETURN(const std::string dtype, JsonString(json, "dtype", ""));
  ASSIGN_OR_RETURN(config.dtype, JsonString(json, "torch_dtype", dtype));
  if (IsSet(json, kQuantizationField)) {
    config.quantization = QuantizationFromJson(json[kQuantizationField]);
  }
  RETURN_IF_ERROR(AddEosIds(json, config));
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_folder) {
  const auto within = [](const std::string& path, const absl::Status& status) {
    return absl::Status(status.code(), absl::StrFormat("%s: %s", path, status.message()));
  };
  const std::string path = model_folder + "/config.json";
  ASSIGN_OR_RETURN(const Json json, ParseJsonFile(path));
  absl::StatusOr<ModelConfig> config = ParseModelConfig(json);
  if (!config.ok()) return within(path, config.status());
  const std::string generation_path = model_folder + "/generation_config.json";
  std::error_code ignored;
  if (std::filesystem::exists(generation_path, ignored)) {
    ASSIGN_OR_RETURN(const Json generation, ParseJsonFile(generation_path));
    if (absl::Status status = AddEosIds(generation, *config); !status.ok()) {
      return within(generation_path, status);
    }
  }
  return config;
}

}  // namespace chorale
