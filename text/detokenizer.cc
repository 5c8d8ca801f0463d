#include "text/detokenizer.h"

#include <string_view>
#include <utility>

#include "text/utf8.h"

namespace chorale {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special_tokens, bool continues)
    : tokenizer_(&tokenizer),
      skip_special_tokens_(skip_special_tokens),
      spaces_to_strip_(continues ? 0 : tokenizer.leading_spaces_stripped()) {}

std::string Detokenizer::Add(TokenId id) {
  if (skip_special_tokens_ && tokenizer_->IsSpecial(id)) return "";
  std::string_view bytes = tokenizer_->BytesOf(id);
  while (spaces_to_strip_ > 0 && !bytes.empty()) {
    if (bytes.front() != ' ') {
      spaces_to_strip_ = 0;
      break;
    }
    bytes.remove_prefix(1);
    --spaces_to_strip_;
  }
  pending_ += bytes;
  return TakeUtf8(pending_);
}

std::string Detokenizer::Flush() { return ToValidUtf8(std::exchange(pending_, std::string())); }

}  // namespace chorale
