#include "tests/e2e/workload.h"

#include <algorithm>
#include <random>

namespace chorale {
namespace {

class Draw {
 public:
  explicit Draw(uint64_t seed) : random_(seed) {}
  int Int(int low, int high) { return low + static_cast<int>(random_() % (high - low + 1)); }
  double Unit() { return static_cast<double>(random_() >> 11) * 0x1.0p-53; }
  bool Chance(double p) { return Unit() < p; }

 private:
  std::mt19937_64 random_;
};

void FillSampling(Draw& draw, int vocab, v1::Sampling& sampling) {
  sampling.set_seed(draw.Int(0, 1'000'000));
  sampling.set_max_tokens(draw.Int(1, 24));
  sampling.set_temperature(draw.Chance(0.4) ? 0 : 0.2 + 2 * draw.Unit());
  if (draw.Chance(0.3)) sampling.set_top_k(draw.Int(1, vocab));
  if (draw.Chance(0.3)) sampling.set_top_p(0.1 + 0.9 * draw.Unit());
  if (draw.Chance(0.2)) sampling.set_min_p(0.3 * draw.Unit());
  if (draw.Chance(0.2)) sampling.set_presence_penalty(4 * draw.Unit() - 2);
  if (draw.Chance(0.2)) sampling.set_frequency_penalty(4 * draw.Unit() - 2);
  if (draw.Chance(0.2)) sampling.set_repetition_penalty(0.5 + draw.Unit());
  if (draw.Chance(0.2)) {
    for (int i = 0; i < 5; ++i) {
      (*sampling.mutable_logit_bias())[draw.Int(0, vocab - 1)] = 20 * draw.Unit() - 10;
    }
  }
  if (draw.Chance(0.2)) sampling.add_stop_token_ids(draw.Int(0, vocab - 1));
  if (draw.Chance(0.3)) sampling.add_stop(std::string(1, static_cast<char>(draw.Int('a', 'z'))));
  if (draw.Chance(0.2)) sampling.set_logprobs(draw.Int(0, 5));
  sampling.set_ignore_eos(draw.Chance(0.2));
}

}  // namespace

std::vector<v1::GenerateRequest> MakeRequests(uint64_t seed, int count, int vocab, int prompt_max) {
  Draw draw(seed);
  std::vector<int> common(prompt_max);
  for (int& token : common) token = draw.Int(0, vocab - 1);
  std::vector<v1::GenerateRequest> requests(count);
  for (v1::GenerateRequest& request : requests) {
    request.set_model("m");
    const int size = draw.Int(1, prompt_max);
    const int shared = draw.Chance(0.5) ? draw.Int(0, size) : 0;
    for (int i = 0; i < size; ++i) {
      request.mutable_token_ids()->add_ids(i < shared ? common[i] : draw.Int(0, vocab - 1));
    }
    if (draw.Chance(0.1)) request.set_n(draw.Int(2, 3));
    FillSampling(draw, vocab, *request.mutable_sampling());
  }
  return requests;
}

}  // namespace chorale
