// Log probabilities in the two shapes of the OpenAI API.
#pragma once

#include <cstdint>
#include <vector>

#include "base/json.h"
#include "api/completion.h"

namespace chorale {

using ChosenTokens = std::vector<ChosenToken>;

// {"tokens", "token_logprobs", "top_logprobs", "text_offset"} of /v1/completions.
// `characters_before` is the offset of the first token, in code points of the generated text. A
// token that goes on with a character has the character's offset. Each of top_logprobs holds the
// chosen token too, beside as many as were asked for.
Json CompletionLogprobs(const ChosenTokens& tokens, int64_t characters_before);

// {"content": [{"token", "logprob", "bytes", "top_logprobs"}]} of /v1/chat/completions.
Json ChatLogprobs(const ChosenTokens& tokens);

// Code points that begin in the tokens' bytes.
int64_t CountCharacters(const ChosenTokens& tokens);

}  // namespace chorale
