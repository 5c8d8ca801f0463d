// A LoRA adapter in the PEFT format: low-rank updates of a model's linear layers, of its embedding
// and of its output matrix, biases, and whole norms, embeddings and output matrices in place of the
// base's.
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

// The norms of a transformer block.
enum class LayerNorm { kAttention, kFfn, kQ, kK };
inline constexpr int kLayerNorms = 4;

// y += scale * (x a^T) b^T. `scale` is alpha / r, or alpha / sqrt(r) with rslora. With a gain the
// whole product, the base's and this, is then multiplied by it, output by output (dora.h). Last
// comes the shift, which may be there without a and b: what a trained bias has beyond the base's,
// and the bias of b, scaled.
struct LowRank {
  kernels::PackedMatrix a;  // [rank, in]
  kernels::PackedMatrix b;  // [out, rank]
  float scale = 0;
  std::vector<float> gain;   // [out], empty without DoRA
  std::vector<float> shift;  // [out], empty without

  bool present() const { return a.rows > 0; }
  bool changes_output() const { return present() || !shift.empty(); }
};

// x += scale * b a[token], of the embedding.
struct EmbeddingUpdate {
  kernels::PackedMatrix a;  // [vocab, rank]
  kernels::PackedMatrix b;  // [hidden, rank]
  float scale = 0;

  bool present() const { return a.rows > 0; }
};

// Immutable once loaded; identified by its digest, never by a name. A part that it does not have is
// empty, and so is a whole one that equals the base's. Updates come on top of what stands in place
// of the base's.
struct Adapter {
  std::vector<std::array<LowRank, kLinears>> layers;  // [layer][Linear]
  EmbeddingUpdate embedding;
  LowRank output;                       // of the matrix that gives logits
  kernels::PackedMatrix own_embedding;  // [vocab, hidden], in place of the base's
  kernels::PackedMatrix own_output;     // likewise
  std::vector<std::array<std::vector<float>, kLayerNorms>> own_norms;  // [layer][LayerNorm]
  std::vector<float> own_norm;                                         // the last
  Digest digest;         // of the adapter's own tensors and settings
  Digest module_digest;  // of base + adapter: the writer of its K/V blocks
};

}  // namespace chorale
