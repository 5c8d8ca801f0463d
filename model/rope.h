// Rotary position embeddings: the angles of a model, with its scaling for long contexts.
//
// Frequencies and angles are doubles; the cosines and sines that kernels read are rounded once.
// Formulas: RoFormer, section 3.4; linear: position interpolation (arXiv 2306.15595); yarn: arXiv
// 2309.00071, section 3; llama3: as in the release of Llama 3.1.
#pragma once

#include <span>
#include <vector>

#include "kernels/thread_pool.h"
#include "model/config.h"

namespace chorale {

// Immutable; safe to share between threads.
class Rope {
 public:
  explicit Rope(const ModelConfig& config);

  // cos and sin are [positions, head_dim / 2].
  void Fill(std::span<const int> positions, float* cos, float* sin,
            kernels::ThreadPool& pool) const;

  // Radians per position of each pair of dimensions.
  const std::vector<double>& frequencies() const { return frequencies_; }
  // Multiplies both cos and sin (yarn's attention temperature; 1 otherwise).
  double amplitude() const { return amplitude_; }

 private:
  std::vector<double> frequencies_;
  double amplitude_ = 1;
};

}  // namespace chorale
