// The linear layers and norms of a transformer block: their names in a checkpoint, their shapes.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "model/adapter/adapter.h"
#include "model/checkpoint/config.h"

namespace chorale {

// Indexed by Linear; under "model.layers.<n>.".
inline constexpr std::array<std::string_view, kLinears> kLinearNames = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

// Indexed by LayerNorm, likewise.
inline constexpr std::array<std::string_view, kLayerNorms> kNormNames = {
    "input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"};

struct LinearShape {
  int out = 0;
  int in = 0;
};

inline LinearShape ShapeOf(const ModelConfig& config, Linear linear) {
  switch (linear) {
    case Linear::kQ:
      return {config.q_size(), config.hidden};
    case Linear::kK:
    case Linear::kV:
      return {config.kv_size(), config.hidden};
    case Linear::kO:
      return {config.hidden, config.q_size()};
    case Linear::kGate:
    case Linear::kUp:
      return {config.ffn, config.hidden};
    case Linear::kDown:
      return {config.hidden, config.ffn};
  }
  __builtin_unreachable();
}

// "model.layers.3.self_attn.q_proj"
inline std::string ModuleName(int layer, Linear linear) {
  return "model.layers." + std::to_string(layer) + "." +
         std::string(kLinearNames[static_cast<int>(linear)]);
}

// "model.layers.3.input_layernorm"
inline std::string ModuleName(int layer, LayerNorm norm) {
  return "model.layers." + std::to_string(layer) + "." +
         std::string(kNormNames[static_cast<int>(norm)]);
}

}  // namespace chorale
