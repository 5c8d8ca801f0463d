#include "text/jinja/syntax/token_stream.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "text/jinja/syntax/parser.h"

namespace chorale::jinja {

std::string Shown(const Token& token) {
  switch (token.type) {
    case TokenType::kEnd:
      return "the end of the template";
    case TokenType::kText:
      return "text";
    case TokenType::kOutputBegin:
      return "'{{'";
    case TokenType::kOutputEnd:
      return "'}}'";
    case TokenType::kBlockBegin:
      return "'{%'";
    case TokenType::kBlockEnd:
      return "'%}'";
    case TokenType::kString:
      return absl::StrCat("the string '", token.text, "'");
    default:
      return absl::StrCat("'", token.text, "'");
  }
}

const Token& TokenStream::Peek(size_t ahead) const {
  return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
}

Token TokenStream::Take() {
  Token token = Peek();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool TokenStream::TakeOperator(std::string_view text) {
  if (Peek().type != TokenType::kOperator || Peek().text != text) return false;
  Take();
  return true;
}

bool TokenStream::TakeName(std::string_view text) {
  if (Peek().type != TokenType::kName || Peek().text != text) return false;
  Take();
  return true;
}

absl::Status TokenStream::Expect(TokenType type, std::string_view what) {
  if (Peek().type != type) {
    return Error(absl::StrCat("expected '", std::string(what), "', found ", Shown(Peek())));
  }
  Take();
  return absl::OkStatus();
}

absl::Status TokenStream::ExpectOperator(std::string_view text) {
  if (TakeOperator(text)) return absl::OkStatus();
  return Error(absl::StrCat("expected '", std::string(text), "', found ", Shown(Peek())));
}

absl::StatusOr<std::string> TokenStream::TakeTarget() {
  static const std::set<std::string_view> kReserved = {"true", "false", "none", "True", "False",
                                                       "None", "and",   "or",   "not",  "in",
                                                       "is",   "if",    "else"};
  if (Peek().type != TokenType::kName || kReserved.count(Peek().text) > 0) {
    return Error(absl::StrCat("expected a variable's name, found ", Shown(Peek())));
  }
  return Take().text;
}

absl::Status TokenStream::Error(std::string_view message) const {
  return absl::InvalidArgumentError(
      absl::StrCat("chat template line ", Peek().line, ": ", std::string(message)));
}

absl::Status TokenStream::Unknown(std::string_view kind, std::string_view name) const {
  return absl::UnimplementedError(absl::StrCat("chat template line ", Peek().line, ": the ",
                                               std::string(kind), " '", std::string(name),
                                               "' is not supported"));
}

absl::Status Nesting::status() const {
  if (tokens_.nesting_ <= kNestingMax) return absl::OkStatus();
  return tokens_.Error(absl::StrCat("nested deeper than ", kNestingMax, " levels"));
}

}  // namespace chorale::jinja
