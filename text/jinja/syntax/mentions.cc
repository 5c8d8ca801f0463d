#include "text/jinja/syntax/mentions.h"

#include <algorithm>
#include <utility>

namespace chorale::jinja {
namespace {

class Search {
 public:
  explicit Search(std::string_view word) : word_(word) {}

  bool In(const Body& body) const {
    return std::any_of(body.begin(), body.end(),
                       [&](const auto& statement) { return In(*statement); });
  }

 private:
  bool In(const Statement& statement) const {
    const auto in_branch = [&](const Statement::Branch& branch) {
      return In(branch.condition) || In(branch.body);
    };
    return (statement.type != Statement::Type::kText && statement.text == word_) ||
           In(statement.expression) || In(statement.condition) ||
           std::any_of(statement.targets.begin(), statement.targets.end(),
                       [&](const Target& target) { return In(target); }) ||
           std::find(statement.names.begin(), statement.names.end(), word_) !=
               statement.names.end() ||
           InAny(statement.values) ||
           std::any_of(statement.branches.begin(), statement.branches.end(), in_branch) ||
           In(statement.body) || In(statement.else_body);
  }

  bool In(const Target& target) const {
    return target.name == word_ || target.attribute == word_ ||
           std::any_of(target.parts.begin(), target.parts.end(),
                       [&](const Target& part) { return In(part); });
  }

  bool In(const ExpressionPtr& expression) const {
    if (!expression) return false;
    const std::string* constant = expression->constant.string();
    return expression->text == word_ || (constant && *constant == word_) ||
           InAny(expression->operands) ||
           std::any_of(
               expression->named.begin(), expression->named.end(),
               [&](const auto& named) { return named.first == word_ || In(named.second); }) ||
           In(expression->star) || In(expression->double_star);
  }

  bool InAny(const std::vector<ExpressionPtr>& expressions) const {
    return std::any_of(expressions.begin(), expressions.end(),
                       [&](const ExpressionPtr& expression) { return In(expression); });
  }

  std::string_view word_;
};

}  // namespace

bool Mentions(const Body& body, std::string_view word) { return Search(word).In(body); }

}  // namespace chorale::jinja
