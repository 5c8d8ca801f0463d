#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

#include "base/random.h"

namespace chorale {
namespace {

const kernels::Kernels& Reference() { return **kernels::FindKernels("reference"); }

// The same choice written for plainness: everything sorted, every rule on its own.
TokenId NaiveChoice(std::vector<double> logits, const SamplingParams& p,
                    const std::vector<TokenId>& prompt, const std::vector<TokenId>& output,
                    int stream) {
  std::map<TokenId, int> counts;
  for (TokenId t : prompt) counts[t] += 0;
  for (TokenId t : output) ++counts[t];
  for (auto [t, count] : counts) {
    logits[t] = logits[t] > 0 ? logits[t] / p.repetition_penalty : logits[t] * p.repetition_penalty;
    if (count > 0) logits[t] -= p.presence_penalty + p.frequency_penalty * count;
  }
  for (auto [t, bias] : p.logit_bias) logits[t] += bias;
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });
  if (p.temperature == 0) return order[0];
  if (p.top_k > 0 && p.top_k < static_cast<int>(order.size())) order.resize(p.top_k);
  const double best = logits[order[0]];
  const auto weight = [&](TokenId t) { return std::exp((logits[t] - best) / p.temperature); };
  double sum = 0;
  for (TokenId t : order) sum += weight(t);
  double kept = 0;
  size_t size = 0;
  while (size < order.size() &&
         (size == 0 || (kept < p.top_p * sum && weight(order[size]) >= p.min_p))) {
    kept += weight(order[size++]);
  }
  order.resize(size);
  // Without a cut the draw goes through the vocabulary in order of ids.
  if (p.top_p == 1 && p.min_p == 0) std::sort(order.begin(), order.end());
  double left = RandomUniform(p.seed, stream, output.size()) * kept;
  for (TokenId t : order) {
    left -= weight(t);
    if (left < 0) return t;
  }
  return order.back();
}

TEST(Sampler, AgreesWithASortingSamplerOverRandomSettings) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 3);
  const auto draw = [&](int n) { return static_cast<int>(random() % n); };
  int differ = 0;
  int count = 0;
  for (int round = 0; round < 200; ++round) {
    const int vocab = 1 + draw(round % 10 == 0 ? 3000 : 60);
    SamplingParams p;
    p.seed = random();
    p.temperature = draw(3) * 0.7;
    // Not top-k alone: its draw goes through candidates in the order that the selection left.
    if (draw(2)) p.top_p = 0.05 + 0.95 * draw(100) / 100.0, p.top_k = draw(2) * (1 + draw(vocab));
    if (draw(2)) p.min_p = draw(50) / 100.0;
    if (draw(2)) p.repetition_penalty = 0.5 + draw(100) / 100.0;
    if (draw(2)) p.presence_penalty = draw(40) / 10.0 - 2;
    if (draw(2)) p.frequency_penalty = draw(40) / 10.0 - 2;
    if (draw(2)) p.logit_bias = {{draw(vocab), draw(20) - 10.0}};
    std::vector<TokenId> prompt = {draw(vocab), draw(vocab)};
    std::vector<TokenId> output;
    Sampler sampler(p, p.repetition_penalty == 1 ? std::vector<TokenId>{} : prompt, 2);
    for (int i = 0; i < 10; ++i, ++count) {
      std::vector<float> logits(vocab);
      for (float& x : logits) x = normal(random);
      const TokenId expected =
          NaiveChoice({logits.begin(), logits.end()}, p,
                      p.repetition_penalty == 1 ? std::vector<TokenId>{} : prompt, output, 2);
      const TokenId chosen = sampler.Choose(logits, Reference()).token;
      differ += chosen != expected;
      output.push_back(chosen);
    }
  }
  // Sums in float and in double part at the borders of candidates, once in a long while.
  EXPECT_LE(differ, count / 500);
}

TEST(Sampler, TopKKeepsTheMostLikely) {
  SamplingParams p{.temperature = 1, .top_k = 3, .seed = 5};
  std::map<TokenId, int> seen;
  Sampler sampler(p, {}, 0);
  for (int i = 0; i < 3000; ++i) {
    std::vector<float> logits = {0, 2, 1, 2, -1, 0.5f};
    ++seen[sampler.Choose(logits, Reference()).token];
  }
  EXPECT_EQ(seen.size(), 3u);
  const double e = std::exp(1.0);
  EXPECT_NEAR(seen[1] / 3000.0, e / (2 * e + 1), 0.04);
  EXPECT_NEAR(seen[2] / 3000.0, 1 / (2 * e + 1), 0.04);
}

TEST(Sampler, EqualTokensGoToTheLowerId) {
  SamplingParams greedy{.temperature = 0};
  std::vector<float> logits = {1, 3, 3, 2};
  EXPECT_EQ(Sampler(greedy, {}, 0).Choose(logits, Reference()).token, 1);
  SamplingParams one{.temperature = 1, .top_k = 1};
  logits = {1, 3, 3, 2};
  EXPECT_EQ(Sampler(one, {}, 0).Choose(logits, Reference()).token, 1);
}

TEST(Sampler, LogprobsAreThoseOfTheModelWhateverTheSettings) {
  SamplingParams p{.temperature = 0.5, .top_k = 1, .logit_bias = {{0, 50}}, .logprobs = 2};
  std::vector<float> logits = {0, std::log(2.0f), std::log(5.0f)};
  const Sampler::Choice choice = Sampler(p, {}, 0).Choose(logits, Reference());
  EXPECT_EQ(choice.token, 0);
  EXPECT_NEAR(*choice.logprob, std::log(1 / 8.0), 1e-6);
  ASSERT_EQ(choice.top_logprobs.size(), 2u);
  EXPECT_EQ(choice.top_logprobs[0].token, 2);
  EXPECT_NEAR(choice.top_logprobs[0].logprob, std::log(5 / 8.0), 1e-6);
  EXPECT_EQ(choice.top_logprobs[1].token, 1);
}

TEST(Sampler, SurvivesLogitsThatAreNotFinite) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  SamplingParams p{.temperature = 1, .top_p = 0.9, .seed = 1, .logprobs = 1};
  for (std::vector<float> logits :
       {std::vector<float>{nan, nan, nan}, {-inf, -inf, -inf}, {0, inf, 1}, {nan, 1, 2}}) {
    const TokenId token = Sampler(p, {}, 0).Choose(logits, Reference()).token;
    EXPECT_GE(token, 0);
    EXPECT_LT(token, 3);
  }
}

TEST(Sampler, DrawsDependOnSeedStreamAndPositionAlone) {
  SamplingParams p{.temperature = 1, .seed = 3};
  const auto draws = [&](int stream) {
    Sampler sampler(p, {}, stream);
    std::vector<TokenId> tokens;
    for (int i = 0; i < 50; ++i) {
      std::vector<float> logits(100, 0);
      tokens.push_back(sampler.Choose(logits, Reference()).token);
    }
    return tokens;
  };
  EXPECT_EQ(draws(0), draws(0));
  EXPECT_NE(draws(0), draws(1));
}

}  // namespace
}  // namespace chorale
