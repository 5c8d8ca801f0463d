// Any bytes as an adapter: up to the first zero byte its adapter_config.json, then its tensors.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "model/peft.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace chorale;
  static kernels::ThreadPool pool(1);
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t split = std::min(input.find('\0'), input.size());
  WriteFuzzFile("adapter_config.json", input.substr(0, split));
  WriteFuzzFile("adapter_model.safetensors", input.substr(std::min(split + 1, input.size())));
  ModelConfig config;
  config.layers = 2;
  config.hidden = 4;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 2;
  config.ffn = 4;
  config.vocab = 6;
  (void)LoadPeftAdapter(FuzzFolder(), config, Digest{}, *kernels::AvailableKernels().front(),
                        kernels::DType::kF32, pool);
  return 0;
}
