// Sampler: which token comes next, for one sequence.
//
// In this order: repetition penalty (CTRL, section 4.1), presence and frequency penalty, bias,
// temperature, top-k, top-p (nucleus sampling, arXiv 1904.09751, section 3.1), min-p (arXiv
// 2407.01082, section 3), one draw. A draw is a function of seed, sequence and position alone, so a
// sequence that is recomputed, or goes on elsewhere, draws the same. Ties go to the lower id.
#pragma once

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/token.h"
#include "engine/request.h"
#include "kernels/kernels.h"

namespace chorale {

class Sampler {
 public:
  // `params` has passed ValidateSampling and outlives the sampler; `stream` is the sequence's index
  // in its request.
  Sampler(const SamplingParams& params, std::span<const TokenId> prompt, int stream);

  struct Choice {
    TokenId token = 0;
    std::optional<float> logprob;            // under the model's own distribution
    std::vector<TokenLogprob> top_logprobs;  // most likely first
  };
  // Chooses from `logits` [vocab], which it overwrites, and remembers the choice for penalties.
  Choice Choose(std::span<float> logits, const kernels::Kernels& kernels);

 private:
  struct Candidate {
    float weight = 0;  // a logit, or a probability up to a factor common to all
    TokenId token = 0;
  };
  static bool Before(const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  }
  static double SumOf(std::span<const Candidate> candidates) {
    double sum = 0;
    for (const Candidate& candidate : candidates) sum += candidate.weight;
    return sum;
  }
  double LogSumExp(std::span<const float> logits, const kernels::Kernels& kernels);
  std::vector<TokenLogprob> TopLogprobs(std::span<const float> logits, double log_sum);
  void Penalise(std::span<float> logits) const;
  TokenId Draw(std::span<float> logits, const kernels::Kernels& kernels);
  double CutToNucleus(double weight_sum);
  TokenId DrawFrom(double weight_sum) const;

  const SamplingParams& params_;
  uint64_t stream_;
  uint64_t position_ = 0;                            // tokens chosen so far
  absl::flat_hash_map<TokenId, int> output_counts_;  // prompt tokens are here too, with count 0
  std::vector<float> weights_;                       // scratch
  std::vector<Candidate> candidates_;                // scratch
};

}  // namespace chorale
