// ModelText: what a model needs to turn requests into prompts: tokenizer and chat template.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "chorale/v1/inference.pb.h"
#include "model/text/chat_template.h"
#include "model/text/tokenizer.h"

namespace chorale {

// Immutable; shared between threads.
class ModelText {
 public:
  // Reads tokenizer.json and tokenizer_config.json of a model folder. A folder without
  // tokenizer.json serves prompts of token ids only.
  static absl::StatusOr<std::shared_ptr<const ModelText>> Load(const std::string& folder);

  // The token ids of a request's prompt. InvalidArgument names the field at fault, also for a text
  // that cannot be as few as `tokens_max` tokens: it is not tokenized. FailedPrecondition: the
  // model has no tokenizer, or no chat template.
  absl::StatusOr<std::vector<TokenId>> PromptOf(const v1::GenerateRequest& request,
                                                int64_t tokens_max) const;
  absl::StatusOr<std::vector<TokenId>> Tokenize(const std::string& text, int64_t tokens_max) const;

 private:
  absl::StatusOr<std::string> Render(const v1::Chat& chat) const;
  absl::StatusOr<std::vector<TokenId>> Encode(const std::string& text, bool add_special_tokens,
                                              int64_t tokens_max) const;

  std::unique_ptr<const Tokenizer> tokenizer_;         // may be null
  int64_t token_bytes_max_ = 0;                        // of the longest token
  std::unique_ptr<const ChatTemplate> chat_template_;  // may be null
  TokenizerConfig config_;
};

// The texts of the models in use, by folder. Thread safe; loading happens in the caller's thread.
class ModelTexts {
 public:
  absl::StatusOr<std::shared_ptr<const ModelText>> Get(const std::string& folder);

 private:
  std::mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<const ModelText>> texts_;  // under mutex_
};

}  // namespace chorale
