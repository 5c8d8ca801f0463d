// Token ids to text, one at a time, never half a code point.
//
// Whatever the split of the ids over calls, the pieces of text add up to Tokenizer::Decode of all
// of them. Small and copyable: a sequence that moves to another worker takes it along, or rebuilds
// it from its ids.
#pragma once

#include <string>

#include "base/token.h"
#include "text/tokenizer.h"

namespace chorale {

class Detokenizer {
 public:
  // `tokenizer` must outlive the Detokenizer. With `continues` the ids go on a text that has begun:
  // a space that Decode would strip at the beginning of a text stays.
  Detokenizer(const Tokenizer& tokenizer, bool skip_special_tokens, bool continues = false);

  // The text that `id` completes; empty while a code point is still open. Bytes that can no longer
  // become a code point come out as U+FFFD.
  std::string Add(TokenId id);
  // What is still held back, at the end of the sequence: U+FFFD for an unfinished code point.
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  int spaces_to_strip_;
  std::string pending_;  // at most 3 bytes: the open code point
};

}  // namespace chorale
