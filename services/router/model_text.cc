#include "services/router/model_text.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

constexpr int64_t kNormalisingMax = 4;  // how many times a normaliser may shorten a text

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelText>> ModelText::Load(const std::string& folder) {
  auto text = std::make_shared<ModelText>();
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

absl::StatusOr<std::string> ModelText::Render(const v1::Chat& chat) const {
  if (chat_template_ == nullptr) {
    return absl::FailedPreconditionError(
        "field 'messages': this model has no chat template; send a plain prompt instead");
  }
  OrderedJson context = OrderedJson::object();
  ASSIGN_OR_RETURN(context["messages"], ParseOrderedJson(chat.messages_json(), "messages"));
  if (!context["messages"].is_array()) {
    return absl::InvalidArgumentError("field 'messages': expected an array");
  }
  if (!chat.tools_json().empty()) {
    ASSIGN_OR_RETURN(context["tools"], ParseOrderedJson(chat.tools_json(), "tools"));
  }
  context["add_generation_prompt"] = true;
  context["bos_token"] = config_.bos_token;
  context["eos_token"] = config_.eos_token;
  context["current_time_unix"] = absl::ToUnixSeconds(absl::Now());  // what strftime_now shows
  if (!chat.template_json().empty()) {
    ASSIGN_OR_RETURN(OrderedJson more,
                     ParseOrderedJson(chat.template_json(), "chat_template_kwargs"));
    if (!more.is_object()) {
      return absl::InvalidArgumentError("field 'chat_template_kwargs': expected an object");
    }
    for (auto& [key, value] : more.items()) context[key] = value;
  }
  return chat_template_->Render(context);
}

absl::StatusOr<std::vector<TokenId>> ModelText::PromptOf(const v1::GenerateRequest& request,
                                                         int64_t tokens_max) const {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      return Tokenize(request.text(), tokens_max);
    case v1::GenerateRequest::kTokenIds:
      return std::vector<TokenId>(request.token_ids().ids().begin(),
                                  request.token_ids().ids().end());
    case v1::GenerateRequest::kChat: {
      ASSIGN_OR_RETURN(std::string text, Render(request.chat()));
      // The template writes the special tokens itself.
      return Encode(text, /*add_special_tokens=*/false, tokens_max);
    }
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
