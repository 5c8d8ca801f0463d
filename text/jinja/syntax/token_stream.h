// The tokens of a template as its parsers read them.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "text/jinja/syntax/lexer.h"

namespace chorale::jinja {

// A token as an error message shows it.
std::string Shown(const Token& token);

// Where a parser stands among the tokens.
class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& Peek(size_t ahead = 0) const;
  Token Take();  // at the end: kEnd, again and again
  // Whether the next token is this one; if so, it is taken.
  bool TakeOperator(std::string_view text);
  bool TakeName(std::string_view text);
  absl::Status Expect(TokenType type, std::string_view what);
  absl::Status ExpectOperator(std::string_view text);
  // The name of a variable that the template sets.
  absl::StatusOr<std::string> TakeTarget();

  absl::Status Error(std::string_view message) const;
  // Unimplemented: the `kind` ("filter") of that name is not known.
  absl::Status Unknown(std::string_view kind, std::string_view name) const;

  // Which of varargs, kwargs and caller were read since the last exchange: a macro that names them
  // takes them in.
  void NoteName(const std::string& name) {
    if (name == "varargs" || name == "kwargs" || name == "caller") special_names_.insert(name);
  }
  std::set<std::string> ExchangeSpecialNames(std::set<std::string> names) {
    return std::exchange(special_names_, std::move(names));
  }

 private:
  friend class Nesting;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
  std::set<std::string> special_names_;
};

// One level of nesting for as long as it lives; its status says whether that is too many.
class Nesting {
 public:
  explicit Nesting(TokenStream& tokens) : tokens_(tokens) { ++tokens_.nesting_; }
  ~Nesting() { --tokens_.nesting_; }
  absl::Status status() const;

 private:
  TokenStream& tokens_;
};

}  // namespace chorale::jinja
