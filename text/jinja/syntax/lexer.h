// The text of a chat template as tokens, with Jinja's rules for white space: trim_blocks and
// lstrip_blocks are on, '-' and '+' at a tag's edge override them, and the final newline goes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace chorale::jinja {

enum class TokenType {
  kText,         // between the tags
  kOutputBegin,  // {{
  kOutputEnd,    // }}
  kBlockBegin,   // {%
  kBlockEnd,     // %}
  kName,
  kString,   // unescaped
  kInteger,  // text: decimal digits, also of more than 64 bits
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenType type = TokenType::kEnd;
  std::string text;
  double real = 0;
  int line = 1;
};

// The last token is kEnd. InvalidArgument with the line for text that is not a template.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace chorale::jinja
