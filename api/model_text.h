// ModelText: what a model needs to turn requests into prompts: tokenizer and chat template.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "api/completion.h"
#include "base/json.h"
#include "base/token.h"
#include "model/checkpoint/checkpoint_settings.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace chorale {

struct Prompt {
  std::vector<TokenId> tokens;
  int public_tokens = 0;  // how many of them, from the first, all tenants may share
  // Why none of them are although the chat calls some messages public; empty: they are, or it
  // calls none so.
  std::string public_refusal;
};

// Immutable; shared between threads.
class ModelText {
 public:
  // Reads tokenizer.json of a model folder, and of `text_folder` special tokens and templates
  // (model/checkpoint/checkpoint_settings.h); an empty one stands for the same folder. A folder without
  // tokenizer.json serves prompts of token ids only. A template that is not understood costs the
  // chat alone.
  static absl::StatusOr<std::shared_ptr<const ModelText>> Load(const std::string& folder,
                                                               const std::string& text_folder = "");

  // The token ids of a request's prompt. InvalidArgument names the field at fault, also for a text
  // that cannot be as few as `tokens_max` tokens: it is not tokenized. FailedPrecondition: the
  // model has no tokenizer, or no chat template that is understood.
  //
  // Of a chat, those leading tokens are public that the public messages also give alone, without
  // other messages, tools and variables: what a caller has not called public never is. None are
  // when the template cannot render the public messages alone. `now` is what templates show.
  absl::StatusOr<Prompt> PromptOf(PromptRequest request, int64_t tokens_max, absl::Time now) const;
  absl::StatusOr<std::vector<TokenId>> Tokenize(const std::string& text, int64_t tokens_max) const;
  bool has_tokenizer() const { return tokenizer_ != nullptr; }

 private:
  absl::StatusOr<Prompt> PromptOfTokens(TokenPrompt tokens) const;
  absl::StatusOr<Prompt> PromptOfChat(Chat chat, int64_t tokens_max, absl::Time now) const;
  void ParseTemplates();
  absl::StatusOr<const ChatTemplate*> TemplateFor(bool with_tools) const;
  OrderedJson VariablesOf(OrderedJson messages, absl::Time now) const;
  absl::StatusOr<std::vector<TokenId>> RenderTokens(const ChatTemplate& chat_template,
                                                    const OrderedJson& variables,
                                                    int64_t tokens_max) const;
  // `field` is the client's name of what holds the text.
  absl::StatusOr<std::vector<TokenId>> Encode(const std::string& text, bool add_special_tokens,
                                              int64_t tokens_max, const char* field) const;

  std::string folder_;
  std::unique_ptr<const Tokenizer> tokenizer_;  // may be null
  int64_t token_bytes_max_ = 0;                 // of the longest token
  TextSettings settings_;
  // By name. A template that is not understood is the status that says why.
  std::map<std::string, absl::StatusOr<std::unique_ptr<const ChatTemplate>>> templates_;
  std::vector<TokenId> before_, behind_;   // what is added to a plain prompt
};

}  // namespace chorale
