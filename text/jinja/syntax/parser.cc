#include "text/jinja/syntax/parser.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/syntax/expression_parser.h"

namespace chorale::jinja {
namespace {

// Names that end a body; where they stand alone they are an error.
const std::set<std::string_view>& Ends() {
  static const std::set<std::string_view> kEnds = {
      "else",    "elif",      "endif",    "endfor",        "endset",        "endmacro", "endwith",
      "endcall", "endfilter", "endblock", "endautoescape", "endgeneration", "endraw"};
  return kEnds;
}

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<Body> Run() { return ParseBody({}); }

 private:
  absl::StatusOr<Body> ParseBody(const std::set<std::string_view>& ends) {
    Nesting nesting(tokens_);
    RETURN_IF_ERROR(nesting.status());
    Body body;
    for (;;) {
      const Token& token = tokens_.Peek();
      if (token.type == TokenType::kEnd) {
        if (ends.empty()) return body;
        // The tag that ends the statement, not one that goes on with it.
        const auto end = std::find_if(ends.begin(), ends.end(), [](std::string_view name) {
          return name.starts_with("end");
        });
        return tokens_.Error(absl::StrCat("'", std::string(*end), "' is missing"));
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
    struct Entry {
      std::string_view name;
      absl::Status (Parser::*parse)(Statement&);
    };
    static constexpr Entry kStatements[] = {
        {"if", &Parser::ParseIf},
        {"for", &Parser::ParseFor},
        {"set", &Parser::ParseSet},
        {"macro", &Parser::ParseMacro},
        {"with", &Parser::ParseWith},
        {"call", &Parser::ParseCallBlock},
        {"filter", &Parser::ParseFilter},
        {"block", &Parser::ParseBlock},
        {"autoescape", &Parser::ParseAutoescape},
        {"generation", &Parser::ParseGeneration},
    };
    for (const Entry& entry : kStatements) {
      if (entry.name == name.text) return (this->*entry.parse)(statement);
    }
    if (name.text == "break" || name.text == "continue") {
      if (loops_ == 0) return tokens_.Error(absl::StrCat("'", name.text, "' is outside a loop"));
      statement.type = name.text == "break" ? Statement::Type::kBreak : Statement::Type::kContinue;
      return tokens_.Expect(TokenType::kBlockEnd, "%}");
    }
    if (Ends().count(name.text) > 0) {
      return tokens_.Error(absl::StrCat("'", name.text, "' stands alone"));
    }
    return tokens_.Unknown("statement", name.text);
  }

  // "%}", a body, and the tag that ends it.
  absl::Status ParseClosedBody(Statement& statement, std::string_view end) {
    RETURN_IF_ERROR(tokens_.Expect(TokenType::kBlockEnd, "%}"));
    ASSIGN_OR_RETURN(statement.body, ParseBody({end}));
    return TakeEnd();
  }
  absl::Status TakeEnd() {
    tokens_.Take();
    tokens_.Take();
    return tokens_.Expect(TokenType::kBlockEnd, "%}");
  }

  absl::Status ParseIf(Statement& statement) {
    statement.type = Statement::Type::kIf;
    for (;;) {
      Statement::Branch branch;
      ASSIGN_OR_RETURN(branch.condition, ParseTuple(tokens_, false));
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

  absl::StatusOr<Target> ParseOneTarget() {
    Nesting nesting(tokens_);
    RETURN_IF_ERROR(nesting.status());
    Target target;
    if (tokens_.TakeOperator("(")) {
      ASSIGN_OR_RETURN(target, ParseTarget());
      RETURN_IF_ERROR(tokens_.ExpectOperator(")"));
      return target;
    }
    ASSIGN_OR_RETURN(target.name, tokens_.TakeTarget());
    return target;
  }

  // One target, or several with commas between them.
  absl::StatusOr<Target> ParseTarget() {
    ASSIGN_OR_RETURN(Target first, ParseOneTarget());
    if (!tokens_.TakeOperator(",")) return first;
    Target all;
    all.unpacks = true;
    all.parts.push_back(std::move(first));
    while ((tokens_.Peek().type == TokenType::kName && tokens_.Peek().text != "in") ||
           (tokens_.Peek().type == TokenType::kOperator && tokens_.Peek().text == "(")) {
      ASSIGN_OR_RETURN(Target next, ParseOneTarget());
      all.parts.push_back(std::move(next));
      if (!tokens_.TakeOperator(",")) break;
    }
    return all;
  }

  static bool Names(const Target& target, std::string_view name) {
    return target.name == name ||
           std::any_of(target.parts.begin(), target.parts.end(),
                       [&](const Target& part) { return Names(part, name); });
  }

  absl::Status ParseFor(Statement& statement) {
    statement.type = Statement::Type::kFor;
    ASSIGN_OR_RETURN(Target target, ParseTarget());
    if (Names(target, "loop")) return tokens_.Error("'loop' cannot be the variable of a loop");
    statement.targets.push_back(std::move(target));
    if (!tokens_.TakeName("in")) return tokens_.Error("'in' is missing after the loop's variable");
    ASSIGN_OR_RETURN(statement.expression, ParseTuple(tokens_, false));
    if (tokens_.TakeName("if")) {
      ASSIGN_OR_RETURN(statement.condition, ParseExpression(tokens_));
    }
    statement.is_recursive = tokens_.TakeName("recursive");
    RETURN_IF_ERROR(tokens_.Expect(TokenType::kBlockEnd, "%}"));
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
    return tokens_.Expect(TokenType::kBlockEnd, "%}");
  }

  absl::Status ParseSet(Statement& statement) {
    statement.type = Statement::Type::kSet;
    ASSIGN_OR_RETURN(Target target, ParseTarget());
    if (!target.unpacks && tokens_.TakeOperator(".")) {
      const Token name = tokens_.Take();
      if (name.type != TokenType::kName) return tokens_.Error("an attribute's name is missing");
      target.attribute = name.text;
    }
    const bool unpacks = target.unpacks;
    statement.targets.push_back(std::move(target));
    if (tokens_.TakeOperator("=")) {
      ASSIGN_OR_RETURN(statement.expression, ParseTuple(tokens_));
      return tokens_.Expect(TokenType::kBlockEnd, "%}");
    }
    if (unpacks) return tokens_.Error("'=' is missing");
    statement.type = Statement::Type::kSetBlock;
    ASSIGN_OR_RETURN(statement.expression, ParseFiltersOfBody(tokens_));
    return ParseClosedBody(statement, "endset");
  }

  absl::Status ParseWith(Statement& statement) {
    statement.type = Statement::Type::kWith;
    while (tokens_.Peek().type != TokenType::kBlockEnd) {
      if (!statement.targets.empty()) RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      ASSIGN_OR_RETURN(Target target, ParseOneTarget());
      statement.targets.push_back(std::move(target));
      RETURN_IF_ERROR(tokens_.ExpectOperator("="));
      ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression(tokens_));
      statement.values.push_back(std::move(value));
    }
    return ParseClosedBody(statement, "endwith");
  }

  // Parameters in brackets, the first of which is taken.
  absl::Status ParseParameters(Statement& statement) {
    while (!tokens_.TakeOperator(")")) {
      if (!statement.names.empty()) RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      ASSIGN_OR_RETURN(std::string name, tokens_.TakeTarget());
      statement.names.push_back(std::move(name));
      statement.values.emplace_back();
      if (tokens_.TakeOperator("=")) {
        ASSIGN_OR_RETURN(statement.values.back(), ParseExpression(tokens_));
      } else if (statement.values.size() > 1 && statement.values[statement.values.size() - 2]) {
        return tokens_.Error("a parameter without a default follows one with a default");
      }
    }
    return absl::OkStatus();
  }

  // The body of a macro or of a call block: what it names beside its parameters is noted.
  absl::Status ParseMacroBody(Statement& statement, std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    const std::set<std::string> outside = tokens_.ExchangeSpecialNames({});
    RETURN_IF_ERROR(ParseClosedBody(statement, end));
    const std::set<std::string> named = tokens_.ExchangeSpecialNames(outside);
    const auto takes_in = [&](const char* name) {
      return named.contains(name) && std::find(statement.names.begin(), statement.names.end(),
                                               name) == statement.names.end();
    };
    statement.uses_varargs = takes_in("varargs");
    statement.uses_kwargs = takes_in("kwargs");
    statement.uses_caller = takes_in("caller");
    loops_ = loops;
    return absl::OkStatus();
  }

  absl::Status ParseMacro(Statement& statement) {
    statement.type = Statement::Type::kMacro;
    ASSIGN_OR_RETURN(statement.text, tokens_.TakeTarget());
    RETURN_IF_ERROR(tokens_.ExpectOperator("("));
    RETURN_IF_ERROR(ParseParameters(statement));
    return ParseMacroBody(statement, "endmacro");
  }

  absl::Status ParseCallBlock(Statement& statement) {
    statement.type = Statement::Type::kCallBlock;
    statement.text = "caller";
    if (tokens_.TakeOperator("(")) RETURN_IF_ERROR(ParseParameters(statement));
    ASSIGN_OR_RETURN(statement.expression, ParseExpression(tokens_));
    if (statement.expression->type != Expression::Type::kCall) {
      return tokens_.Error("'call' needs a call");
    }
    return ParseMacroBody(statement, "endcall");
  }

  absl::Status ParseFilter(Statement& statement) {
    statement.type = Statement::Type::kFilterBlock;
    ASSIGN_OR_RETURN(statement.expression, ParseFiltersOfBody(tokens_, /*first_is_named=*/true));
    return ParseClosedBody(statement, "endfilter");
  }

  // There is nothing to inherit from: a block stands for its body.
  absl::Status ParseBlock(Statement& statement) {
    statement.type = Statement::Type::kBlock;
    ASSIGN_OR_RETURN(const std::string name, tokens_.TakeTarget());
    if (!blocks_.insert(name).second) {
      return tokens_.Error(absl::StrCat("the block '", name, "' is there twice"));
    }
    statement.is_scoped = tokens_.TakeName("scoped");
    if (tokens_.TakeName("required")) return tokens_.Unknown("statement", "required block");
    RETURN_IF_ERROR(tokens_.Expect(TokenType::kBlockEnd, "%}"));
    ASSIGN_OR_RETURN(statement.body, ParseBody({"endblock"}));
    tokens_.Take();
    tokens_.Take();
    tokens_.TakeName(name);
    return tokens_.Expect(TokenType::kBlockEnd, "%}");
  }

  absl::Status ParseAutoescape(Statement& statement) {
    statement.type = Statement::Type::kScope;
    ASSIGN_OR_RETURN(const ExpressionPtr on, ParseExpression(tokens_));
    const bool* constant = on->constant.As<bool>();
    if (on->type != Expression::Type::kConstant || constant == nullptr || *constant) {
      return tokens_.Unknown("statement", "autoescape other than false");
    }
    return ParseClosedBody(statement, "endautoescape");
  }

  absl::Status ParseGeneration(Statement& statement) {
    statement.type = Statement::Type::kScope;
    return ParseClosedBody(statement, "endgeneration");
  }

  TokenStream tokens_;
  int loops_ = 0;  // loops around the current statement, within its macro
  std::set<std::string> blocks_;
};

}  // namespace

absl::StatusOr<Body> ParseTemplate(std::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace chorale::jinja
