#include "api/openai_request.h"

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "api/openai_messages.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "engine/request.h"

namespace chorale {
namespace {

constexpr int kCompletionTokensDefault = 16;
// Of one object: more than logit_bias may have, so that who sends too many hears of that limit.
constexpr size_t kKeysMax = 2048;

// A field that Chorale does not offer, and the values of it that ask for nothing.
struct Refused {
  const char* field;
  const char* neutral;  // a JSON array
  const char* remedy;
};

constexpr Refused kRefused[] = {
    {"audio", "[]", "only text is generated; leave it out"},
    {"modalities", R"([["text"]])", "only text is generated; leave it out"},
    {"web_search_options", "[]", "leave it out"},
    {"response_format", R"([{"type": "text"}])",
     "send {\"type\": \"text\"} or leave it out and ask for the format in the prompt"},
    {"functions", "[[]]", "use tools instead"},
    {"function_call", R"(["none"])", "use tools and tool_choice instead"},
    {"reasoning_effort", "[]", "put it into chat_template_kwargs if the model's template reads it"},
    {"suffix", R"([""])", "leave it out and put all the text into prompt"},
    {"chat_template", "[]", "leave it out: the model's own template is used"},
    {"echo", "[false]", "leave it out and prepend the prompt yourself"},
    {"use_beam_search", "[false]", "leave it out"},
    {"length_penalty", "[1]", "leave it out"},
    {"typical_p", "[1]", "use top_p or min_p instead"},
    {"min_tokens", "[0]", "use ignore_eos with max_tokens instead"},
    {"prompt_logprobs", "[false]", "leave it out"},
    {"truncate_prompt_tokens", "[]", "shorten the prompt yourself"},
    {"bad_words", "[[]]", "use logit_bias instead"},
    {"allowed_token_ids", "[[]]", "use logit_bias instead"},
    {"skip_special_tokens", "[true]", "leave it out"},
    {"include_stop_str_in_output", "[false]", "leave it out and append the stop string yourself"},
    {"continue_final_message", "[false]", "use /v1/completions with the rendered text instead"},
    {"parallel_tool_calls", "[true]", "leave it out and use the first call"},
    {"prediction", "[]", "leave it out"},
    {"verbosity", "[]", "ask for it in the prompt"},
    {"store", "[false]", "leave it out: nothing is stored"},
    {"no_repeat_ngram_size", "[0]", "use repetition_penalty or frequency_penalty instead"},
    {"repeat_penalty", "[1]", "use repetition_penalty instead"},
    {"n_predict", "[-1]", "use max_tokens instead"},
    {"top_a", "[0]", "use top_p or min_p instead"},
    {"tfs_z", "[1]", "use top_p or min_p instead"},
    {"mirostat", "[0]", "use top_p or min_p instead"},
    {"dry_multiplier", "[0]", "use repetition_penalty instead"},
    {"xtc_probability", "[0]", "leave it out"},
    {"grammar", R"([""])", "ask for the format in the prompt"},
    {"json_schema", "[{}]", "ask for the format in the prompt"},
    {"regex", R"([""])", "ask for the format in the prompt"},
    {"ebnf", R"([""])", "ask for the format in the prompt"},
    {"logits_processors", "[[]]", "use logit_bias instead"},
    {"spaces_between_special_tokens", "[true]", "leave it out"},
    {"return_tokens_as_token_ids", "[false]", "use gRPC, which gives token ids"},
    {"guided_json", "[]", "ask for the format in the prompt"},
    {"guided_regex", "[]", "ask for the format in the prompt"},
    {"guided_choice", "[]", "ask for the format in the prompt"},
    {"guided_grammar", "[]", "ask for the format in the prompt"},
    {"structured_outputs", "[]", "ask for the format in the prompt"},
};

absl::Status CheckRefused(const Json& body) {
  for (const Refused& refused : kRefused) {
    if (!JsonHas(body, refused.field)) continue;
    const Json& value = body[refused.field];
    bool neutral = false;
    for (const Json& harmless : Json::parse(refused.neutral)) neutral |= value == harmless;
    if (!neutral) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field '%s': %s is not supported; %s", refused.field, JsonExcerpt(value), refused.remedy));
    }
  }
  return absl::OkStatus();
}

// A plain prompt gets the tokenizer's special tokens, a chat those that its template writes.
absl::Status CheckSpecialTokens(OpenAiEndpoint endpoint, const Json& body) {
  const bool adds = endpoint == OpenAiEndpoint::kCompletions;
  ASSIGN_OR_RETURN(const bool wanted, JsonBool(body, "add_special_tokens", adds));
  if (wanted == adds) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "field 'add_special_tokens': %s is not supported here; %s", wanted ? "true" : "false",
      adds ? "send token ids instead of a text" : "leave it out: the chat template writes them"));
}

