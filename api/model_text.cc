#include "api/model_text.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "api/chat_messages.h"
#include "base/json.h"
#include "base/names.h"
#include "base/status_macros.h"
#include "process/log.h"

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

// A template that does not know a role passes over its messages without a word.
void RenameRole(OrderedJson& messages, const char* from, const char* to) {
  for (OrderedJson& message : messages) {
    const auto role = message.find("role");
    if (role != message.end() && *role == from) *role = to;
  }
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelText>> ModelText::Load(const std::string& folder,
                                                                 const std::string& text_folder) {
  auto text = std::make_shared<ModelText>();
  text->folder_ = text_folder.empty() ? folder : text_folder;
  const std::string path = folder + "/tokenizer.json";
  if (!std::filesystem::exists(path)) return text;
  ASSIGN_OR_RETURN(text->tokenizer_, Tokenizer::Load(path));
  for (TokenId id = 0; id < text->tokenizer_->vocab_size(); ++id) {
    text->token_bytes_max_ = std::max(text->token_bytes_max_,
                                      static_cast<int64_t>(text->tokenizer_->BytesOf(id).size()));
  }
  text->token_bytes_max_ *= kNormalisingMax;
  ASSIGN_OR_RETURN(text->settings_, LoadTextSettings(text->folder_));
  RETURN_IF_ERROR(text->LoadTemplates());
  const auto added = [&](std::optional<bool> wanted, const char* token,
                         const std::vector<TokenId>& otherwise) {
    if (!wanted) return otherwise;
    const auto id = text->tokenizer_->IdOf(text->settings_.Token(token));
    return *wanted && id ? std::vector<TokenId>{*id} : std::vector<TokenId>{};
  };
  text->before_ =
      added(text->settings_.add_bos_token, "bos_token", text->tokenizer_->added_before());
  text->behind_ =
      added(text->settings_.add_eos_token, "eos_token", text->tokenizer_->added_behind());
  return text;
}

// What is not understood is told once, and again to whoever asks for a chat.
absl::Status ModelText::LoadTemplates() {
  for (const auto& [name, source] : settings_.chat_templates) {
    auto parsed = ChatTemplate::Parse(source);
    if (!parsed.ok()) {
      LogWarning("chats of the model in ", folder_,
                 " are refused: ", absl::Utf8SafeCEscape(parsed.status().message()));
    }
    templates_.emplace(name, std::move(parsed));
  }
  return absl::OkStatus();
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
  ASSIGN_OR_RETURN(std::vector<TokenId> tokens,
                   tokenizer_->Encode(text, /*add_special_tokens=*/false));
  if (add_special_tokens) {
    tokens.insert(tokens.begin(), before_.begin(), before_.end());
    tokens.insert(tokens.end(), behind_.begin(), behind_.end());
  }
  return tokens;
}

absl::StatusOr<std::vector<TokenId>> ModelText::Tokenize(const std::string& text,
                                                         int64_t tokens_max) const {
  if (tokenizer_ == nullptr) {
    return absl::FailedPreconditionError(
        "field 'prompt': this model has no tokenizer.json; send token ids instead of text");
  }
  return Encode(text, /*add_special_tokens=*/true, tokens_max);
}

// "tool_use", where there is one, for a chat with tools; else "default".
absl::StatusOr<const ChatTemplate*> ModelText::TemplateFor(bool with_tools) const {
  if (templates_.empty()) {
    return absl::FailedPreconditionError(
        "field 'messages': this model has no chat template; send a plain prompt instead");
  }
  auto found = with_tools ? templates_.find("tool_use") : templates_.end();
  if (found == templates_.end()) found = templates_.find("default");
  if (found == templates_.end()) {
    std::vector<std::string> names;
    for (const auto& [name, parsed] : templates_) names.push_back(name);
    return absl::FailedPreconditionError(absl::StrFormat(
        "field 'messages': this model has no chat template 'default'%s; there is: %s",
        with_tools ? " and none for tools" : "", ListNames(names)));
  }
  if (found->second.ok()) return found->second->get();
  return absl::FailedPreconditionError(
      absl::StrFormat("field 'messages': this model's chat template is not understood: %s",
                      std::string(found->second.status().message())));
}

absl::StatusOr<std::vector<TokenId>> ModelText::RenderTokens(const ChatTemplate& chat_template,
                                                             const OrderedJson& variables,
                                                             int64_t tokens_max) const {
  const absl::StatusOr<std::string> text = chat_template.Render(variables);
  // The template's fault as much as the request's: a chat that cannot be met.
  if (!text.ok()) return absl::InvalidArgumentError(text.status().message());
  // The template writes the special tokens itself.
  return Encode(*text, /*add_special_tokens=*/false, tokens_max);
}

// What every template may read, as the reference library hands it over.
OrderedJson ModelText::VariablesOf(const OrderedJson& messages) const {
  OrderedJson variables = {{"messages", messages},
                           {"tools", nullptr},
                           {"documents", nullptr},
                           {"add_generation_prompt", false},
                           // What strftime_now shows.
                           {"current_time_unix", absl::ToUnixSeconds(absl::Now())}};
  for (const auto& [name, text] : settings_.special_tokens) variables[name] = text;
  return variables;
}

absl::StatusOr<Prompt> ModelText::PromptOfChat(const v1::Chat& chat, int public_messages,
                                               int64_t tokens_max) const {
  OrderedJson tools;
  if (!chat.tools_json().empty()) {
    ASSIGN_OR_RETURN(tools, ParseOrderedJson(chat.tools_json(), "tools"));
  }
  ASSIGN_OR_RETURN(const ChatTemplate* chat_template, TemplateFor(!tools.is_null()));
  ASSIGN_OR_RETURN(OrderedJson messages, ParseOrderedJson(chat.messages_json(), "messages"));
  RETURN_IF_ERROR(ToTemplateForm(messages));
  if (!chat_template->Mentions("developer")) RenameRole(messages, "developer", "system");
  if (public_messages < 0 || public_messages > static_cast<int64_t>(messages.size())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'public_messages': %d, expected 0 to the %d messages of the chat",
                        public_messages, messages.size()));
  }
  OrderedJson whole = VariablesOf(messages);
  whole["tools"] = std::move(tools);
  whole["add_generation_prompt"] = true;
  if (!chat.template_json().empty()) {
    ASSIGN_OR_RETURN(OrderedJson more,
                     ParseOrderedJson(chat.template_json(), "chat_template_kwargs"));
    if (!more.is_object()) {
      return absl::InvalidArgumentError("field 'chat_template_kwargs': expected an object");
    }
    for (auto& [key, value] : more.items()) whole[key] = value;
  }
  Prompt prompt;
  ASSIGN_OR_RETURN(prompt.tokens, RenderTokens(*chat_template, whole, tokens_max));
  if (public_messages == 0) return prompt;
  const OrderedJson alone =
      VariablesOf(OrderedJson(messages.begin(), messages.begin() + public_messages));
  const absl::StatusOr<std::vector<TokenId>> tokens =
      RenderTokens(*chat_template, alone, tokens_max);
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

absl::StatusOr<std::shared_ptr<const ModelText>> ModelTexts::Get(const std::string& folder,
                                                                 const std::string& text_folder) {
  // Loading under the lock: whoever needs the same model waits for it instead of loading it twice.
  std::lock_guard lock(mutex_);
  std::shared_ptr<const ModelText>& text = texts_[std::pair(folder, text_folder)];
  if (text == nullptr) {
    absl::StatusOr<std::shared_ptr<const ModelText>> loaded = ModelText::Load(folder, text_folder);
    if (!loaded.ok()) return loaded.status();
    text = *std::move(loaded);
  }
  return text;
}

}  // namespace chorale
