// Any bytes as an adapter: up to the first zero byte its adapter_config.json, then its tensors. One
// that is taken is run too.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "model/checkpoint/random_checkpoint.h"
#include "model/transformer.h"
#include "tests/fuzz/fuzz_folder.h"
#include "tests/model/model_run.h"

namespace {

std::unique_ptr<const chorale::Transformer> LoadBase(chorale::kernels::ThreadPool& pool) {
  using namespace chorale;
  ModelConfig config;
  config.architecture = "Qwen3ForCausalLM";
  config.layers = 2;
  config.hidden = 4;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 2;
  config.ffn = 4;
  config.vocab = 6;
  config.positions_max = 64;
  config.norm_eps = 1e-6f;
  config.qkv_bias = config.o_bias = config.qk_norm = true;
  const std::string folder = FuzzFolder() + "/base";
  std::filesystem::create_directories(folder);
  CHECK(WriteRandomCheckpoint(folder, config, kernels::DType::kF32, 1).ok());
  auto model = Transformer::Load(folder, {.kernels = kernels::AvailableKernels().front()}, pool);
  CHECK(model.ok()) << model.status().message();
  return *std::move(model);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace chorale;
  static kernels::ThreadPool pool(1);
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t split = std::min(input.find('\0'), input.size());
  WriteFuzzFile("adapter_config.json", input.substr(0, split));
  WriteFuzzFile("adapter_model.safetensors", input.substr(std::min(split + 1, input.size())));
  static const auto model = LoadBase(pool);
  const auto adapter = model->LoadAdapter(FuzzFolder(), pool);
  if (adapter.ok()) LogitsOf(*model, std::vector<TokenId>{1, 5, 0}, /*chunk=*/2, adapter->get());
  return 0;
}