absl::StatusOr<std::optional<int32_t>> Int32Of(const Json& body, const char* field) {
  if (!JsonHas(body, field)) return std::nullopt;
  ASSIGN_OR_RETURN(int64_t value, JsonInt(body, field));
  if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field '%s': %d does not fit into 32 bits; send a smaller number", field, value));
  }
  return static_cast<int32_t>(value);
}

absl::StatusOr<std::optional<double>> NumberOf(const Json& body, const char* field) {
  if (!JsonHas(body, field)) return std::nullopt;
  ASSIGN_OR_RETURN(double value, JsonNumber(body, field));
  return value;
}

absl::StatusOr<int32_t> TokenOf(const Json& value, const char* field) {
  if (!value.is_number_integer() || value.get<double>() > std::numeric_limits<int32_t>::max() ||
      value.get<double>() < std::numeric_limits<int32_t>::min()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': %s is not a token id; send integers", field, JsonExcerpt(value)));
  }
  return value.get<int32_t>();
}

absl::Status ReadTokenIds(const Json& ids, const char* field, std::vector<TokenId>& out) {
  out.reserve(ids.size());
  for (const Json& id : ids) {
    ASSIGN_OR_RETURN(int32_t token, TokenOf(id, field));
    out.push_back(token);
  }
  return absl::OkStatus();
}

absl::Status ReadPrompt(const Json& body, CompletionRequest& request) {
  if (!JsonHas(body, "prompt")) {
    return absl::InvalidArgumentError("field 'prompt': it is missing; send a string or token ids");
  }
  const Json* prompt = &body["prompt"];
  const auto batch = [](const Json& value) {
    return value.is_array() && !value.empty() && (value[0].is_string() || value[0].is_array());
  };
  if (batch(*prompt)) {
    if (prompt->size() > 1) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'prompt': %d prompts in one request; send one request for each", prompt->size()));
    }
    prompt = &(*prompt)[0];
  }
  if (prompt->is_string()) {
    request.prompt = prompt->get<std::string>();
    return absl::OkStatus();
  }
  if (prompt->is_array() && !prompt->empty()) {
    return ReadTokenIds(*prompt, "prompt", request.prompt.emplace<TokenPrompt>().ids);
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "field 'prompt': expected a string or an array of token ids, found %s", JsonExcerpt(*prompt)));
}

absl::Status ReadPublicTokens(const Json& body, CompletionRequest& request) {
  ASSIGN_OR_RETURN(std::optional<int32_t> tokens, Int32Of(body, "public_tokens"));
  if (!tokens || *tokens == 0) return absl::OkStatus();
  auto* prompt = std::get_if<TokenPrompt>(&request.prompt);
  if (prompt == nullptr) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'public_tokens': %d without a prompt of token ids; send token ids, or a chat with "
        "\"public\": true in its leading messages",
        *tokens));
  }
  prompt->public_tokens = *tokens;
  return absl::OkStatus();
}

