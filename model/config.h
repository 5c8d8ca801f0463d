// What a checkpoint's config.json says about its model, checked.
#pragma once

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
  enum class Kind { kNone, kLinear, kLlama3, kYarn };
  Kind kind = Kind::kNone;
  double factor = 1;
  double low_freq_factor = 1;   // llama3
  double high_freq_factor = 4;  // llama3
  int original_positions = 0;   // llama3, yarn: original_max_position_embeddings
  double beta_fast = 32;        // yarn
  double beta_slow = 1;         // yarn
  double attention_factor = 0;  // yarn: 0 means derived from factor (0.1 ln(factor) + 1)

  bool operator==(const RopeScaling&) const = default;
};

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
  // Longest context. A smaller sliding window takes its place: up to there it hides nothing. With
  // yarn it is at least factor * original_positions.
  int positions_max = 0;
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
