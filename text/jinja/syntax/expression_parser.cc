#include "text/jinja/syntax/expression_parser.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/builtins.h"
#include "text/jinja/syntax/parser.h"

namespace chorale::jinja {
namespace {

using Type = Expression::Type;
using Node = std::unique_ptr<Expression>;

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& tokens) : tokens_(tokens) {}

  absl::StatusOr<ExpressionPtr> Conditional(bool with_conditional) {
    Nesting nesting(tokens_);
    RETURN_IF_ERROR(nesting.status());
    ASSIGN_OR_RETURN(ExpressionPtr value, Logical("or"));
    while (with_conditional && tokens_.TakeName("if")) {
      Node node = New(Type::kConditional);
      ASSIGN_OR_RETURN(ExpressionPtr condition, Logical("or"));
      ExpressionPtr otherwise;
      if (tokens_.TakeName("else")) {
        ASSIGN_OR_RETURN(otherwise, Conditional(true));
      }
      RETURN_IF_ERROR(Add(*node, std::move(value)));
      RETURN_IF_ERROR(Add(*node, std::move(condition)));
      RETURN_IF_ERROR(Add(*node, std::move(otherwise)));
      value = std::move(node);
    }
    return value;
  }

  // One expression, or a tuple; `closing` ends an empty tuple in brackets.
  absl::StatusOr<ExpressionPtr> Tuple(bool with_conditional, std::string_view closing) {
    Node node = New(Type::kTuple);
    bool comma = false;
    while (!EndsTuple(closing)) {
      ASSIGN_OR_RETURN(ExpressionPtr item, Conditional(with_conditional));
      RETURN_IF_ERROR(Add(*node, std::move(item)));
      if (!tokens_.TakeOperator(",")) break;
      comma = true;
    }
    if (comma) return ExpressionPtr(std::move(node));
    if (node->operands.empty()) {
      if (!closing.empty()) return ExpressionPtr(std::move(node));
      return tokens_.Error(absl::StrCat("an expression is missing before ", Shown(tokens_.Peek())));
    }
    return std::move(node->operands[0]);
  }

  absl::StatusOr<ExpressionPtr> FiltersOfBody(bool first_is_named) {
    ExpressionPtr value = New(Type::kCaptured);
    if (first_is_named) {
      ASSIGN_OR_RETURN(value, Filter(std::move(value)));
    }
    while (tokens_.TakeOperator("|")) {
      ASSIGN_OR_RETURN(value, Filter(std::move(value)));
    }
    return value;
  }

 private:
  Node New(Type type, std::string text = "") const {
    auto node = std::make_unique<Expression>();
    node->type = type;
    node->line = tokens_.Peek().line;
    node->text = std::move(text);
    return node;
  }

  absl::Status Deepen(Expression& node, const ExpressionPtr& operand) const {
    if (operand) node.depth = std::max(node.depth, operand->depth + 1);
    if (node.depth <= kExpressionDepthMax) return absl::OkStatus();
    return tokens_.Error(
        absl::StrCat("an expression is nested deeper than ", kExpressionDepthMax, " levels"));
  }

  absl::Status Add(Expression& node, ExpressionPtr operand) const {
    RETURN_IF_ERROR(Deepen(node, operand));
    node.operands.push_back(std::move(operand));
    return absl::OkStatus();
  }

  absl::StatusOr<ExpressionPtr> Pair(Type type, std::string text, ExpressionPtr left,
                                     ExpressionPtr right) const {
    Node node = New(type, std::move(text));
    RETURN_IF_ERROR(Add(*node, std::move(left)));
    RETURN_IF_ERROR(Add(*node, std::move(right)));
    return ExpressionPtr(std::move(node));
  }

  bool EndsTuple(std::string_view closing) const {
    const Token& token = tokens_.Peek();
    return token.type == TokenType::kOutputEnd || token.type == TokenType::kBlockEnd ||
           (token.type == TokenType::kOperator && !closing.empty() && token.text == closing);
  }

  absl::StatusOr<ExpressionPtr> Logical(std::string_view word) {
    const bool is_or = word == "or";
    ASSIGN_OR_RETURN(ExpressionPtr left, is_or ? Logical("and") : Not());
    while (tokens_.TakeName(word)) {
      ASSIGN_OR_RETURN(ExpressionPtr right, is_or ? Logical("and") : Not());
      ASSIGN_OR_RETURN(left,
                       Pair(Type::kBinary, std::string(word), std::move(left), std::move(right)));
    }
    return left;
  }