absl::Status ReadStop(const Json& body, SamplingRequest& sampling) {
  if (JsonHas(body, "stop")) {
    const Json& stop = body["stop"];
    const Json list = stop.is_array() ? stop : Json::array({stop});
    for (const Json& text : list) {
      if (!text.is_string() || text.get_ref<const std::string&>().empty()) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "field 'stop': expected a string or a list of strings that are not empty, found %s",
            JsonExcerpt(stop)));
      }
      sampling.stop.push_back(text.get<std::string>());
    }
  }
  if (JsonHas(body, "stop_token_ids")) {
    if (!body["stop_token_ids"].is_array()) {
      return absl::InvalidArgumentError("field 'stop_token_ids': expected an array of token ids");
    }
    for (const Json& id : body["stop_token_ids"]) {
      ASSIGN_OR_RETURN(int32_t token, TokenOf(id, "stop_token_ids"));
      sampling.stop_tokens.push_back(token);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadLogitBias(const Json& body, SamplingRequest& sampling) {
  if (!JsonHas(body, "logit_bias")) return absl::OkStatus();
  if (!body["logit_bias"].is_object()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'logit_bias': expected an object of token ids and numbers, found %s",
                        JsonExcerpt(body["logit_bias"])));
  }
  std::map<TokenId, double> biases;  // "1" and "01" are one token
  for (const auto& [key, value] : body["logit_bias"].items()) {
    int32_t token = 0;
    if (!absl::SimpleAtoi(key, &token)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field 'logit_bias': key '%s' is not a token id; use integers as keys",
                          key.substr(0, 40)));
    }
    if (!value.is_number()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'logit_bias': the value of token %d is %s; send a number from -100 to 100", token,
          JsonExcerpt(value)));
    }
    biases[token] = value.get<double>();
  }
  sampling.logit_bias.assign(biases.begin(), biases.end());
  return absl::OkStatus();
}

absl::Status CheckLogprobs(const char* field, int64_t value) {
  if (value >= 0 && value <= kLogprobsMax) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("field '%s': %d, expected 0 to %d", field, value, kLogprobsMax));
}

absl::Status ReadLogprobs(OpenAiEndpoint endpoint, const Json& body, SamplingRequest& sampling) {
  if (endpoint == OpenAiEndpoint::kCompletions) {
    ASSIGN_OR_RETURN(std::optional<int32_t> logprobs, Int32Of(body, "logprobs"));
    if (!logprobs) return absl::OkStatus();
    RETURN_IF_ERROR(CheckLogprobs("logprobs", *logprobs));
    sampling.logprobs = *logprobs;
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(bool wanted, JsonBool(body, "logprobs", false));
  ASSIGN_OR_RETURN(std::optional<int32_t> top, Int32Of(body, "top_logprobs"));
  if (top) RETURN_IF_ERROR(CheckLogprobs("top_logprobs", *top));
  if (top.value_or(0) > 0 && !wanted) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'top_logprobs': %d without logprobs; set logprobs to true", *top));
  }
  if (wanted) sampling.logprobs = top.value_or(0);
  return absl::OkStatus();
}

absl::Status ReadMaxTokens(OpenAiEndpoint endpoint, const Json& body, SamplingRequest& sampling) {
  ASSIGN_OR_RETURN(std::optional<int32_t> max_tokens, Int32Of(body, "max_tokens"));
  ASSIGN_OR_RETURN(std::optional<int32_t> newer, Int32Of(body, "max_completion_tokens"));
  if (max_tokens && newer && *max_tokens != *newer) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'max_completion_tokens': %d, but max_tokens is %d; send one of them",
                        *newer, *max_tokens));
  }
  sampling.max_tokens = newer ? newer : max_tokens;
  if (newer) sampling.max_tokens_field = "max_completion_tokens";
  if (endpoint == OpenAiEndpoint::kCompletions) {
    sampling.max_tokens_otherwise = kCompletionTokensDefault;
  }
  return absl::OkStatus();
}

