// Added tokens of a tokenizer.json: strings that are one token wherever they occur in a text.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/json.h"
#include "base/token.h"
#include "text/normalizer.h"

namespace chorale {

struct AddedToken {
  TokenId id = 0;
  std::string content;
  std::string match;  // what is looked for: the content, normalised if `normalized`
  bool special = false;
  bool normalized = false;   // looked for after normalising
  bool single_word = false;  // only between characters that are no letters, digits or underscores
  bool strips_left = false;  // takes the white space before it along
  bool strips_right = false;
};

// Immutable; safe to share between threads.
class AddedTokens {
 public:
  static absl::StatusOr<AddedTokens> Parse(const Json& json, const Normalizer& normalizer);

  // Calls `token` and `text` in order for what `text` is made of, the longest token at each place.
  // `normalized` chooses which tokens are looked for. `first` tells whether a part begins the text.
  void Split(std::string_view input, bool normalized, absl::FunctionRef<void(TokenId)> token,
             absl::FunctionRef<void(std::string_view part, bool first)> text) const;

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  bool any_normalized() const { return any_normalized_; }

 private:
  const AddedToken* MatchAt(std::string_view input, size_t position, bool normalized) const;

  std::vector<AddedToken> tokens_;
  std::array<std::vector<int>, 256> by_first_byte_;  // indices of tokens_, the longest first
  bool any_normalized_ = false;
};

}  // namespace chorale