  absl::StatusOr<ExpressionPtr> Not() {
    if (!tokens_.TakeName("not")) return Compare();
    Nesting nesting(tokens_);
    RETURN_IF_ERROR(nesting.status());
    Node node = New(Type::kUnary, "not");
    ASSIGN_OR_RETURN(ExpressionPtr operand, Not());
    RETURN_IF_ERROR(Add(*node, std::move(operand)));
    return ExpressionPtr(std::move(node));
  }

  // The comparison at the current token, taken; empty: none.
  std::string TakeComparison() {
    if (tokens_.TakeName("in")) return "in";
    if (tokens_.Peek().type == TokenType::kName && tokens_.Peek().text == "not" &&
        tokens_.Peek(1).type == TokenType::kName && tokens_.Peek(1).text == "in") {
      tokens_.Take();
      tokens_.Take();
      return "not in";
    }
    for (const char* text : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (tokens_.TakeOperator(text)) return text;
    }
    return "";
  }

  absl::StatusOr<ExpressionPtr> Compare() {
    ASSIGN_OR_RETURN(ExpressionPtr left, Sum());
    std::string comparison = TakeComparison();
    if (comparison.empty()) return left;
    Node node = New(Type::kCompare);
    RETURN_IF_ERROR(Add(*node, std::move(left)));
    for (; !comparison.empty(); comparison = TakeComparison()) {
      node->comparisons.push_back(comparison);
      ASSIGN_OR_RETURN(ExpressionPtr operand, Sum());
      RETURN_IF_ERROR(Add(*node, std::move(operand)));
    }
    return ExpressionPtr(std::move(node));
  }

  // A left-associative chain of operators over the next tighter level.
  absl::StatusOr<ExpressionPtr> Chain(std::initializer_list<const char*> operators,
                                      absl::StatusOr<ExpressionPtr> (ExpressionParser::*next)()) {
    ASSIGN_OR_RETURN(ExpressionPtr left, (this->*next)());
    for (bool found = true; found;) {
      found = false;
      for (const char* text : operators) {
        if (!tokens_.TakeOperator(text)) continue;
        found = true;
        ASSIGN_OR_RETURN(ExpressionPtr right, (this->*next)());
        ASSIGN_OR_RETURN(left, Pair(Type::kBinary, text, std::move(left), std::move(right)));
        break;
      }
    }
    return left;
  }

  absl::StatusOr<ExpressionPtr> Sum() {
    return Chain({"+", "-"}, &ExpressionParser::Concatenation);
  }
  absl::StatusOr<ExpressionPtr> Concatenation() { return Chain({"~"}, &ExpressionParser::Product); }
  absl::StatusOr<ExpressionPtr> Product() {
    return Chain({"*", "//", "/", "%"}, &ExpressionParser::Power);
  }
  absl::StatusOr<ExpressionPtr> Power() { return Chain({"**"}, &ExpressionParser::FilteredUnary); }
  absl::StatusOr<ExpressionPtr> FilteredUnary() { return Unary(true); }

  absl::StatusOr<ExpressionPtr> Unary(bool with_filters) {
    ExpressionPtr value;
    if (const std::string& sign = tokens_.Peek().text;
        tokens_.Peek().type == TokenType::kOperator && (sign == "-" || sign == "+")) {
      Nesting nesting(tokens_);
      RETURN_IF_ERROR(nesting.status());
      Node node = New(Type::kUnary, sign);
      tokens_.Take();
      ASSIGN_OR_RETURN(ExpressionPtr operand, Unary(false));
      RETURN_IF_ERROR(Add(*node, std::move(operand)));
      value = std::move(node);
    } else {
      ASSIGN_OR_RETURN(value, Primary());
    }
    ASSIGN_OR_RETURN(value, Postfix(std::move(value)));
    return with_filters ? FiltersAndTests(std::move(value)) : std::move(value);
  }

  Node Constant(Value value) const {
    Node node = New(Type::kConstant);
    node->constant = std::move(value);
    return node;
  }

  absl::StatusOr<ExpressionPtr> Primary() {
    const Token token = tokens_.Peek();
    if (token.type == TokenType::kInteger || token.type == TokenType::kFloat) {
      tokens_.Take();
      return Constant(token.type == TokenType::kFloat ? Value::OfFloat(token.real)
                                                      : IntegerOf(token.text));
    }
    if (token.type == TokenType::kString) {
      std::string text;
      while (tokens_.Peek().type == TokenType::kString) text += tokens_.Take().text;
      return Constant(Value::OfString(std::move(text)));
    }
    if (token.type == TokenType::kName) return Name();
    if (tokens_.TakeOperator("(")) {
      ASSIGN_OR_RETURN(ExpressionPtr value, Tuple(true, ")"));
      RETURN_IF_ERROR(tokens_.ExpectOperator(")"));
      return value;
    }
    if (tokens_.TakeOperator("[")) return List();
    if (tokens_.TakeOperator("{")) return Dictionary();
    return tokens_.Error(absl::StrCat("an expression is missing before ", Shown(token)));
  }

