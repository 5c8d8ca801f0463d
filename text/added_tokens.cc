#include "text/added_tokens.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "text/bpe.h"
#include "text/unicode_class.h"
#include "text/utf8.h"

namespace chorale {
namespace {

absl::StatusOr<AddedToken> ParseToken(const Json& json, const Normalizer& normalizer) {
  AddedToken token;
  ASSIGN_OR_RETURN(token.content, JsonString(json, "content"));
  ASSIGN_OR_RETURN(const int64_t id, JsonInt(json, "id"));
  if (token.content.empty() || id < 0 || id > kTokenIdMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'added_tokens': id %d of '%s': expected a text and an id within "
                        "[0, %d]",
                        id, token.content.substr(0, 80), kTokenIdMax));
  }
  token.id = static_cast<TokenId>(id);
  ASSIGN_OR_RETURN(token.special, JsonBool(json, "special", false));
  ASSIGN_OR_RETURN(token.normalized, JsonBool(json, "normalized", !token.special));
  ASSIGN_OR_RETURN(token.single_word, JsonBool(json, "single_word", false));
  ASSIGN_OR_RETURN(token.strips_left, JsonBool(json, "lstrip", false));
  ASSIGN_OR_RETURN(token.strips_right, JsonBool(json, "rstrip", false));
  token.match = token.normalized ? normalizer.Apply(token.content) : token.content;
  if (token.match.empty()) token.match = token.content;
  return token;
}

// The code point that ends at `end`.
char32_t CodePointBefore(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (text[begin] & 0xC0) == 0x80) --begin;
  return CodePointAt(text, begin).value;
}

bool IsWord(char32_t value) {
  const CharClass c = ClassOf(CharClasses(), value);
  return c == CharClass::kLetter || c == CharClass::kNumber || value == '_';
}
bool IsSpace(char32_t value) {
  const CharClass c = ClassOf(CharClasses(), value);
  return c == CharClass::kSpace || c == CharClass::kNewline;
}

bool StandsAlone(std::string_view text, size_t begin, size_t end) {
  const bool left = begin == 0 || !IsWord(CodePointBefore(text, begin));
  const bool right = end == text.size() || !IsWord(CodePointAt(text, end).value);
  return left && right;
}

}  // namespace

absl::StatusOr<AddedTokens> AddedTokens::Parse(const Json& json, const Normalizer& normalizer) {
  AddedTokens added;
  if (json.is_null()) return added;
  if (!json.is_array()) return absl::InvalidArgumentError("field 'added_tokens': expected a list");
  for (const Json& item : json) {
    ASSIGN_OR_RETURN(AddedToken token, ParseToken(item, normalizer));
    added.any_normalized_ |= token.normalized;
    added.by_first_byte_[static_cast<uint8_t>(token.match[0])].push_back(
        static_cast<int>(added.tokens_.size()));
    added.tokens_.push_back(std::move(token));
  }
  for (std::vector<int>& list : added.by_first_byte_) {
    std::stable_sort(list.begin(), list.end(), [&](int a, int b) {
      return added.tokens_[a].match.size() > added.tokens_[b].match.size();
    });
  }
  return added;
}

const AddedToken* AddedTokens::MatchAt(std::string_view input, size_t position,
                                       bool normalized) const {
  for (int index : by_first_byte_[static_cast<uint8_t>(input[position])]) {
    const AddedToken& token = tokens_[index];
    if (token.normalized != normalized || !input.substr(position).starts_with(token.match)) {
      continue;
    }
    if (token.single_word && !StandsAlone(input, position, position + token.match.size())) continue;
    return &token;
  }
  return nullptr;
}

void AddedTokens::Split(std::string_view input, bool normalized,
                        absl::FunctionRef<void(TokenId)> token,
                        absl::FunctionRef<void(std::string_view part, bool first)> text) const {
  size_t done = 0;
  for (size_t i = 0; i < input.size();) {
    const AddedToken* match = MatchAt(input, i, normalized);
    if (match == nullptr) {
      ++i;
      continue;
    }
    size_t begin = i;
    size_t end = i + match->match.size();
    while (match->strips_left && begin > done && IsSpace(CodePointBefore(input, begin))) {
      --begin;
      while (begin > done && (input[begin] & 0xC0) == 0x80) --begin;
    }
    while (match->strips_right && end < input.size()) {
      const CodePoint c = CodePointAt(input, end);
      if (!IsSpace(c.value)) break;
      end += c.bytes;
    }
    if (begin > done) text(input.substr(done, begin - done), done == 0);
    token(match->id);
    done = i = end;
  }
  if (done < input.size()) text(input.substr(done), done == 0);
}

}  // namespace chorale
