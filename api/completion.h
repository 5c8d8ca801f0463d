// A completion as values: what a client asks for and what it is told, whichever protocol it came
// by. "Completion" is OpenAI's word for both a continued text and an answer in a chat.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/generation_defaults.h"
#include "base/json.h"
#include "base/token.h"
#include "engine/request.h"

namespace chorale {

// How tokens are to be chosen. What is unset is the model's default, or else SamplingParams'.
struct SamplingRequest {
  std::optional<double> temperature;
  std::optional<int> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::optional<double> repetition_penalty;
  std::optional<uint64_t> seed;  // drawn when unset
  std::vector<std::pair<TokenId, double>> logit_bias;  // in order of token
  std::optional<int> max_tokens;
  std::string_view max_tokens_field = "max_tokens";  // the client's name of it
  // What max_tokens is where neither the request nor the model's files say; unset: what the context
  // holds.
  std::optional<int> max_tokens_otherwise;
  bool ignore_eos = false;
  std::vector<TokenId> stop_tokens;
  std::vector<std::string> stop;
  std::optional<int> logprobs;

  bool operator==(const SamplingRequest&) const = default;
};

// The request's own fields win; its stop strings stand in place of the model's. What is not asked
// for by number is cut to `tokens_left`, what the context holds behind the prompt. The seed stays 0
// when it is unset.
SamplingParams Resolve(const SamplingRequest& request, const GenerationDefaults& defaults,
                       int tokens_left);

struct TokenPrompt {
  std::vector<TokenId> ids;
  int public_tokens = 0;  // how many, from the first, all tenants may share

  bool operator==(const TokenPrompt&) const = default;
};

// A conversation, with the keys of its objects in the order they were sent: templates print them.
struct Chat {
  OrderedJson messages;   // a list
  OrderedJson tools;      // null: none
  OrderedJson variables;  // further ones for the template, an object; null: none
  int public_messages = 0;  // how many, from the first, all tenants may share
  size_t bytes = 0;         // of the text that it was sent as

  bool operator==(const Chat&) const = default;
};

// std::monostate: none was given.
using PromptRequest = std::variant<std::monostate, std::string, TokenPrompt, Chat>;

struct CompletionRequest {
  std::string model;  // empty: the only one there is
  PromptRequest prompt;
  SamplingRequest sampling;
  int n = 1;
  bool reuse_prefix = true;  // may read and publish cached K/V

  bool operator==(const CompletionRequest&) const = default;
};

struct TokenText {
  TokenId token = 0;
  float logprob = 0;
  std::string bytes;  // the token's own; may be part of a code point
};

struct ChosenToken {
  TokenText chosen;
  std::vector<TokenText> top;
};

// Where the time of a call went, as seen by the process that ran it.
struct CallTimes {
  absl::Duration queue;        // before work on the prompt began
  absl::Duration prefill;      // until the prompt's K/V was complete, hand-off included
  absl::Duration first_token;  // from the first step after acceptance
  absl::Duration total;
};

// Some new tokens of one sequence. Chunks of a call are numbered from 0 without a gap, so that a
// reader can tell that nothing was lost or doubled.
struct CompletionChunk {
  int64_t number = 0;
  int index = 0;  // which of the n sequences
  std::vector<TokenId> tokens;
  std::string text;                    // whole code points
  std::vector<ChosenToken> logprobs;   // one for each token, when asked for
  std::optional<FinishReason> finish;  // kStop or kLength: the sequence's last
  std::optional<Usage> usage;          // in the last chunk of the call
  std::optional<CallTimes> times;      // likewise
};

// Memory that a chunk holds, in bytes.
int64_t BytesOf(const CompletionChunk& chunk);

// Chunks come in order, then DoneFn exactly once.
using ChunkFn = std::function<void(CompletionChunk)>;
using DoneFn = std::function<void(absl::Status)>;

}  // namespace chorale
