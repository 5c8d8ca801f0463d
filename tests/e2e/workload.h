// Random requests for equality tests: the same seed makes the same requests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "chorale/v1/inference.pb.h"

namespace chorale {

// Prompts of 1 to `prompt_max` tokens, many with a common beginning, with settings of every kind:
// greedy and seeded sampling, filters, penalties, bias, stop strings, logprobs, n.
std::vector<v1::GenerateRequest> MakeRequests(uint64_t seed, int count, int vocab, int prompt_max);

}  // namespace chorale
