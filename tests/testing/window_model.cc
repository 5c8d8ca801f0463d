#include "tests/testing/window_model.h"

#include <algorithm>
#include <fstream>

#include "base/check.h"
#include "model/checkpoint/random_checkpoint.h"
#include "tests/testing/tiny_model.h"

namespace chorale {

std::vector<WindowKind> WindowKinds() {
  const char* mistral = "MistralForCausalLM";
  const char* qwen2 = "Qwen2ForCausalLM";
  const char* qwen3 = "Qwen3ForCausalLM";
  const Json long_rope = {{"rope_type", "longrope"},
                          {"short_factor", {1, 1, 1.25, 1.5}},
                          {"long_factor", {1, 2.5, 5, 8}}};
  const Json alternating = {"full_attention", "sliding_attention", "sliding_attention",
                            "full_attention"};
  return {
      {"no window", mistral, {{"sliding_window", nullptr}}},
      {"every layer", mistral, {{"sliding_window", 40}}},
      {"one block", mistral, {{"sliding_window", 16}}},
      {"a block and a token", mistral, {{"sliding_window", 17}}},
      {"one token", mistral, {{"sliding_window", 1}}},
      {"layers by type", mistral, {{"sliding_window", 33}, {"layer_types", alternating}}},
      {"switched off", qwen2, {{"sliding_window", 20}, {"use_sliding_window", false}}},
      {"the last two layers",
       qwen2,
       {{"sliding_window", 20}, {"use_sliding_window", true}, {"max_window_layers", 2}}},
      {"from the first layer on",
       qwen2,
       {{"sliding_window", 50}, {"use_sliding_window", true}, {"max_window_layers", 0}}},
      {"behind the last layer",
       qwen2,
       {{"sliding_window", 20}, {"use_sliding_window", true}, {"max_window_layers", 4}}},
      {"qwen3 by type",
       qwen3,
       {{"sliding_window", 24}, {"use_sliding_window", true}, {"layer_types", alternating}}},
      {"longer than the context", mistral, {{"sliding_window", 4096}}},
      {"linear",
       mistral,
       {{"sliding_window", 40}, {"rope_scaling", {{"rope_type", "linear"}, {"factor", 4}}}}},
      {"dynamic",
       qwen3,
       {{"max_position_embeddings", 64},
        {"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 4}}}}},
      {"longrope", qwen2, {{"original_max_position_embeddings", 60}, {"rope_scaling", long_rope}}},
      {"longrope with a window",
       mistral,
       {{"sliding_window", 30},
        {"original_max_position_embeddings", 60},
        {"rope_scaling", long_rope}}},
  };
}

WindowKind WindowKindNamed(const std::string& name) {
  const std::vector<WindowKind> kinds = WindowKinds();
  const auto found = std::find_if(kinds.begin(), kinds.end(),
                                  [&](const WindowKind& kind) { return kind.name == name; });
  CHECK(found != kinds.end()) << name;
  return *found;
}

void WriteWindowModel(const WindowKind& kind, const std::string& folder) {
  ModelConfig config = TinyConfig();
  config.architecture = kind.architecture;
  config.layers = 4;
  config.positions_max = 256;
  config.qk_norm = config.architecture == "Qwen3ForCausalLM";
  config.qkv_bias = config.architecture == "Qwen2ForCausalLM";
  const absl::Status status =
      WriteRandomCheckpoint(folder, config, kernels::DType::kF32, /*seed=*/11);
  CHECK(status.ok()) << status.message();
  Json json = *ParseJsonFile(folder + "/config.json");
  json.update(kind.fields);
  std::ofstream file(folder + "/config.json");
  file << json.dump() << std::flush;
  CHECK(file.good()) << folder;
}

}  // namespace chorale
