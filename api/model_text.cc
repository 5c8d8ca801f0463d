#include "api/model_text.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "api/chat_messages.h"
#include "base/json.h"
#include "base/names.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

constexpr int64_t kNormalisingMax = 4;  // how many times a normaliser may shorten a text

// A template that does not know a role passes over its messages without a word.
void RenameRole(OrderedJson& messages, const char* from, const char* to) {
  for (OrderedJson& message : messages) {
    const auto role = message.find("role");
    if (role != message.end() && *role == from) *role = to;
  }
}

// What the template would pass over without a word.
absl::Status CheckRead(const ChatTemplate& chat_template, const Chat& chat) {
  const auto unread = [&](const char* field) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field '%s': this model's chat template does not read it; leave it out", field));
  };
  if (!chat.tools.is_null() && !chat_template.Mentions("tools")) return unread("tools");
  if (chat.variables.is_object() && chat.variables.contains("documents") &&
      !chat_template.Mentions("documents")) {
    return unread("documents");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelText>> ModelText::Load(const std::string& folder,
                                                                 const std::string& text_folder) {
  auto text = std::make_shared<ModelText>();
  text->folder_ = text_folder.empty() ? folder : text_folder;
  const std::string path = folder + "/tokenizer.json";
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) return text;
  if (error) {
    return absl::UnavailableError(absl::StrFormat("%s: %s", path, error.message()));
  }
  ASSIGN_OR_RETURN(text->tokenizer_, Tokenizer::Load(path));
  for (TokenId id = 0; id < text->tokenizer_->vocab_size(); ++id) {
    text->token_bytes_max_ = std::max(text->token_bytes_max_,
                                      static_cast<int64_t>(text->tokenizer_->BytesOf(id).size()));
  }
  text->token_bytes_max_ *= kNormalisingMax;
  ASSIGN_OR_RETURN(text->settings_, LoadTextSettings(text->folder_));
  text->ParseTemplates();
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

// What is not understood is told to whoever asks for a chat.
void ModelText::ParseTemplates() {
  for (const auto& [name, source] : settings_.chat_templates) {
    templates_.emplace(name, ChatTemplate::Parse(source));
  }
}

absl::StatusOr<std::vector<TokenId>> ModelText::Encode(const std::string& text,
                                                       bool add_special_tokens, int64_t tokens_max,
                                                       const char* field) const {
  if (static_cast<int64_t>(text.size()) > tokens_max * token_bytes_max_) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': %d bytes are more than the %d tokens of this model's "
                        "context can hold; shorten it",
                        field, text.size(), tokens_max));
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
  return Encode(text, /*add_special_tokens=*/true, tokens_max, "prompt");
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
  return Encode(*text, /*add_special_tokens=*/false, tokens_max, "messages");
}

// What every template may read, as the reference library hands it over.
OrderedJson ModelText::VariablesOf(OrderedJson messages, absl::Time now) const {
  OrderedJson variables = {{"messages", std::move(messages)},
                           {"tools", nullptr},
                           {"documents", nullptr},
                           {"add_generation_prompt", false},
                           // What strftime_now shows.
                           {"current_time_unix", absl::ToUnixSeconds(now)}};
  for (const auto& [name, text] : settings_.special_tokens) variables[name] = text;
  return variables;
}

absl::StatusOr<Prompt> ModelText::PromptOfChat(Chat chat, int64_t tokens_max,
                                               absl::Time now) const {
  ASSIGN_OR_RETURN(const ChatTemplate* chat_template, TemplateFor(!chat.tools.is_null()));
  RETURN_IF_ERROR(CheckRead(*chat_template, chat));
  OrderedJson& messages = chat.messages;
  RETURN_IF_ERROR(ToTemplateForm(messages));
  if (!chat_template->Mentions("developer")) RenameRole(messages, "developer", "system");
  if (chat.public_messages < 0 || chat.public_messages > static_cast<int64_t>(messages.size())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'public_messages': %d, expected 0 to the %d messages of the chat",
                        chat.public_messages, messages.size()));
  }
  OrderedJson alone;
  if (chat.public_messages > 0) {
    alone = VariablesOf(OrderedJson(messages.begin(), messages.begin() + chat.public_messages), now);
  }
  OrderedJson whole = VariablesOf(std::move(messages), now);
  whole["tools"] = std::move(chat.tools);
  whole["add_generation_prompt"] = true;
  for (auto& [key, value] : chat.variables.items()) whole[key] = std::move(value);
  Prompt prompt;
  ASSIGN_OR_RETURN(prompt.tokens, RenderTokens(*chat_template, whole, tokens_max));
  if (chat.public_messages == 0) return prompt;
  const absl::StatusOr<std::vector<TokenId>> tokens =
      RenderTokens(*chat_template, alone, tokens_max);
  if (!tokens.ok()) {
    prompt.public_refusal =
        absl::StrCat("the chat template in ", folder_, " refuses public messages without the ",
                     "others, so that tenants do not share them: ",
                     absl::Utf8SafeCEscape(tokens.status().message()));
    return prompt;
  }
  const auto [end, other] =
      std::mismatch(prompt.tokens.begin(), prompt.tokens.end(), tokens->begin(), tokens->end());
  prompt.public_tokens = static_cast<int>(end - prompt.tokens.begin());
  return prompt;
}

absl::StatusOr<Prompt> ModelText::PromptOfTokens(TokenPrompt tokens) const {
  if (tokens.public_tokens < 0 ||
      tokens.public_tokens > static_cast<int64_t>(tokens.ids.size())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'public_tokens': %d, expected 0 to the %d tokens of the prompt",
                        tokens.public_tokens, tokens.ids.size()));
  }
  return Prompt{.tokens = std::move(tokens.ids), .public_tokens = tokens.public_tokens};
}

absl::StatusOr<Prompt> ModelText::PromptOf(PromptRequest request, int64_t tokens_max,
                                           absl::Time now) const {
  if (const auto* text = std::get_if<std::string>(&request)) {
    ASSIGN_OR_RETURN(std::vector<TokenId> tokens, Tokenize(*text, tokens_max));
    return Prompt{.tokens = std::move(tokens)};
  }
  if (auto* tokens = std::get_if<TokenPrompt>(&request)) return PromptOfTokens(std::move(*tokens));
  if (auto* chat = std::get_if<Chat>(&request)) {
    return PromptOfChat(std::move(*chat), tokens_max, now);
  }
  return absl::InvalidArgumentError("field 'prompt': give one of text, token_ids and chat");
}

}  // namespace chorale
