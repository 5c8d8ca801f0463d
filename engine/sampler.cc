#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace chorale {
namespace {

// How many candidates are put in order at first when only top-p or min-p cuts; grows as needed.
constexpr size_t kFirstSorted = 256;

}  // namespace

Sampler::Sampler(const SamplingParams& params, std::span<const TokenId> prompt, int stream)
    : params_(params), stream_(static_cast<uint64_t>(stream)) {
  if (params.repetition_penalty == 1) return;
  for (TokenId token : prompt) output_counts_.try_emplace(token, 0);
}

Sampler::Choice Sampler::Choose(std::span<float> logits, const kernels::Kernels& kernels) {
  Choice choice;
  double log_sum = 0;
  if (params_.logprobs) {
    log_sum = LogSumExp(logits, kernels);
    choice.top_logprobs = TopLogprobs(logits, log_sum);
    weights_.assign(logits.begin(), logits.end());
  }
  Penalise(logits);
  choice.token = params_.temperature == 0
                     ? kernels.argmax(logits.data(), static_cast<int>(logits.size()))
                     : Draw(logits, kernels);
  if (params_.logprobs) choice.logprob = static_cast<float>(weights_[choice.token] - log_sum);
  ++position_;
  ++output_counts_[choice.token];
  return choice;
}

double Sampler::LogSumExp(std::span<const float> logits, const kernels::Kernels& kernels) {
  weights_.assign(logits.begin(), logits.end());
  const int size = static_cast<int>(logits.size());
  const double max = logits[kernels.argmax(logits.data(), size)];
  return max + std::log(kernels.exp_scaled(weights_.data(), size, 1));
}

std::vector<TokenLogprob> Sampler::TopLogprobs(std::span<const float> logits, double log_sum) {
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates_.push_back({logits[i], static_cast<TokenId>(i)});
  }
  const size_t count = std::min<size_t>(*params_.logprobs, candidates_.size());
  std::partial_sort(candidates_.begin(), candidates_.begin() + count, candidates_.end(), Before);
  std::vector<TokenLogprob> top;
  for (size_t i = 0; i < count; ++i) {
    top.push_back({candidates_[i].token, static_cast<float>(candidates_[i].weight - log_sum)});
  }
  return top;
}

void Sampler::Penalise(std::span<float> logits) const {
  const float repetition = static_cast<float>(params_.repetition_penalty);
  if (repetition != 1 || params_.presence_penalty != 0 || params_.frequency_penalty != 0) {
    for (const auto& [token, count] : output_counts_) {
      float& logit = logits[token];
      logit = logit > 0 ? logit / repetition : logit * repetition;
      if (count == 0) continue;
      logit -= static_cast<float>(params_.presence_penalty + params_.frequency_penalty * count);
    }
  }
  for (const auto& [token, bias] : params_.logit_bias) logits[token] += static_cast<float>(bias);
}

TokenId Sampler::Draw(std::span<float> logits, const kernels::Kernels& kernels) {
  const int size = static_cast<int>(logits.size());
  const TokenId best = kernels.argmax(logits.data(), size);
  double weight_sum =
      kernels.exp_scaled(logits.data(), size, static_cast<float>(1 / params_.temperature));
  if (!std::isfinite(weight_sum) || weight_sum <= 0) return best;  // the logits were not finite
  candidates_.clear();
  for (int i = 0; i < size; ++i) {
    if (logits[i] > 0) candidates_.push_back({logits[i], i});
  }
  if (params_.top_k > 0 && candidates_.size() > static_cast<size_t>(params_.top_k)) {
    std::nth_element(candidates_.begin(), candidates_.begin() + params_.top_k, candidates_.end(),
                     Before);
    candidates_.resize(params_.top_k);
    weight_sum = SumOf(candidates_);
  }
  if (params_.top_p < 1 || params_.min_p > 0) weight_sum = CutToNucleus(weight_sum);
  return DrawFrom(weight_sum);
}

// Keeps the shortest beginning of the candidates in order that holds top_p of the weight, and of it
// those with at least min_p of the largest weight. Puts only as many in order as it needs. Returns
// the weight that is left.
double Sampler::CutToNucleus(double weight_sum) {
  const double wanted = params_.top_p * weight_sum;
  size_t sorted = 0;
  double kept_sum = 0;
  for (size_t kept = 0; kept < candidates_.size(); ++kept) {
    if (kept == sorted) {
      const size_t next = std::min(std::max(kFirstSorted, sorted * 4), candidates_.size());
      std::partial_sort(candidates_.begin() + sorted, candidates_.begin() + next, candidates_.end(),
                        Before);
      sorted = next;
    }
    const double weight = candidates_[kept].weight;
    const bool too_small = weight < params_.min_p * candidates_[0].weight;
    if (kept > 0 && (kept_sum >= wanted || too_small)) {
      candidates_.resize(kept);
      break;
    }
    kept_sum += weight;
  }
  return kept_sum;
}

TokenId Sampler::DrawFrom(double weight_sum) const {
  double left = RandomUniform(params_.seed, stream_, position_) * weight_sum;
  for (const Candidate& candidate : candidates_) {
    left -= candidate.weight;
    if (left < 0) return candidate.token;
  }
  return candidates_.back().token;  // rounding ate the last of the weight
}

}  // namespace chorale
