// A forward pass written out in doubles: the judge of what a config.json asks for.
//
// It reads config.json itself and shares no code with model/ but the reader of tensors. Everything
// is quadratic and slow; for tiny models only.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/token.h"

namespace chorale {

// The logits after each of `tokens`, [tokens][vocab], of the Hugging Face checkpoint in `folder`.
// Under dynamic rope scaling each token is taken as it would be when the tokens came one by one;
// under longrope the whole sequence has the frequencies of its length.
std::vector<std::vector<double>> PlainLogits(const std::string& folder,
                                             std::span<const TokenId> tokens);

}  // namespace chorale