absl::Status ReadSampling(OpenAiEndpoint endpoint, const Json& body, SamplingRequest& sampling) {
  const std::pair<const char*, std::optional<double> SamplingRequest::*> numbers[] = {
      {"temperature", &SamplingRequest::temperature},
      {"top_p", &SamplingRequest::top_p},
      {"min_p", &SamplingRequest::min_p},
      {"presence_penalty", &SamplingRequest::presence_penalty},
      {"frequency_penalty", &SamplingRequest::frequency_penalty},
      {"repetition_penalty", &SamplingRequest::repetition_penalty},
  };
  for (const auto& [field, member] : numbers) {
    ASSIGN_OR_RETURN(sampling.*member, NumberOf(body, field));
  }
  ASSIGN_OR_RETURN(std::optional<int32_t> top_k, Int32Of(body, "top_k"));
  if (top_k) sampling.top_k = *top_k == -1 ? 0 : *top_k;  // vLLM writes "all" as -1
  if (JsonHas(body, "seed")) {
    ASSIGN_OR_RETURN(int64_t seed, JsonInt(body, "seed"));
    sampling.seed = static_cast<uint64_t>(seed);
  }
  ASSIGN_OR_RETURN(sampling.ignore_eos, JsonBool(body, "ignore_eos", false));
  RETURN_IF_ERROR(ReadMaxTokens(endpoint, body, sampling));
  RETURN_IF_ERROR(ReadStop(body, sampling));
  RETURN_IF_ERROR(ReadLogitBias(body, sampling));
  return ReadLogprobs(endpoint, body, sampling);
}

absl::Status ReadSequences(const Json& body, CompletionRequest& request) {
  ASSIGN_OR_RETURN(std::optional<int32_t> n, Int32Of(body, "n"));
  if (n.value_or(1) < 1 || n.value_or(1) > kSequencesOfRequestMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'n': %d, expected 1 to %d", *n, kSequencesOfRequestMax));
  }
  request.n = n.value_or(1);
  ASSIGN_OR_RETURN(std::optional<int32_t> best_of, Int32Of(body, "best_of"));
  if (best_of && *best_of != request.n) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'best_of': %d with n of %d is not supported; leave it out, or ask for n of "
        "%d and choose yourself",
        *best_of, request.n, *best_of));
  }
  return absl::OkStatus();
}

absl::Status ReadStream(const Json& body, OpenAiRequest& request) {
  ASSIGN_OR_RETURN(request.stream, JsonBool(body, "stream", false));
  if (!JsonHas(body, "stream_options")) return absl::OkStatus();
  const Json& options = body["stream_options"];
  if (!options.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'stream_options': expected an object, found %s", JsonExcerpt(options)));
  }
  if (!request.stream) {
    return absl::InvalidArgumentError(
        "field 'stream_options': only with a stream; set stream to true or leave it out");
  }
  ASSIGN_OR_RETURN(request.include_usage, JsonBool(options, "include_usage", false));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<OpenAiRequest> ParseOpenAiRequest(OpenAiEndpoint endpoint, std::string_view body) {
  ASSIGN_OR_RETURN(OrderedJson ordered, ParseOrderedJson(body, "request body", kKeysMax));
  if (!ordered.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("request body: expected a JSON object, found %s", JsonExcerpt(ordered)));
  }
  RETURN_IF_ERROR(CheckIntegers(body, "request body"));
  OpenAiRequest request = {.endpoint = endpoint};
  CompletionRequest& completion = request.completion;
  if (endpoint == OpenAiEndpoint::kChatCompletions) {
    ASSIGN_OR_RETURN(Chat chat, ReadChat(ordered));
    chat.bytes = body.size();
    completion.prompt = std::move(chat);
  }
  const Json json = std::move(ordered);  // what is left needs no order
  RETURN_IF_ERROR(CheckRefused(json));
  RETURN_IF_ERROR(CheckSpecialTokens(endpoint, json));
  ASSIGN_OR_RETURN(completion.model, JsonString(json, "model", ""));
  if (endpoint == OpenAiEndpoint::kCompletions) RETURN_IF_ERROR(ReadPrompt(json, completion));
  RETURN_IF_ERROR(ReadPublicTokens(json, completion));
  RETURN_IF_ERROR(ReadSampling(endpoint, json, completion.sampling));
  RETURN_IF_ERROR(ReadSequences(json, completion));
  RETURN_IF_ERROR(ReadStream(json, request));
  ASSIGN_OR_RETURN(const bool no_prefix_reuse, JsonBool(json, "no_prefix_reuse", false));
  completion.reuse_prefix = !no_prefix_reuse;
  return request;
}

}  // namespace chorale
