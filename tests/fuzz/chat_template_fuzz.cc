// Any bytes as a chat template and its context: up to the first zero byte the template, then JSON.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t split = std::min(input.find('\0'), input.size());
  const auto parsed = chorale::ChatTemplate::Parse(input.substr(0, split));
  if (!parsed.ok()) return 0;
  const std::string_view json = input.substr(std::min(split + 1, input.size()));
  auto context = nlohmann::ordered_json::parse(json.begin(), json.end(), nullptr, false);
  if (!context.is_object()) context = nlohmann::ordered_json::object();
  (void)(*parsed)->Render(context);
  return 0;
}
