// What a checkpoint's config.json says about its model, checked.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "base/token.h"
#include "kernels/tensor.h"

namespace chorale {

// How rotary frequencies are stretched for long contexts (config.json: rope_scaling).
struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3, kYarn, kDynamic, kLongRope };
  Kind kind = Kind::kNone;
  double factor = 1;
  double low_freq_factor = 1;   // llama3
  double high_freq_factor = 4;  // llama3
  int original_positions = 0;   // all but linear: the context before it was stretched
  double beta_fast = 32;        // yarn
  double beta_slow = 1;         // yarn
  // yarn: 0 means derived from factor (0.1 ln(factor) + 1); longrope
  double attention_factor = 0;
  // longrope: of the frequency of each pair of dimensions, in sequences of at most
  // original_positions tokens, and in longer ones
  std::vector<double> short_divisors;
  std::vector<double> long_divisors;

  bool operator==(const RopeScaling&) const = default;
};
// As config.json has it: "default", "linear", "dynamic", "llama3", "yarn", "longrope".
const char* NameOf(RopeScaling::Kind kind);

// Which tokens the queries of a layer see: all before them, or in the layers that have a sliding
// window the last `tokens` of them, their own included.
struct AttentionWindow {
  int tokens = 0;            // 0: no layer has one
  std::vector<bool> layers;  // which have one; empty when none has

  bool operator==(const AttentionWindow&) const = default;
  int of_layer(int layer) const { return tokens > 0 && layers[layer] ? tokens : 0; }
  int layers_windowed() const {
    return static_cast<int>(std::count(layers.begin(), layers.end(), true));
  }
  // What lies further back than this is seen by no layer; 0: there is no such bound.
  int of_all_layers() const {
    return tokens > 0 && layers_windowed() == static_cast<int>(layers.size()) ? tokens : 0;
  }
};

inline constexpr int kPositionsMax = 1 << 24;

// The shape of a decoder-only transformer. Architectures: LlamaForCausalLM, MistralForCausalLM,
// Qwen2ForCausalLM, Qwen3ForCausalLM.
struct ModelConfig {
  std::string architecture;
  int layers = 0;
  int hidden = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int ffn = 0;
  int vocab = 0;
  // Longest context, stretched by yarn, dynamic and longrope, and which setting says so.
  int positions_max = 0;
  std::string context_reason;
  AttentionWindow window;
  float norm_eps = 0;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tied_embeddings = false;
  bool qkv_bias = false;
  bool o_bias = false;  // Llama and Qwen3 with attention_bias
  bool qk_norm = false;
  std::vector<TokenId> eos_ids;  // config.json and generation_config.json
  std::string dtype;             // torch_dtype as written, empty when absent
  // What the matrices of the checkpoint are in, when `chorale convert` wrote it (kI8, kI4).
  std::optional<kernels::DType> quantization;

  // Sequences of more tokens than this have other rotary frequencies, for all of their tokens:
  // their K/V is written anew when they grow beyond (longrope). 0: there is no such length.
  int short_context() const {
    return rope_scaling.kind == RopeScaling::Kind::kLongRope &&
                   rope_scaling.original_positions < positions_max
               ? rope_scaling.original_positions
               : 0;
  }
  int q_size() const { return heads * head_dim; }
  int kv_size() const { return kv_heads * head_dim; }
  kernels::KvShape kv_shape(kernels::DType dtype) const {
    return {.layers = layers, .kv_heads = kv_heads, .head_dim = head_dim, .dtype = dtype};
  }
};

// The field of config.json that says what `chorale convert` made of the matrices, its value, and
// what a value is read back as: nothing for another method, number of bits, group or version.
inline constexpr char kQuantizationField[] = "quantization_config";
Json QuantizationToJson(kernels::DType dtype);
std::optional<kernels::DType> QuantizationFromJson(const Json& json);

// InvalidArgument names the field, its value and what is allowed; Unimplemented names an
// architecture, rope scaling, activation or quantisation that is not known. Absent fields take the
// defaults of Hugging Face's configuration classes.
absl::StatusOr<ModelConfig> ParseModelConfig(const Json& config);
// Reads config.json and, when present, generation_config.json of a model folder.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_folder);

}  // namespace chorale
