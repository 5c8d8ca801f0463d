#include "api/completion.h"

#include <algorithm>

namespace chorale {
namespace {

int64_t BytesOf(const TokenText& token) {
  return static_cast<int64_t>(sizeof(token) + token.bytes.size());
}

}  // namespace

SamplingParams Resolve(const SamplingRequest& request, const GenerationDefaults& defaults,
                       int tokens_left) {
  const SamplingParams fallback;
  SamplingParams params;
  const auto first = [](const auto& asked, const auto& of_model, auto otherwise) {
    return asked ? *asked : of_model.value_or(otherwise);
  };
  params.temperature = first(request.temperature, defaults.temperature, fallback.temperature);
  params.top_k = first(request.top_k, defaults.top_k, fallback.top_k);
  params.top_p = first(request.top_p, defaults.top_p, fallback.top_p);
  params.min_p = first(request.min_p, defaults.min_p, fallback.min_p);
  params.presence_penalty = request.presence_penalty.value_or(fallback.presence_penalty);
  params.frequency_penalty = request.frequency_penalty.value_or(fallback.frequency_penalty);
  params.repetition_penalty =
      first(request.repetition_penalty, defaults.repetition_penalty, fallback.repetition_penalty);
  params.seed = request.seed.value_or(0);
  params.logit_bias = request.logit_bias;
  const std::optional<int> unasked =
      defaults.max_tokens ? defaults.max_tokens : request.max_tokens_otherwise;
  params.max_tokens =
      request.max_tokens.value_or(std::min(unasked.value_or(tokens_left), tokens_left));
  params.ignore_eos = request.ignore_eos;
  params.stop_tokens = request.stop_tokens;
  params.stop = request.stop.empty() ? defaults.stop : request.stop;
  params.logprobs = request.logprobs;
  return params;
}

int64_t BytesOf(const CompletionChunk& chunk) {
  auto bytes = static_cast<int64_t>(sizeof(chunk) + chunk.text.size() +
                                    chunk.tokens.size() * sizeof(TokenId));
  for (const ChosenToken& token : chunk.logprobs) {
    bytes += BytesOf(token.chosen);
    for (const TokenText& other : token.top) bytes += BytesOf(other);
  }
  return bytes;
}

}  // namespace chorale
