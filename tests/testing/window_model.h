// Tiny checkpoints with windows and stretched rotary embeddings, for tests.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"

namespace chorale {

// What a config.json says besides the shape.
struct WindowKind {
  const char* name;
  const char* architecture;
  Json fields;
};

// Kinds of windows in every layer, in some, and in none, and the rope scalings that change with the
// place or the length. The context is 256 tokens where no field says otherwise.
std::vector<WindowKind> WindowKinds();
// One of them by its name.
WindowKind WindowKindNamed(const std::string& name);

// Writes a model of four layers with random weights; token 7 ends a text.
void WriteWindowModel(const WindowKind& kind, const std::string& folder);

}  // namespace chorale
