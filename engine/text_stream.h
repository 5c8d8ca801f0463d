// TextStream: the text of one sequence as it grows, cut before the first stop string.
//
// Text that may still turn out to be the beginning of a stop string is held back.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/token.h"
#include "text/detokenizer.h"

namespace chorale {

class TextStream {
 public:
  // `tokenizer` and `stops` must outlive the stream. Special tokens give no text. The text goes on
  // that of `prompt`: a space that a tokenizer strips where a text begins stays when one has begun.
  TextStream(const Tokenizer& tokenizer, const std::vector<std::string>& stops,
             std::span<const TokenId> prompt);

  // The text that `token` makes certain. After a stop string was found there is no more.
  std::string Add(TokenId token);
  // What is still held back, when the sequence ends without a stop string.
  std::string Finish();
  bool stopped() const { return stopped_; }

 private:
  std::string Release(std::string text);

  const std::vector<std::string>& stops_;
  Detokenizer detokenizer_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace chorale
