#include "model/adapter/peft_keys.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace chorale {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kBias = ".bias";

// How keys end. Between a part's name and ".weight" or ".bias" may stand the name of the adapter.
struct Ending {
  std::string_view name;
  PeftPart weight;
  std::optional<PeftPart> bias = std::nullopt;
};
constexpr Ending kEndings[] = {
    {".lora_A", PeftPart::kA},
    {".lora_B", PeftPart::kB, PeftPart::kUpdateBias},
    {".lora_embedding_A", PeftPart::kEmbeddingA},
    {".lora_embedding_B", PeftPart::kEmbeddingB},
    {".lora_magnitude_vector", PeftPart::kMagnitude},
    {".modules_to_save", PeftPart::kWhole},
    // Of a targeted module, saved along with its update: an embedding, or a trained bias.
    {".base_layer", PeftPart::kWhole, PeftPart::kBias},
};

std::string_view WithoutPrefix(std::string_view key) {
  if (key.starts_with(kPrefix)) key.remove_prefix(kPrefix.size());
  return key;
}

// `key` without the prefix.
bool IsOfBody(std::string_view key) {
  return key.starts_with("layers.") || key.starts_with("embed_tokens.") || key.starts_with("norm.");
}

}  // namespace

PeftPlace PlaceOf(std::string_view key) {
  key = WithoutPrefix(key);
  PeftPlace place;
  if (IsOfBody(key)) place.module = "model.";
  const bool is_bias = key.ends_with(kBias);
  if (is_bias) key.remove_suffix(kBias.size());
  if (!is_bias && key.ends_with(kWeight)) key.remove_suffix(kWeight.size());
  for (const Ending& ending : kEndings) {
    if (is_bias && !ending.bias) continue;
    const size_t at = key.rfind(ending.name);
    if (at == std::string_view::npos) continue;
    const std::string_view rest = key.substr(at + ending.name.size());
    const bool named = rest.starts_with(".") && rest.find('.', 1) == std::string_view::npos;
    if (!rest.empty() && !named) continue;
    place.module += std::string(key.substr(0, at));
    place.part = is_bias ? *ending.bias : ending.weight;
    return place;
  }
  place.module += std::string(key);
  place.part = is_bias ? PeftPart::kBias : PeftPart::kWhole;
  return place;
}

std::string KeyOf(const PeftPlace& place) {
  static constexpr const char* kEnds[] = {
      ".lora_A.weight",         ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B",
      ".lora_magnitude_vector", ".weight",        ".lora_B.bias",      ".bias"};
  return absl::StrCat(std::string(kPrefix), place.module, kEnds[static_cast<int>(place.part)]);
}

absl::StatusOr<PeftBase> MadeFor(const Checkpoint& checkpoint) {
  const Tensor* of_body = nullptr;
  const Tensor* of_whole = nullptr;
  for (const Tensor* tensor : checkpoint.tensors()) {
    const std::string_view key = WithoutPrefix(tensor->name);
    if (IsOfBody(key)) of_body = tensor;
    if (key.starts_with("model.") || key.starts_with("lm_head.")) of_whole = tensor;
  }
  if (of_body == nullptr) return PeftBase::kWhole;
  if (of_whole == nullptr) return PeftBase::kBody;
  return absl::InvalidArgumentError(absl::StrFormat(
      "tensor '%s' has its name in the body of a model, but '%s' in a whole one: one adapter was "
      "made for one of them",
      of_body->name, of_whole->name));
}

}  // namespace chorale
