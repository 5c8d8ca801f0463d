#include "model/jinja/parser.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/jinja/expression_parser.h"

namespace chorale::jinja {
namespace {

using StatementPtr = std::unique_ptr<Statement>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<Body> Run() {
    ASSIGN_OR_RETURN(Body body, ParseBody({}));
    RETURN_IF_ERROR(tokens_.CheckCalls());
    return body;
  }

 private:
  absl::StatusOr<Body> ParseBody(const std::set<std::string_view>& ends) {
    Nesting nesting(tokens_);
    RETURN_IF_ERROR(nesting.status());
    Body body;
    for (;;) {
      const Token& token = tokens_.Peek();
      if (token.type == TokenType::kEnd) {
        if (ends.empty()) return body;
        return tokens_.Error(absl::StrCat("'", std::string(*ends.begin()), "' is missing"));
      }
      if (token.type == TokenType::kBlockBegin && ends.count(tokens_.Peek(1).text) > 0 &&
          tokens_.Peek(1).type == TokenType::kName) {
        return body;
      }
      auto statement = std::make_unique<Statement>();
      statement->line = token.line;
      RETURN_IF_ERROR(ParseOne(*statement));
      body.push_back(std::move(statement));
    }
  }

  absl::Status ParseOne(Statement& statement) {
    const Token token = tokens_.Take();
    if (token.type == TokenType::kText) {
      statement.text = token.text;
      return absl::OkStatus();
    }
    if (token.type == TokenType::kOutputBegin) {
      statement.type = Statement::Type::kOutput;
      ASSIGN_OR_RETURN(statement.expression, ParseTuple(tokens_));
      return tokens_.Expect(TokenType::kOutputEnd, "}}");
    }
    const Token name = tokens_.Take();
    if (name.type != TokenType::kName) return tokens_.Error("a statement's name is missing");
    if (name.text == "if") return ParseIf(statement);
    if (name.text == "for") return ParseFor(statement);
    if (name.text == "set") return ParseSet(statement);
    if (name.text == "macro") return ParseMacro(statement);
    if (name.text == "generation") {
      statement.type = Statement::Type::kScope;
      return ParseClosedBody(statement, "endgeneration");
    }
    if (name.text == "break" || name.text == "continue") {
      if (loops_ == 0) return tokens_.Error(absl::StrCat("'", name.text, "' is outside a loop"));
      statement.type = name.text == "break" ? Statement::Type::kBreak : Statement::Type::kContinue;
      return tokens_.Expect(TokenType::kBlockEnd, "%}");
    }
    static const std::set<std::string_view> kStrayEnds = {
        "else", "elif", "endif", "endfor", "endset", "endmacro", "endgeneration"};
    if (kStrayEnds.count(name.text) > 0) {
      return tokens_.Error(absl::StrCat("'", name.text, "' stands alone"));
    }
    return tokens_.Unknown("statement", name.text);
  }

  absl::Status ParseClosedBody(Statement& statement, std::string_view end) {
    RETURN_IF_ERROR(tokens_.Expect(TokenType::kBlockEnd, "%}"));
    ++scopes_;
    ASSIGN_OR_RETURN(statement.body, ParseBody({end}));
    --scopes_;
    tokens_.Take();
    tokens_.Take();
    return tokens_.Expect(TokenType::kBlockEnd, "%}");
  }

  absl::Status ParseIf(Statement& statement) {
    statement.type = Statement::Type::kIf;
    for (;;) {
      Statement::Branch branch;
      ASSIGN_OR_RETURN(branch.condition, ParseTuple(tokens_));
      RETURN_IF_ERROR(tokens_.Expect(TokenType::kBlockEnd, "%}"));
      ASSIGN_OR_RETURN(branch.body, ParseBody({"endif", "elif", "else"}));
      statement.branches.push_back(std::move(branch));
      tokens_.Take();
      const std::string next = tokens_.Take().text;
      if (next == "elif") continue;
      if (next == "else") {
        RETURN_IF_ERROR(tokens_.Expect(TokenType::kBlockEnd, "%}"));
        ASSIGN_OR_RETURN(statement.else_body, ParseBody({"endif"}));
        tokens_.Take();
        tokens_.Take();
      }
      return tokens_.Expect(TokenType::kBlockEnd, "%}");
    }
  }