  absl::StatusOr<ExpressionPtr> Name() {
    const std::string name = tokens_.Take().text;
    if (name == "true" || name == "True") return Constant(Value::OfBool(true));
    if (name == "false" || name == "False") return Constant(Value::OfBool(false));
    if (name == "none" || name == "None") return Constant(Value::OfNone());
    if (name == "self") return tokens_.Unknown("variable", name);
    tokens_.NoteName(name);
    for (const char* word : {"and", "or", "not", "in", "is", "if", "else"}) {
      if (name == word)
        return tokens_.Error(absl::StrCat("an expression is missing at '", name, "'"));
    }
    return New(Type::kName, name);
  }

  absl::StatusOr<ExpressionPtr> List() {
    Node node = New(Type::kList);
    while (!tokens_.TakeOperator("]")) {
      if (!node->operands.empty()) RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      if (tokens_.TakeOperator("]")) break;
      ASSIGN_OR_RETURN(ExpressionPtr item, Conditional(true));
      RETURN_IF_ERROR(Add(*node, std::move(item)));
    }
    return ExpressionPtr(std::move(node));
  }

  absl::StatusOr<ExpressionPtr> Dictionary() {
    Node node = New(Type::kDictionary);
    while (!tokens_.TakeOperator("}")) {
      if (!node->operands.empty()) RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      if (tokens_.TakeOperator("}")) break;
      ASSIGN_OR_RETURN(ExpressionPtr key, Conditional(true));
      RETURN_IF_ERROR(tokens_.ExpectOperator(":"));
      ASSIGN_OR_RETURN(ExpressionPtr value, Conditional(true));
      RETURN_IF_ERROR(Add(*node, std::move(key)));
      RETURN_IF_ERROR(Add(*node, std::move(value)));
    }
    return ExpressionPtr(std::move(node));
  }

  absl::StatusOr<ExpressionPtr> Postfix(ExpressionPtr value) {
    for (;;) {
      if (tokens_.TakeOperator(".")) {
        ASSIGN_OR_RETURN(value, Dot(std::move(value)));
      } else if (tokens_.TakeOperator("[")) {
        ASSIGN_OR_RETURN(value, Brackets(std::move(value)));
      } else if (tokens_.TakeOperator("(")) {
        ASSIGN_OR_RETURN(value, Call(std::move(value)));
      } else {
        return value;
      }
    }
  }

  absl::StatusOr<ExpressionPtr> Dot(ExpressionPtr value) {
    const Token token = tokens_.Take();
    if (token.type == TokenType::kInteger) {
      return Pair(Type::kIndex, "", std::move(value), Constant(IntegerOf(token.text)));
    }
    if (token.type != TokenType::kName) {
      return tokens_.Error(absl::StrCat("an attribute's name is missing before ", Shown(token)));
    }
    Node node = New(Type::kAttribute, token.text);
    RETURN_IF_ERROR(Add(*node, std::move(value)));
    return ExpressionPtr(std::move(node));
  }

  absl::StatusOr<ExpressionPtr> Brackets(ExpressionPtr value) {
    ExpressionPtr parts[3];
    int colons = 0;
    for (;;) {
      if (tokens_.TakeOperator("]")) break;
      if (tokens_.TakeOperator(":")) {
        if (++colons > 2) return tokens_.Error("a slice has at most two ':'");
        continue;
      }
      if (parts[colons]) return tokens_.Error(absl::StrCat("unexpected ", Shown(tokens_.Peek())));
      ASSIGN_OR_RETURN(parts[colons], Conditional(true));
    }
    if (colons == 0) {
      if (!parts[0]) return tokens_.Error("an index is missing");
      return Pair(Type::kIndex, "", std::move(value), std::move(parts[0]));
    }
    Node node = New(Type::kSlice);
    RETURN_IF_ERROR(Add(*node, std::move(value)));
    for (ExpressionPtr& part : parts) RETURN_IF_ERROR(Add(*node, std::move(part)));
    return ExpressionPtr(std::move(node));
  }

  absl::StatusOr<ExpressionPtr> Call(ExpressionPtr callee) {
    Node node = New(Type::kCall);
    RETURN_IF_ERROR(Add(*node, std::move(callee)));
    RETURN_IF_ERROR(CallArguments(*node));
    return ExpressionPtr(std::move(node));
  }

