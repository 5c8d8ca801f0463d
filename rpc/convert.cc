#include "rpc/convert.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "api/openai_messages.h"
#include "base/json.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

std::vector<std::pair<TokenId, double>> BiasesOf(const v1::Sampling& sampling) {
  std::vector<std::pair<TokenId, double>> biases(sampling.logit_bias().begin(),
                                                 sampling.logit_bias().end());
  std::sort(biases.begin(), biases.end());  // maps have no order of their own
  return biases;
}

SamplingRequest FromProto(const v1::Sampling& proto) {
  SamplingRequest sampling;
  if (proto.has_temperature()) sampling.temperature = proto.temperature();
  if (proto.has_top_k()) sampling.top_k = proto.top_k();
  if (proto.has_top_p()) sampling.top_p = proto.top_p();
  if (proto.has_min_p()) sampling.min_p = proto.min_p();
  if (proto.has_presence_penalty()) sampling.presence_penalty = proto.presence_penalty();
  if (proto.has_frequency_penalty()) sampling.frequency_penalty = proto.frequency_penalty();
  if (proto.has_repetition_penalty()) sampling.repetition_penalty = proto.repetition_penalty();
  if (proto.has_seed()) sampling.seed = proto.seed();
  sampling.logit_bias = BiasesOf(proto);
  if (proto.has_max_tokens()) sampling.max_tokens = proto.max_tokens();
  sampling.ignore_eos = proto.ignore_eos();
  sampling.stop_tokens.assign(proto.stop_token_ids().begin(), proto.stop_token_ids().end());
  sampling.stop.assign(proto.stop().begin(), proto.stop().end());
  if (proto.has_logprobs()) sampling.logprobs = proto.logprobs();
  return sampling;
}

v1::Sampling ToProto(const SamplingParams& params) {
  v1::Sampling proto;
  proto.set_temperature(params.temperature);
  proto.set_top_k(params.top_k);
  proto.set_top_p(params.top_p);
  proto.set_min_p(params.min_p);
  proto.set_presence_penalty(params.presence_penalty);
  proto.set_frequency_penalty(params.frequency_penalty);
  proto.set_repetition_penalty(params.repetition_penalty);
  proto.set_seed(params.seed);
  for (const auto& [token, bias] : params.logit_bias) (*proto.mutable_logit_bias())[token] = bias;
  proto.set_max_tokens(params.max_tokens);
  proto.set_ignore_eos(params.ignore_eos);
  proto.mutable_stop_token_ids()->Assign(params.stop_tokens.begin(), params.stop_tokens.end());
  proto.mutable_stop()->Assign(params.stop.begin(), params.stop.end());
  if (params.logprobs) proto.set_logprobs(*params.logprobs);
  return proto;
}

// A part of a chat, which is JSON in a field of its own.
absl::StatusOr<OrderedJson> PartOf(const std::string& text, const char* what) {
  ASSIGN_OR_RETURN(OrderedJson part, ParseOrderedJson(text, what));
  RETURN_IF_ERROR(CheckIntegers(text, what));
  return part;
}

// Read as the body of OpenAI's API is, so that a chat means the same by either way.
absl::StatusOr<Chat> FromProto(const v1::Chat& proto, int public_messages) {
  OrderedJson body;
  ASSIGN_OR_RETURN(body["messages"], PartOf(proto.messages_json(), "messages"));
  if (!proto.tools_json().empty()) {
    ASSIGN_OR_RETURN(body["tools"], PartOf(proto.tools_json(), "tools"));
  }
  if (!proto.template_json().empty()) {
    constexpr char kVariables[] = "chat_template_kwargs";
    ASSIGN_OR_RETURN(OrderedJson variables, PartOf(proto.template_json(), kVariables));
    if (variables.is_object() && variables.contains("documents")) {
      body["documents"] = std::move(variables["documents"]);
      variables.erase("documents");
    }
    body[kVariables] = std::move(variables);
  }
  ASSIGN_OR_RETURN(Chat chat, ReadChat(body));
  if (public_messages != 0) chat.public_messages = public_messages;
  chat.bytes = proto.ByteSizeLong();
  return chat;
}

