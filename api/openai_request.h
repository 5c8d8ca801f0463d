// Requests of the OpenAI API, as JSON, to Chorale's own.
//
// Fields that would change the result and that Chorale does not offer are refused by name; fields
// that cannot change it (user, metadata, ...) are ignored. Beyond OpenAI's fields there are top_k,
// min_p, repetition_penalty, ignore_eos, stop_token_ids, chat_template_kwargs and no_prefix_reuse;
// for prompts of token ids public_tokens, and for messages public (openai_messages.h).
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "api/completion.h"

namespace chorale {

enum class OpenAiEndpoint { kCompletions, kChatCompletions };

struct OpenAiRequest {
  OpenAiEndpoint endpoint = OpenAiEndpoint::kCompletions;
  CompletionRequest completion;
  bool stream = false;
  bool include_usage = false;  // a streamed reply ends with a chunk of usage
};

// InvalidArgument begins with the field at fault and says what to send instead. Ranges of sampling
// are checked later, by the gateway. Where neither the request nor the model's files say max_tokens,
// it is 16 for completions, as OpenAI documents it, and the rest of the context for chats.
absl::StatusOr<OpenAiRequest> ParseOpenAiRequest(OpenAiEndpoint endpoint, std::string_view body);

}  // namespace chorale
