// A LoRA adapter in the PEFT format: low-rank updates of a model's linear layers.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "base/hash.h"
#include "kernels/tensor.h"

namespace chorale {

// The linear layers of a transformer block that an adapter may target.
enum class Linear { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr int kLinears = 7;

// y += scale * (x a^T) b^T. `scale` is alpha / r, or alpha / sqrt(r) with rslora.
struct LowRank {
  kernels::PackedMatrix a;  // [rank, in]
  kernels::PackedMatrix b;  // [out, rank]
  float scale = 0;

  bool present() const { return a.rows > 0; }
};

// Immutable once loaded; identified by its digest, never by a name.
struct Adapter {
  std::vector<std::array<LowRank, kLinears>> layers;  // [layer][Linear]
  Digest digest;                                      // of the adapter's own tensors and settings
  Digest module_digest;  // of base + adapter: the writer of its K/V blocks
};

}  // namespace chorale