  // Arguments after '(', through ')'.
  absl::Status CallArguments(Expression& node) {
    for (bool first = true; !tokens_.TakeOperator(")"); first = false) {
      if (!first) RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      if (tokens_.TakeOperator(")")) break;
      if (const bool twice = tokens_.TakeOperator("**"); twice || tokens_.TakeOperator("*")) {
        ExpressionPtr& star = twice ? node.double_star : node.star;
        if (star || node.double_star) return tokens_.Error("an argument with a star too many");
        ASSIGN_OR_RETURN(star, Conditional(true));
        RETURN_IF_ERROR(Deepen(node, star));
        continue;
      }
      if (tokens_.Peek().type == TokenType::kName && tokens_.Peek(1).text == "=" &&
          tokens_.Peek(1).type == TokenType::kOperator) {
        std::string name = tokens_.Take().text;
        tokens_.Take();
        ASSIGN_OR_RETURN(ExpressionPtr value, Conditional(true));
        RETURN_IF_ERROR(Deepen(node, value));
        node.named.emplace_back(std::move(name), std::move(value));
        continue;
      }
      if (!node.named.empty() || node.star || node.double_star) {
        return tokens_.Error("an argument follows a named argument");
      }
      ASSIGN_OR_RETURN(ExpressionPtr value, Conditional(true));
      RETURN_IF_ERROR(Add(node, std::move(value)));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<ExpressionPtr> FiltersAndTests(ExpressionPtr value) {
    for (;;) {
      if (tokens_.TakeOperator("|")) {
        ASSIGN_OR_RETURN(value, Filter(std::move(value)));
      } else if (tokens_.TakeName("is")) {
        ASSIGN_OR_RETURN(value, Test(std::move(value)));
      } else if (tokens_.TakeOperator("(")) {
        ASSIGN_OR_RETURN(value, Call(std::move(value)));
      } else {
        return value;
      }
    }
  }

  absl::StatusOr<ExpressionPtr> Filter(ExpressionPtr value) {
    const Token name = tokens_.Take();
    if (name.type != TokenType::kName) {
      return tokens_.Error(absl::StrCat("a filter's name is missing before ", Shown(name)));
    }
    Node node = New(Type::kFilter, name.text);
    node->builtin = FindFilter(name.text);
    RETURN_IF_ERROR(Add(*node, std::move(value)));
    if (tokens_.TakeOperator("(")) RETURN_IF_ERROR(CallArguments(*node));
    return ExpressionPtr(std::move(node));
  }

  bool SeesTestOperand() const {
    const Token& token = tokens_.Peek();
    switch (token.type) {
      case TokenType::kName:
        return token.text != "else" && token.text != "or" && token.text != "and";
      case TokenType::kString:
      case TokenType::kInteger:
      case TokenType::kFloat:
        return true;
      default:
        return token.type == TokenType::kOperator && (token.text == "[" || token.text == "{");
    }
  }

  absl::StatusOr<ExpressionPtr> Test(ExpressionPtr value) {
    const bool negated = tokens_.TakeName("not");
    const Token name = tokens_.Take();
    if (name.type != TokenType::kName) {
      return tokens_.Error(absl::StrCat("a test's name is missing before ", Shown(name)));
    }
    Node node = New(Type::kTest, name.text);
    node->builtin = FindTest(name.text);
    RETURN_IF_ERROR(Add(*node, std::move(value)));
    if (tokens_.TakeOperator("(")) {
      RETURN_IF_ERROR(CallArguments(*node));
    } else if (SeesTestOperand()) {
      if (tokens_.Peek().text == "is" && tokens_.Peek().type == TokenType::kName) {
        return tokens_.Error("tests cannot be chained by 'is'");
      }
      ASSIGN_OR_RETURN(ExpressionPtr operand, Primary());
      ASSIGN_OR_RETURN(operand, Postfix(std::move(operand)));
      RETURN_IF_ERROR(Add(*node, std::move(operand)));
    }
    if (!negated) return ExpressionPtr(std::move(node));
    Node inverse = New(Type::kUnary, "not");
    RETURN_IF_ERROR(Add(*inverse, std::move(node)));
    return ExpressionPtr(std::move(inverse));
  }

  TokenStream& tokens_;
};

}  // namespace

absl::StatusOr<ExpressionPtr> ParseExpression(TokenStream& tokens, bool with_conditional) {
  return ExpressionParser(tokens).Conditional(with_conditional);
}

absl::StatusOr<ExpressionPtr> ParseFiltersOfBody(TokenStream& tokens, bool first_is_named) {
  return ExpressionParser(tokens).FiltersOfBody(first_is_named);
}

absl::StatusOr<ExpressionPtr> ParseTuple(TokenStream& tokens, bool with_conditional) {
  return ExpressionParser(tokens).Tuple(with_conditional, "");
}

}  // namespace chorale::jinja
