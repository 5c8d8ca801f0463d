#include "api/openai_response.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "api/openai_logprobs.h"

namespace chorale {
namespace {

Json FinishJson(std::optional<FinishReason> reason) {
  return reason ? Json(NameOf(*reason)) : Json(nullptr);
}

Json UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details",
           {{"cached_tokens", usage.cached_tokens},
            {"transferred_tokens", usage.transferred_tokens}}}};
}

bool IsChat(const ReplyHead& head) { return head.endpoint == OpenAiEndpoint::kChatCompletions; }

Json Object(const ReplyHead& head, const char* kind) {
  return {
      {"id", head.id}, {"object", kind}, {"created", head.created_seconds}, {"model", head.model}};
}

Json LogprobsOf(const ReplyHead& head, const ChosenTokens& tokens, int64_t characters_before) {
  if (!head.logprobs) return nullptr;
  return IsChat(head) ? ChatLogprobs(tokens) : CompletionLogprobs(tokens, characters_before);
}

std::string DataEvent(const Json& object) { return "data: " + DumpJson(object) + "\n\n"; }

// The field that a message begins with: "field 'top_p': ...".
std::string ParamOf(std::string_view message) {
  constexpr std::string_view kField = "field '";
  if (!message.starts_with(kField)) return "";
  const size_t end = message.find('\'', kField.size());
  if (end == std::string_view::npos) return "";
  return std::string(message.substr(kField.size(), end - kField.size()));
}

const char* TypeOf(int http_status) {
  switch (http_status) {
    case 401:
      return "authentication_error";
    case 429:
      return "rate_limit_error";
    default:
      return http_status < 500 ? "invalid_request_error" : "server_error";
  }
}

Json ModelJson(const ModelEntry& model, int64_t created_seconds) {
  return {{"id", model.served.name},
          {"object", "model"},
          {"created", created_seconds},
          {"owned_by", "chorale"},
          {"mode", model.served.mode},
          {"max_model_len", model.served.context_tokens}};
}

}  // namespace

CompletionReply::CompletionReply(ReplyHead head, int sequences)
    : head_(std::move(head)), choices_(static_cast<size_t>(std::max(sequences, 1))) {}

void CompletionReply::Add(const CompletionChunk& chunk) {
  if (chunk.usage) usage_ = *chunk.usage;
  if (chunk.index < 0 || chunk.index >= static_cast<int>(choices_.size())) return;
  Choice& choice = choices_[chunk.index];
  choice.text += chunk.text;
  choice.logprobs.insert(choice.logprobs.end(), chunk.logprobs.begin(), chunk.logprobs.end());
  if (chunk.finish) choice.finish = chunk.finish;
}

std::string CompletionReply::Body() const {
  Json body = Object(head_, IsChat(head_) ? "chat.completion" : "text_completion");
  body["choices"] = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    Json out = {{"index", i},
                {"finish_reason", FinishJson(choice.finish)},
                {"logprobs", LogprobsOf(head_, choice.logprobs, 0)}};
    if (IsChat(head_)) {
      out["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    } else {
      out["text"] = choice.text;
    }
    body["choices"].push_back(std::move(out));
  }
  body["usage"] = UsageJson(usage_);
  return DumpJson(body);
}

StreamReply::StreamReply(ReplyHead head, bool include_usage)
    : head_(std::move(head)), include_usage_(include_usage) {}

std::string StreamReply::Event(Json choice) const {
  Json object = Object(head_, IsChat(head_) ? "chat.completion.chunk" : "text_completion");
  object["choices"] = Json::array({std::move(choice)});
  if (include_usage_) object["usage"] = nullptr;
  return DataEvent(object);
}

std::string StreamReply::Events(const CompletionChunk& chunk) {
  if (chunk.usage) usage_ = *chunk.usage;
  Sequence& sequence = sequences_[chunk.index];
  if (IsChat(head_)) return ChatEvents(chunk, sequence);
  const bool finished = chunk.finish.has_value();
  const ChosenTokens& tokens = chunk.logprobs;
  if (chunk.text.empty() && tokens.empty() && !finished) return "";
  const std::string event =
      Event({{"index", chunk.index},
             {"text", chunk.text},
             {"logprobs",
              tokens.empty() ? Json(nullptr) : LogprobsOf(head_, tokens, sequence.characters)},
             {"finish_reason", FinishJson(chunk.finish)}});
  sequence.characters += CountCharacters(tokens);
  return event;
}

// OpenAI's order: the role first, then the text, then the reason why it ended with an empty delta.
std::string StreamReply::ChatEvents(const CompletionChunk& chunk, Sequence& sequence) {
  std::string events;
  const auto add = [&](Json delta, Json logprobs, Json finish) {
    events += Event({{"index", chunk.index},
                     {"delta", std::move(delta)},
                     {"logprobs", std::move(logprobs)},
                     {"finish_reason", std::move(finish)}});
  };
  if (!sequence.begun) {
    add({{"role", "assistant"}, {"content", ""}}, nullptr, nullptr);
    sequence.begun = true;
  }
  const ChosenTokens& tokens = chunk.logprobs;
  if (!chunk.text.empty() || !tokens.empty()) {
    add({{"content", chunk.text}},
        tokens.empty() ? Json(nullptr) : LogprobsOf(head_, tokens, 0), nullptr);
  }
  if (chunk.finish) {
    add(Json::object(), nullptr, FinishJson(chunk.finish));
  }
  return events;
}

std::string StreamReply::End() const {
  std::string events;
  if (include_usage_) {
    Json object = Object(head_, IsChat(head_) ? "chat.completion.chunk" : "text_completion");
    object["choices"] = Json::array();
    object["usage"] = UsageJson(usage_);
    events = DataEvent(object);
  }
  return events + "data: [DONE]\n\n";
}

std::string ErrorBody(const absl::Status& status) {
  const std::string message(status.message());
  const int http_status = HttpStatusOf(status);
  std::string param = http_status < 500 ? ParamOf(message) : "";
  Json code = nullptr;
  if (status.code() == absl::StatusCode::kNotFound && message.rfind("model ", 0) == 0) {
    param = "model";
    code = "model_not_found";
  }
  return DumpJson({{"error",
                    {{"message", message},
                     {"type", TypeOf(http_status)},
                     {"param", param.empty() ? Json(nullptr) : Json(param)},
                     {"code", code}}}});
}

std::string ErrorEvent(const absl::Status& status) { return "data: " + ErrorBody(status) + "\n\n"; }

int HttpStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

int RetryAfterSeconds(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kUnavailable:
      return 1;
    default:
      return 0;
  }
}

std::string ModelsBody(const ModelTable& models, int64_t created_seconds) {
  Json data = Json::array();
  for (const ModelEntry& model : models) {
    data.push_back(ModelJson(model, created_seconds));
  }
  return DumpJson({{"object", "list"}, {"data", std::move(data)}});
}

std::string ModelBody(const ModelEntry& model, int64_t created_seconds) {
  return DumpJson(ModelJson(model, created_seconds));
}

}  // namespace chorale