// That what is called public belongs to the kind of prompt there is.
absl::Status CheckPublicFields(const v1::GenerateRequest& request) {
  if (request.public_tokens() != 0 && !request.has_token_ids()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'public_tokens': %d without token_ids; leave it out, or use "
                        "public_messages with a chat",
                        request.public_tokens()));
  }
  if (request.public_messages() != 0 && !request.has_chat()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'public_messages': %d without a chat; leave it out, or use "
                        "public_tokens with token_ids",
                        request.public_messages()));
  }
  return absl::OkStatus();
}

absl::StatusOr<PromptRequest> PromptFromProto(const v1::GenerateRequest& request) {
  RETURN_IF_ERROR(CheckPublicFields(request));
  if (request.has_text()) return request.text();
  if (request.has_token_ids()) {
    const auto& ids = request.token_ids().ids();
    return TokenPrompt{.ids = {ids.begin(), ids.end()}, .public_tokens = request.public_tokens()};
  }
  if (request.has_chat()) return FromProto(request.chat(), request.public_messages());
  return PromptRequest();
}

TokenText FromProto(v1::TokenLogprob token) {
  return {.token = token.token_id(),
          .logprob = token.logprob(),
          .bytes = std::move(*token.mutable_text())};
}

void FillProto(TokenText token, v1::TokenLogprob& proto) {
  proto.set_token_id(token.token);
  proto.set_logprob(token.logprob);
  proto.set_text(std::move(token.bytes));
}

std::optional<FinishReason> FromProto(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return FinishReason::kStop;
    case v1::FINISH_REASON_LENGTH:
      return FinishReason::kLength;
    default:
      return std::nullopt;
  }
}

v1::FinishReason ToProto(std::optional<FinishReason> reason) {
  if (reason == FinishReason::kStop) return v1::FINISH_REASON_STOP;
  if (reason == FinishReason::kLength) return v1::FINISH_REASON_LENGTH;
  return v1::FINISH_REASON_UNSPECIFIED;
}

Usage FromProto(const v1::Usage& usage) {
  return {.prompt_tokens = usage.prompt_tokens(),
          .cached_tokens = usage.cached_tokens(),
          .transferred_tokens = usage.transferred_tokens(),
          .completion_tokens = usage.completion_tokens()};
}

v1::Usage ToProto(const Usage& usage) {
  v1::Usage proto;
  proto.set_prompt_tokens(usage.prompt_tokens);
  proto.set_cached_tokens(usage.cached_tokens);
  proto.set_transferred_tokens(usage.transferred_tokens);
  proto.set_completion_tokens(usage.completion_tokens);
  return proto;
}

CallTimes FromProto(const v1::Timing& timing) {
  return {.queue = absl::Microseconds(timing.queue_us()),
          .prefill = absl::Microseconds(timing.prefill_us()),
          .first_token = absl::Microseconds(timing.first_token_us()),
          .total = absl::Microseconds(timing.total_us())};
}

v1::Timing ToProto(const CallTimes& times) {
  v1::Timing proto;
  proto.set_queue_us(absl::ToInt64Microseconds(times.queue));
  proto.set_prefill_us(absl::ToInt64Microseconds(times.prefill));
  proto.set_first_token_us(absl::ToInt64Microseconds(times.first_token));
  proto.set_total_us(absl::ToInt64Microseconds(times.total));
  return proto;
}

}  // namespace

absl::StatusOr<CompletionRequest> FromProto(const v1::GenerateRequest& proto) {
  CompletionRequest request = {.model = proto.model(),
                               .sampling = FromProto(proto.sampling()),
                               .n = proto.n() == 0 ? 1 : proto.n(),
                               .reuse_prefix = !proto.no_prefix_reuse()};
  ASSIGN_OR_RETURN(request.prompt, PromptFromProto(proto));
  return request;
}

