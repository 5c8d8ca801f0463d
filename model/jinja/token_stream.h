// The tokens of a template as its parsers read them.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/jinja/lexer.h"

namespace chorale::jinja {

// A token as an error message shows it.
std::string Shown(const Token& token);

// Where a parser stands among the tokens, and the names it has met.
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

  // A called name must be a function, or set somewhere in the template: known once all is read.
  void NoteCall(const std::string& name, int line) { calls_.emplace_back(name, line); }
  absl::Status CheckCalls() const;

 private:
  friend class Nesting;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
  std::set<std::string> targets_;
  std::vector<std::pair<std::string, int>> calls_;
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
