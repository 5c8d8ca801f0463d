// Any bytes as a chorale.yaml. What is accepted must keep its promises to the code behind it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "model/catalog.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto catalog = chorale::ParseCatalog({reinterpret_cast<const char*>(data), size}, "family",
                                             "chorale.yaml");
  if (!catalog.ok()) {
    Require(!catalog.status().message().empty());
    return 0;
  }
  Require(!catalog->base.empty() && !catalog->models.empty());
  for (const chorale::ModelSpec& model : catalog->models) {
    Require(!model.name.empty());
    Require(model.decoder.is_base() || model.mode == chorale::Mode::kSun);
    Require(model.module.adapter.empty() || model.module.weights.empty());
  }
  return 0;
}
