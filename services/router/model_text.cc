#include "services/router/model_text.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "services/common/log.h"

namespace chorale {
namespace {

constexpr int64_t kNormalisingMax = 4;  // how many times a normaliser may shorten a text

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

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelText>> ModelText::Load(const std::string& folder) {
  auto text = std::make_shared<ModelText>();
  text->folder_ = folder;
  const std::string path = folder + "/tokenizer.json";
  if (!std::filesystem::exists(path)) return text;
  ASSIGN_OR_RETURN(text->tokenizer_, Tokenizer::Load(path));
  for (TokenId id = 0; id < text->tokenizer_->vocab_size(); ++id) {
    text->token_bytes_max_ = std::max(text->token_bytes_max_,
                                      static_cast<int64_t>(text->tokenizer_->BytesOf(id).size()));
  }
  text->token_bytes_max_ *= kNormalisingMax;
  ASSIGN_OR_RETURN(text->config_, LoadTokenizerConfig(folder));
  if (!text->config_.chat_template.empty()) {
    ASSIGN_OR_RETURN(text->chat_template_, ChatTemplate::Parse(text->config_.chat_template));
  }
  return text;
}

absl::StatusOr<std::vector<TokenId>> ModelText::Encode(const std::string& text,
                                                       bool add_special_tokens,
                                                       int64_t tokens_max) const {
  if (static_cast<int64_t>(text.size()) > tokens_max * token_bytes_max_) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'prompt': %d bytes are more than the %d tokens of this model's "
                        "context can hold; shorten it",
                        text.size(), tokens_max));
  }
  return tokenizer_->Encode(text, add_special_tokens);
}

absl::StatusOr<std::vector<TokenId>> ModelText::Tokenize(const std::string& text,
                                                         int64_t tokens_max) const {
  if (tokenizer_ == nullptr) {
    return absl::FailedPreconditionError(
        "field 'prompt': this model has no tokenizer.json; send token ids instead of text");
  }
  return Encode(text, /*add_special_tokens=*/true, tokens_max);
}

absl::StatusOr<std::vector<TokenId>> ModelText::RenderTokens(const OrderedJson& variables,
                                                             int64_t tokens_max) const {
  ASSIGN_OR_RETURN(const std::string text, chat_template_->Render(variables));
  // The template writes the special tokens itself.
  return Encode(text, /*add_special_tokens=*/false, tokens_max);
}

absl::StatusOr<Prompt> ModelText::PromptOfChat(const v1::Chat& chat, int public_messages,
                                               int64_t tokens_max) const {
  if (chat_template_ == nullptr) {
    return absl::FailedPreconditionError(
        "field 'messages': this model has no chat template; send a plain prompt instead");
  }
  ASSIGN_OR_RETURN(OrderedJson messages, ParseOrderedJson(chat.messages_json(), "messages"));
  if (!messages.is_array()) {
    return absl::InvalidArgumentError("field 'messages': expected an array");
  }
  if (public_messages < 0 || public_messages > static_cast<int64_t>(messages.size())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'public_messages': %d, expected 0 to the %d messages of the chat",
                        public_messages, messages.size()));
  }
  OrderedJson alone = {{"bos_token", config_.bos_token},
                       {"eos_token", config_.eos_token},
                       // What strftime_now shows.
                       {"current_time_unix", absl::ToUnixSeconds(absl::Now())},
                       {"add_generation_prompt", false}};
  OrderedJson whole = alone;
  whole["add_generation_prompt"] = true;
  alone["messages"] = OrderedJson(messages.begin(), messages.begin() + public_messages);
  whole["messages"] = std::move(messages);
  if (!chat.tools_json().empty()) {
    ASSIGN_OR_RETURN(whole["tools"], ParseOrderedJson(chat.tools_json(), "tools"));
  }
  if (!chat.template_json().empty()) {
    ASSIGN_OR_RETURN(OrderedJson more,
                     ParseOrderedJson(chat.template_json(), "chat_template_kwargs"));
    if (!more.is_object()) {
      return absl::InvalidArgumentError("field 'chat_template_kwargs': expected an object");
    }
    for (auto& [key, value] : more.items()) whole[key] = value;
  }
  Prompt prompt;
  ASSIGN_OR_RETURN(prompt.tokens, RenderTokens(whole, tokens_max));
  if (public_messages == 0) return prompt;
  const absl::StatusOr<std::vector<TokenId>> tokens = RenderTokens(alone, tokens_max);
  if (!tokens.ok()) {
    std::call_once(public_refusal_, [&] {
      LogWarning(
          "the chat template in ", folder_, " refuses public messages without the others, ",
          "so that tenants do not share them: ", absl::Utf8SafeCEscape(tokens.status().message()));
    });
    return prompt;
  }
  const auto [end, other] =
      std::mismatch(prompt.tokens.begin(), prompt.tokens.end(), tokens->begin(), tokens->end());
  prompt.public_tokens = static_cast<int>(end - prompt.tokens.begin());
  return prompt;
}

absl::StatusOr<Prompt> ModelText::PromptOf(const v1::GenerateRequest& request,
                                           int64_t tokens_max) const {
  RETURN_IF_ERROR(CheckPublicFields(request));
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText: {
      ASSIGN_OR_RETURN(std::vector<TokenId> tokens, Tokenize(request.text(), tokens_max));
      return Prompt{.tokens = std::move(tokens)};
    }
    case v1::GenerateRequest::kTokenIds: {
      const auto& ids = request.token_ids().ids();
      if (request.public_tokens() < 0 || request.public_tokens() > ids.size()) {
        return absl::InvalidArgumentError(
            absl::StrFormat("field 'public_tokens': %d, expected 0 to the %d tokens of the prompt",
                            request.public_tokens(), ids.size()));
      }
      return Prompt{.tokens = std::vector<TokenId>(ids.begin(), ids.end()),
                    .public_tokens = request.public_tokens()};
    }
    case v1::GenerateRequest::kChat:
      return PromptOfChat(request.chat(), request.public_messages(), tokens_max);
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("field 'prompt': give one of text, token_ids and chat");
}

absl::StatusOr<std::shared_ptr<const ModelText>> ModelTexts::Get(const std::string& folder) {
  // Loading under the lock: whoever needs the same model waits for it instead of loading it twice.
  std::lock_guard lock(mutex_);
  std::shared_ptr<const ModelText>& text = texts_[folder];
  if (text == nullptr) {
    absl::StatusOr<std::shared_ptr<const ModelText>> loaded = ModelText::Load(folder);
    if (!loaded.ok()) return loaded.status();
    text = *std::move(loaded);
  }
  return text;
}

}  // namespace chorale