CompletionChunk FromProto(v1::GenerateChunk proto) {
  CompletionChunk chunk = {.number = proto.sequence_number(),
                           .index = proto.index(),
                           .tokens = {proto.token_ids().begin(), proto.token_ids().end()},
                           .text = std::move(*proto.mutable_text()),
                           .finish = FromProto(proto.finish_reason())};
  for (v1::ChosenToken& token : *proto.mutable_logprobs()) {
    ChosenToken& out = chunk.logprobs.emplace_back();
    out.chosen = FromProto(std::move(*token.mutable_chosen()));
    for (v1::TokenLogprob& top : *token.mutable_top()) out.top.push_back(FromProto(std::move(top)));
  }
  if (proto.has_usage()) chunk.usage = FromProto(proto.usage());
  if (proto.has_timing()) chunk.times = FromProto(proto.timing());
  return chunk;
}

v1::GenerateChunk ToProto(CompletionChunk chunk) {
  v1::GenerateChunk proto;
  proto.set_sequence_number(chunk.number);
  proto.set_index(chunk.index);
  proto.mutable_token_ids()->Assign(chunk.tokens.begin(), chunk.tokens.end());
  proto.set_text(std::move(chunk.text));
  for (ChosenToken& token : chunk.logprobs) {
    v1::ChosenToken& out = *proto.add_logprobs();
    FillProto(std::move(token.chosen), *out.mutable_chosen());
    for (TokenText& top : token.top) FillProto(std::move(top), *out.add_top());
  }
  proto.set_finish_reason(ToProto(chunk.finish));
  if (chunk.usage) *proto.mutable_usage() = ToProto(*chunk.usage);
  if (chunk.times) *proto.mutable_timing() = ToProto(*chunk.times);
  return proto;
}

v1::DecodeRequest ToProto(const GenerateRequest& request) {
  v1::DecodeRequest proto;
  proto.set_model(request.model);
  proto.mutable_prompt()->Assign(request.prompt.begin(), request.prompt.end());
  *proto.mutable_sampling() = ToProto(request.sampling);
  proto.set_n(request.n);
  proto.set_tenant_salt(request.scope.tenant_salt);
  proto.set_public_tokens(request.scope.public_tokens);
  proto.set_no_prefix_reuse(!request.reuse_prefix);
  return proto;
}

GenerateRequest FromProto(const v1::DecodeRequest& proto) {
  return {.model = proto.model(),
          .prompt = {proto.prompt().begin(), proto.prompt().end()},
          .sampling = Resolve(FromProto(proto.sampling()), {}, INT32_MAX),
          .n = proto.n() == 0 ? 1 : proto.n(),
          .scope = {proto.tenant_salt(), proto.public_tokens()},
          .reuse_prefix = !proto.no_prefix_reuse()};
}

v1::Sampling ToProto(const GenerationDefaults& defaults) {
  v1::Sampling proto;
  if (defaults.temperature) proto.set_temperature(*defaults.temperature);
  if (defaults.top_k) proto.set_top_k(*defaults.top_k);
  if (defaults.top_p) proto.set_top_p(*defaults.top_p);
  if (defaults.min_p) proto.set_min_p(*defaults.min_p);
  if (defaults.repetition_penalty) proto.set_repetition_penalty(*defaults.repetition_penalty);
  if (defaults.max_tokens) proto.set_max_tokens(*defaults.max_tokens);
  for (const std::string& stop : defaults.stop) proto.add_stop(stop);
  return proto;
}

GenerationDefaults DefaultsFromProto(const v1::Sampling& sampling) {
  GenerationDefaults defaults;
  if (sampling.has_temperature()) defaults.temperature = sampling.temperature();
  if (sampling.has_top_k()) defaults.top_k = sampling.top_k();
  if (sampling.has_top_p()) defaults.top_p = sampling.top_p();
  if (sampling.has_min_p()) defaults.min_p = sampling.min_p();
  if (sampling.has_repetition_penalty())
    defaults.repetition_penalty = sampling.repetition_penalty();
  if (sampling.has_max_tokens()) defaults.max_tokens = sampling.max_tokens();
  defaults.stop.assign(sampling.stop().begin(), sampling.stop().end());
  return defaults;
}

}  // namespace chorale
