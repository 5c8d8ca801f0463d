// Rotary position embeddings: the angles of a model, with its scaling for long contexts.
//
// Frequencies and angles are doubles; the cosines and sines that kernels read are rounded once.
// Formulas: RoFormer, section 3.4; linear: position interpolation (arXiv 2306.15595); yarn: arXiv
// 2309.00071, section 3; llama3: as in the release of Llama 3.1; dynamic: yarn's section 2.3;
// longrope: arXiv 2402.13753, section 3.
//
// A block of K/V must not depend on what comes after it, so neither may a position's angle. Under
// dynamic scaling a position behind the original context turns by the frequencies of a sequence
// that ends there, as it would when the tokens came one by one. Under longrope there are two sets
// of angles, for sequences within the original context and for longer ones: two writers of K/V
// (WriterOfLongContext, cache/block_key.h).
#pragma once

#include <span>
#include <vector>

#include "kernels/thread_pool.h"
#include "model/checkpoint/config.h"

namespace chorale {

// Immutable; safe to share between threads.
class Rope {
 public:
  explicit Rope(const ModelConfig& config);

  // A token's place, in a sequence within the original context or in a longer one.
  struct Place {
    int position = 0;
    bool long_context = false;  // makes a difference under longrope only
  };
  // cos and sin are [places, head_dim / 2].
  void Fill(std::span<const Place> places, float* cos, float* sin, kernels::ThreadPool& pool) const;

  // Radians per position of each pair of dimensions.
  std::vector<double> FrequenciesAt(Place place) const;
  // Multiplies both cos and sin (the attention temperature of yarn and longrope; 1 otherwise).
  double amplitude() const { return amplitude_; }

 private:
  const double theta_;
  const RopeScaling scaling_;
  std::vector<double> frequencies_;
  std::vector<double> long_frequencies_;  // longrope
  double amplitude_ = 1;
};

}  // namespace chorale
