// Any bytes as one of the files that say how a model's text is read and sampled: the first byte says
// which.
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "model/checkpoint/checkpoint_settings.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static constexpr const char* kFiles[] = {"tokenizer_config.json", "special_tokens_map.json",
                                           "chat_template.json", "chat_template.jinja",
                                           "generation_config.json"};
  if (size == 0) return 0;
  for (const char* file : kFiles) std::filesystem::remove(FuzzFolder() + "/" + file);
  WriteFuzzFile(kFiles[data[0] % std::size(kFiles)],
                {reinterpret_cast<const char*>(data) + 1, size - 1});
  (void)chorale::LoadTextSettings(FuzzFolder());
  const auto generation = chorale::LoadGenerationSettings(FuzzFolder());
  if (!generation.ok()) return 0;
  const chorale::GenerationDefaults& defaults = generation->defaults;
  for (const auto& value : {defaults.temperature, defaults.top_p, defaults.min_p,
                            defaults.repetition_penalty}) {
    if (value && !std::isfinite(*value)) std::abort();
  }
  if (defaults.top_p && *defaults.top_p <= 0) std::abort();
  return 0;
}
