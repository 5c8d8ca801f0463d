// Text to token ids and back, as a Hugging Face tokenizer.json says.
//
// Byte-level BPE (GPT-2, Llama-3, Qwen) and SentencePiece-style BPE with byte fallback (Llama-2,
// Mistral), with added and special tokens, normalisers and pre-tokenizers. A part of tokenizer.json
// that is not known here is refused by name at load, never guessed.
//
// A Tokenizer is immutable after Load and safe to share between threads.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "base/token.h"

namespace chorale {

class Tokenizer {
 public:
  // Reads tokenizer.json at `path`. NotFound when it is absent; InvalidArgument naming the field
  // when it is malformed or has no merges; Unimplemented naming a component that is not known.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Load(const std::string& path);
  // The same from the text of a tokenizer.json.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Parse(std::string_view json);

  ~Tokenizer();

  // The ids of `text`. Added tokens that occur in the text are recognised. With
  // `add_special_tokens` the post-processor's template is applied (a leading <s>, for example).
  // InvalidArgument with the byte offset when `text` is not valid UTF-8.
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text, bool add_special_tokens) const;

  // The text of `ids`; bytes that form no code point become U+FFFD. Ids outside the vocabulary
  // give no text. With `skip_special_tokens`, special tokens give none either.
  std::string Decode(std::span<const TokenId> ids, bool skip_special_tokens) const;

  // What `add_special_tokens` puts before a text, and behind it.
  const std::vector<TokenId>& added_before() const;
  const std::vector<TokenId>& added_behind() const;

  // One past the largest id, added tokens included.
  int vocab_size() const;
  // The id of a piece as it is written in tokenizer.json, or of an added token.
  std::optional<TokenId> IdOf(std::string_view piece) const;
  // How tokenizer.json writes `id` ("Ġthe", "▁the", "<|im_end|>"); empty when there is no such id.
  std::string_view PieceOf(TokenId id) const;
  bool IsSpecial(TokenId id) const;

  // The raw bytes that `id` adds in the middle of a text: "Ġthe" is " the", "<0x0A>" is "\n". Empty
  // for an id outside the vocabulary. Detokenizer and logprobs are built on it.
  std::string_view BytesOf(TokenId id) const;
  // How many leading spaces Decode strips from a whole text (1 for Llama-2's decoder, else 0).
  int leading_spaces_stripped() const;

 private:
  struct Tables;
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> FromJson(const Json& json);
  explicit Tokenizer(std::unique_ptr<const Tables> tables);
  std::unique_ptr<const Tables> tables_;
};

}  // namespace chorale
