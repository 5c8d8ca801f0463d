// Any bytes as a config.json. What is accepted must keep its promises to the code behind it.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/json.h"
#include "model/checkpoint/config.h"
#include "model/rope.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto json = chorale::ParseJson({reinterpret_cast<const char*>(data), size}, "config.json");
  if (!json.ok()) return 0;
  const auto config = chorale::ParseModelConfig(*json);
  if (!config.ok()) return 0;
  Require(config->layers > 0 && config->hidden > 0 && config->ffn > 0 && config->vocab > 0);
  Require(config->positions_max > 0 && config->norm_eps > 0);
  Require(config->kv_heads > 0 && config->heads % config->kv_heads == 0);
  Require(config->head_dim > 0 && config->head_dim % 2 == 0);
  Require(config->kv_shape(chorale::kernels::DType::kF32).block_bytes() > 0);
  for (chorale::TokenId id : config->eos_ids) Require(id >= 0 && id < config->vocab);
  const chorale::Rope rope(*config);
  for (int position : {0, config->positions_max / 2, config->positions_max - 1}) {
    for (bool long_context : {false, true}) {
      for (double frequency : rope.FrequenciesAt({position, long_context})) {
        Require(std::isfinite(frequency));
      }
    }
  }
  Require(config->window.tokens >= 0 && config->window.tokens < config->positions_max);
  for (int layer : {0, config->layers - 1}) Require(config->window.of_layer(layer) >= 0);
  Require(config->short_context() < config->positions_max);
  Require(std::isfinite(rope.amplitude()));
  return 0;
}
