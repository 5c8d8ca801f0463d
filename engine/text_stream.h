// TextStream: the text of one sequence as it grows, cut before the first stop string.
//
// Text that may still turn out to be the beginning of a stop string is held back.
#pragma once

#include <string>
#include <vector>

#include "base/token.h"
#include "model/text/detokenizer.h"

namespace chorale {

class TextStream {
 public:
  // Both must outlive the stream. Special tokens give no text.
  TextStream(const Tokenizer& tokenizer, const std::vector<std::string>& stops);

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
