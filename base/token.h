// TokenId: a token's place in its tokenizer's vocabulary.
#pragma once

#include <cstdint>

namespace chorale {

using TokenId = int32_t;

}  // namespace chorale