  absl::Status ParseTargets(Statement& statement) {
    const bool bracket = tokens_.TakeOperator("(");
    for (;;) {
      if (tokens_.Peek().text == "(") return tokens_.Unknown("assignment", "nested tuple");
      ASSIGN_OR_RETURN(std::string name, tokens_.TakeTarget());
      statement.names.push_back(std::move(name));
      if (!tokens_.TakeOperator(",")) break;
      statement.unpacks = true;
      if (tokens_.Peek().type != TokenType::kName || tokens_.Peek().text == "in") break;
    }
    return bracket ? tokens_.ExpectOperator(")") : absl::OkStatus();
  }

  absl::Status ParseFor(Statement& statement) {
    statement.type = Statement::Type::kFor;
    RETURN_IF_ERROR(ParseTargets(statement));
    if (std::count(statement.names.begin(), statement.names.end(), "loop") > 0) {
      return tokens_.Error("'loop' cannot be the variable of a loop");
    }
    if (!tokens_.TakeName("in")) return tokens_.Error("'in' is missing after the loop's variable");
    ASSIGN_OR_RETURN(statement.expression, ParseTuple(tokens_, false));
    if (tokens_.TakeName("if")) {
      ASSIGN_OR_RETURN(statement.condition, ParseExpression(tokens_));
    }
    if (tokens_.Peek().text == "recursive" && tokens_.Peek().type == TokenType::kName) {
      return tokens_.Unknown("loop modifier", "recursive");
    }
    RETURN_IF_ERROR(tokens_.Expect(TokenType::kBlockEnd, "%}"));
    ++scopes_;
    ++loops_;
    ASSIGN_OR_RETURN(statement.body, ParseBody({"endfor", "else"}));
    --loops_;
    tokens_.Take();
    if (tokens_.Take().text == "else") {
      RETURN_IF_ERROR(tokens_.Expect(TokenType::kBlockEnd, "%}"));
      ASSIGN_OR_RETURN(statement.else_body, ParseBody({"endfor"}));
      tokens_.Take();
      tokens_.Take();
    }
    --scopes_;
    return tokens_.Expect(TokenType::kBlockEnd, "%}");
  }

  absl::Status ParseSet(Statement& statement) {
    statement.type = Statement::Type::kSet;
    RETURN_IF_ERROR(ParseTargets(statement));
    if (!statement.unpacks && tokens_.TakeOperator(".")) {
      const Token name = tokens_.Take();
      if (name.type != TokenType::kName) return tokens_.Error("an attribute's name is missing");
      statement.attribute = name.text;
    }
    if (tokens_.TakeOperator("=")) {
      ASSIGN_OR_RETURN(statement.expression, ParseTuple(tokens_));
      return tokens_.Expect(TokenType::kBlockEnd, "%}");
    }
    if (tokens_.Peek().text == "|") return tokens_.Unknown("statement", "set with a filter");
    if (statement.unpacks) return tokens_.Error("'=' is missing");
    statement.type = Statement::Type::kSetBlock;
    return ParseClosedBody(statement, "endset");
  }

  // A macro sees the variables of the template and its own; inside a loop it would see more.
  absl::Status ParseMacro(Statement& statement) {
    statement.type = Statement::Type::kMacro;
    if (scopes_ > 0) return tokens_.Unknown("statement", "macro inside another block");
    ASSIGN_OR_RETURN(statement.text, tokens_.TakeTarget());
    RETURN_IF_ERROR(tokens_.ExpectOperator("("));
    while (!tokens_.TakeOperator(")")) {
      if (!statement.names.empty()) RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      ASSIGN_OR_RETURN(std::string name, tokens_.TakeTarget());
      statement.names.push_back(std::move(name));
      statement.defaults.emplace_back();
      if (tokens_.TakeOperator("=")) {
        ASSIGN_OR_RETURN(statement.defaults.back(), ParseExpression(tokens_));
      } else if (statement.defaults.size() > 1 &&
                 statement.defaults[statement.defaults.size() - 2]) {
        return tokens_.Error("a parameter without a default follows one with a default");
      }
    }
    const int loops = std::exchange(loops_, 0);
    RETURN_IF_ERROR(ParseClosedBody(statement, "endmacro"));
    loops_ = loops;
    return absl::OkStatus();
  }

  TokenStream tokens_;
  int loops_ = 0;   // loops around the current statement, within its macro
  int scopes_ = 0;  // blocks with their own variables around the current statement
};

}  // namespace

absl::StatusOr<Body> ParseTemplate(std::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace chorale::jinja
