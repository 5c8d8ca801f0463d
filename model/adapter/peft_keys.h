// The keys of an adapter_model.safetensors: which part of which module a tensor is, however PEFT
// spelled it.
#pragma once

#include <compare>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/adapter/peft_config.h"
#include "model/checkpoint/safetensors.h"

namespace chorale {

// What a tensor is to its module. kUpdateBias is the bias of B, kBias one in place of the base's.
enum class PeftPart { kA, kB, kEmbeddingA, kEmbeddingB, kMagnitude, kWhole, kUpdateBias, kBias };

struct PeftPlace {
  std::string module;  // as the whole model names it
  PeftPart part = PeftPart::kWhole;

  auto operator<=>(const PeftPlace&) const = default;
};

// Of any key; one that ends like no part is a whole module of a name that no model has.
PeftPlace PlaceOf(std::string_view key);
// How PEFT writes the key of a place.
std::string KeyOf(const PeftPlace& place);
// What the adapter was made for. InvalidArgument for one that has keys of both kinds: it was made
// for neither.
absl::StatusOr<PeftBase> MadeFor(const Checkpoint& checkpoint);

}  // namespace chorale
