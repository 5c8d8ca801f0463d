#include "model/jinja/eval.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/jinja/builtins.h"
#include "model/jinja/operators.h"

namespace chorale::jinja {
namespace {

using Type = Expression::Type;

// The variables of one block. Those of the blocks around it are seen, but not changed.
struct Scope {
  const Scope* parent = nullptr;
  std::vector<std::pair<std::string, Value>> variables = {};

  void Set(const std::string& name, Value value) {
    for (auto& [key, present] : variables) {
      if (key != name) continue;
      present = std::move(value);
      return;
    }
    variables.emplace_back(name, std::move(value));
  }
};

enum class Flow { kNext, kBreak, kContinue };

class Depth {
 public:
  explicit Depth(int& depth) : depth_(depth) { ++depth_; }
  ~Depth() { --depth_; }
  absl::Status status() const {
    if (depth_ <= kEvaluationDepthMax) return absl::OkStatus();
    return Fault(absl::StrCat("evaluation is nested deeper than ", kEvaluationDepthMax, " levels"));
  }

 private:
  int& depth_;
};

class Interpreter {
 public:
  absl::StatusOr<std::string> Run(const Body& body, const nlohmann::ordered_json& context) {
    for (const auto& [name, json] : context.items()) {
      ASSIGN_OR_RETURN(Value value, FromJson(json));
      if (name == "current_time_unix" && value.is_integer()) {
        rendering_.current_time_unix = value.integer();
      }
      context_.variables.emplace_back(name, std::move(value));
    }
    root_.parent = &context_;
    const absl::StatusOr<Flow> flow = RunBody(body, root_);
    if (flow.ok()) return std::move(out_);
    const absl::Status& status = flow.status();
    if (status.GetPayload(kRaisedByTemplate)) {
      return absl::Status(status.code(), status.message());
    }
    return absl::Status(status.code(),
                        absl::StrCat("chat template line ", line_, ": ", status.message()));
  }

 private:
  absl::Status Write(std::string_view text) {
    if (static_cast<int64_t>(out_.size() + text.size()) > kTextBytesMax) {
      return Fault(absl::StrCat("the output is longer than ", kTextBytesMax, " bytes"));
    }
    RETURN_IF_ERROR(rendering_.budget.Bytes(static_cast<int64_t>(text.size())));
    out_ += text;
    return absl::OkStatus();
  }

  absl::StatusOr<Flow> RunBody(const Body& body, Scope& scope) {
    Depth depth(depth_);
    RETURN_IF_ERROR(depth.status());
    for (const auto& statement : body) {
      line_ = statement->line;
      RETURN_IF_ERROR(rendering_.budget.Steps(1));
      ASSIGN_OR_RETURN(const Flow flow, RunStatement(*statement, scope));
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  absl::StatusOr<Flow> RunStatement(const Statement& statement, Scope& scope) {
    switch (statement.type) {
      case Statement::Type::kText:
        RETURN_IF_ERROR(Write(statement.text));
        break;
      case Statement::Type::kOutput: {
        ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expression, scope));
        if (const std::string* text = value.string()) {
          RETURN_IF_ERROR(Write(*text));
          break;
        }
        ASSIGN_OR_RETURN(const std::string text, ToText(rendering_.budget, value));
        RETURN_IF_ERROR(Write(text));
        break;
      }
      case Statement::Type::kIf:
        return RunIf(statement, scope);
      case Statement::Type::kFor:
        return RunFor(statement, scope);
      case Statement::Type::kSet:
        RETURN_IF_ERROR(RunSet(statement, scope));
        break;
      case Statement::Type::kSetBlock:
        return RunSetBlock(statement, scope);
      case Statement::Type::kMacro:
        scope.Set(statement.text, Value(Value::Data(&statement)));
        break;
      case Statement::Type::kScope: {
        Scope inner{&scope};
        return RunBody(statement.body, inner);
      }
      case Statement::Type::kBreak:
        return Flow::kBreak;
      case Statement::Type::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNext;
  }

  absl::StatusOr<Flow> RunIf(const Statement& statement, Scope& scope) {
    for (const Statement::Branch& branch : statement.branches) {
      ASSIGN_OR_RETURN(const Value condition, Evaluate(*branch.condition, scope));
      if (Truthy(condition)) return RunBody(branch.body, scope);
    }
    return RunBody(statement.else_body, scope);
  }

  // Binds the names of a for or set statement to a value, taken apart if there are several.
  absl::Status Assign(const Statement& statement, Value value, Scope& scope) {
    if (!statement.unpacks) {
      scope.Set(statement.names[0], std::move(value));
      return absl::OkStatus();
    }
    if (value.is_undefined()) return UndefinedFault(value);
    ASSIGN_OR_RETURN(std::vector<Value> parts, Items(rendering_.budget, value));
    if (parts.size() != statement.names.size()) {
      return Fault(absl::StrCat("expected ", statement.names.size(), " values to unpack, found ",
                                parts.size()));
    }
    for (size_t i = 0; i < parts.size(); ++i) scope.Set(statement.names[i], std::move(parts[i]));
    return absl::OkStatus();
  }

  absl::StatusOr<Flow> RunFor(const Statement& statement, Scope& scope) {
    ASSIGN_OR_RETURN(const Value source, Evaluate(*statement.expression, scope));
    auto loop = std::make_shared<Loop>();
    ASSIGN_OR_RETURN(loop->items, Items(rendering_.budget, source));
    if (statement.condition) {
      std::vector<Value> kept;
      for (Value& item : loop->items) {
        Scope inner{&scope};
        RETURN_IF_ERROR(Assign(statement, item, inner));
        ASSIGN_OR_RETURN(const Value keep, Evaluate(*statement.condition, inner));
        if (Truthy(keep)) kept.push_back(std::move(item));
      }
      loop->items = std::move(kept);
    }
    if (loop->items.empty()) {
      Scope inner{&scope};
      return RunBody(statement.else_body, inner);
    }
    for (const Value& item : loop->items) loop->depth = std::max(loop->depth, item.depth() + 1);
    for (; loop->index < static_cast<int64_t>(loop->items.size()); ++loop->index) {
      RETURN_IF_ERROR(rendering_.budget.Steps(1));
      Scope inner{&scope};
      RETURN_IF_ERROR(Assign(statement, loop->items[static_cast<size_t>(loop->index)], inner));
      inner.Set("loop", Value(Value::Data(loop)));
      ASSIGN_OR_RETURN(const Flow flow, RunBody(statement.body, inner));
      if (flow == Flow::kBreak) break;
    }
    return Flow::kNext;
  }

  absl::Status RunSet(const Statement& statement, Scope& scope) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*statement.expression, scope));
    if (statement.attribute.empty()) return Assign(statement, std::move(value), scope);
    return SetAttribute(statement, std::move(value), scope);
  }

  absl::Status SetAttribute(const Statement& statement, Value value, const Scope& scope) {
    const Value target = Lookup(statement.names[0], scope);
    const auto* space = target.As<Namespace*>();
    if (!space) {
      return Fault(absl::StrCat("'", statement.names[0], "' is not a namespace: its attribute '",
                                statement.attribute, "' cannot be set"));
    }
    for (auto& [name, present] : (*space)->attributes) {
      if (name != statement.attribute) continue;
      present = std::move(value);
      return absl::OkStatus();
    }
    (*space)->attributes.emplace_back(statement.attribute, std::move(value));
    return absl::OkStatus();
  }

  // What a body writes, as a string instead of output.
  absl::StatusOr<Value> Capture(const Body& body, Scope& scope) {
    std::string outer = std::exchange(out_, "");
    const absl::StatusOr<Flow> flow = RunBody(body, scope);
    std::string text = std::exchange(out_, std::move(outer));
    RETURN_IF_ERROR(flow.status());
    captured_flow_ = *flow;
    return MakeString(rendering_.budget, std::move(text));
  }

  absl::StatusOr<Flow> RunSetBlock(const Statement& statement, Scope& scope) {
    Scope inner{&scope};
    ASSIGN_OR_RETURN(Value text, Capture(statement.body, inner));
    if (captured_flow_ != Flow::kNext) return captured_flow_;
    if (statement.attribute.empty()) {
      RETURN_IF_ERROR(Assign(statement, std::move(text), scope));
    } else {
      RETURN_IF_ERROR(SetAttribute(statement, std::move(text), scope));
    }
    return Flow::kNext;
  }

  Value Lookup(const std::string& name, const Scope& scope) const {
    for (const Scope* at = &scope; at; at = at->parent) {
      for (const auto& [key, value] : at->variables) {
        if (key == name) return value;
      }
    }
    if (const Builtin* function = FindFunction(name)) return Value(Value::Data(function));
    return Value::OfUndefined(absl::StrCat("'", name, "' is undefined"));
  }

  absl::StatusOr<Value> Evaluate(const Expression& node, const Scope& scope) {
    Depth depth(depth_);
    RETURN_IF_ERROR(depth.status());
    RETURN_IF_ERROR(rendering_.budget.Steps(1));
    line_ = node.line;
    switch (node.type) {
      case Type::kConstant:
        return node.constant;
      case Type::kName:
        return Lookup(node.text, scope);
      case Type::kList:
      case Type::kTuple:
        return EvaluateSequence(node, scope);
      case Type::kDictionary:
        return EvaluateDictionary(node, scope);
      case Type::kSlice:
        return EvaluateSlice(node, scope);
      case Type::kCall:
        return EvaluateCall(node, scope);
      case Type::kCompare:
        return EvaluateCompare(node, scope);
      default:
        break;
    }
    ASSIGN_OR_RETURN(const Value first,
                     Evaluate(*node.operands[node.type == Type::kConditional ? 1 : 0], scope));
    switch (node.type) {
      case Type::kAttribute:
        return Attribute(rendering_, first, node.text);
      case Type::kIndex: {
        ASSIGN_OR_RETURN(const Value key, Evaluate(*node.operands[1], scope));
        return Subscript(rendering_, first, key);
      }
      case Type::kFilter:
      case Type::kTest: {
        ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(node, scope));
        return RunBuiltin(rendering_, *node.builtin, &first, std::move(arguments));
      }
      case Type::kUnary:
        if (node.text == "not") return Value::OfBool(!Truthy(first));
        return Negative(first, node.text == "-");
      case Type::kConditional:
        if (Truthy(first)) return Evaluate(*node.operands[0], scope);
        if (node.operands[2]) return Evaluate(*node.operands[2], scope);
        return Value::OfUndefined("the inline if has no else branch and its condition is false");
      default:
        return EvaluateBinary(node, first, scope);
    }
  }

  absl::StatusOr<Value> EvaluateBinary(const Expression& node, const Value& left,
                                       const Scope& scope) {
    if (node.text == "and" && !Truthy(left)) return left;
    if (node.text == "or" && Truthy(left)) return left;
    ASSIGN_OR_RETURN(Value right, Evaluate(*node.operands[1], scope));
    if (node.text == "and" || node.text == "or") return right;
    return Arithmetic(rendering_.budget, node.text, left, right);
  }

  absl::StatusOr<Value> EvaluateCompare(const Expression& node, const Scope& scope) {
    ASSIGN_OR_RETURN(Value left, Evaluate(*node.operands[0], scope));
    for (size_t i = 0; i < node.comparisons.size(); ++i) {
      ASSIGN_OR_RETURN(Value right, Evaluate(*node.operands[i + 1], scope));
      ASSIGN_OR_RETURN(const bool holds,
                       Compare(rendering_.budget, node.comparisons[i], left, right));
      if (!holds) return Value::OfBool(false);
      left = std::move(right);
    }
    return Value::OfBool(true);
  }

  absl::StatusOr<Value> EvaluateSequence(const Expression& node, const Scope& scope) {
    std::vector<Value> items;
    for (const ExpressionPtr& operand : node.operands) {
      ASSIGN_OR_RETURN(Value item, Evaluate(*operand, scope));
      items.push_back(std::move(item));
    }
    return MakeSequence(rendering_.budget, std::move(items),
                        node.type == Type::kTuple ? Sequence::Type::kTuple : Sequence::Type::kList);
  }

  absl::StatusOr<Value> EvaluateDictionary(const Expression& node, const Scope& scope) {
    std::vector<std::pair<Value, Value>> entries;
    for (size_t i = 0; i < node.operands.size(); i += 2) {
      ASSIGN_OR_RETURN(Value key, Evaluate(*node.operands[i], scope));
      ASSIGN_OR_RETURN(Value value, Evaluate(*node.operands[i + 1], scope));
      entries.emplace_back(std::move(key), std::move(value));
    }
    return MakeDictionary(rendering_.budget, std::move(entries));
  }

  absl::StatusOr<Value> EvaluateSlice(const Expression& node, const Scope& scope) {
    Value parts[4];
    for (size_t i = 0; i < 4; ++i) {
      if (!node.operands[i]) continue;
      ASSIGN_OR_RETURN(parts[i], Evaluate(*node.operands[i], scope));
    }
    const auto bound = [&](size_t i) { return node.operands[i] ? &parts[i] : nullptr; };
    return Slice(rendering_, parts[0], bound(1), bound(2), bound(3));
  }

  absl::StatusOr<Arguments> EvaluateArguments(const Expression& node, const Scope& scope) {
    Arguments arguments;
    for (size_t i = 1; i < node.operands.size(); ++i) {
      ASSIGN_OR_RETURN(Value value, Evaluate(*node.operands[i], scope));
      arguments.positional.push_back(std::move(value));
    }
    for (const auto& [name, expression] : node.named) {
      ASSIGN_OR_RETURN(Value value, Evaluate(*expression, scope));
      arguments.named.emplace_back(name, std::move(value));
    }
    return arguments;
  }

  absl::StatusOr<Value> EvaluateCall(const Expression& node, const Scope& scope) {
    ASSIGN_OR_RETURN(const Value callee, Evaluate(*node.operands[0], scope));
    ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(node, scope));
    line_ = node.line;
    if (callee.is_undefined()) return UndefinedFault(callee);
    if (const auto* function = callee.As<const Builtin*>()) {
      return RunBuiltin(rendering_, **function, nullptr, std::move(arguments));
    }
    if (const auto* method = callee.As<std::shared_ptr<const Method>>()) {
      return RunMethod(rendering_, *(*method)->self, (*method)->name, std::move(arguments));
    }
    if (const auto* macro = callee.As<const Statement*>()) {
      return CallMacro(**macro, std::move(arguments));
    }
    return Fault(absl::StrCat("a value of type '", callee.type_name(), "' cannot be called"));
  }

  absl::StatusOr<Value> CallMacro(const Statement& macro, Arguments arguments) {
    if (arguments.positional.size() > macro.names.size()) {
      return Fault(absl::StrCat("macro '", macro.text, "' takes at most ", macro.names.size(),
                                " arguments"));
    }
    Scope inner{&root_};
    std::vector<bool> given(macro.names.size(), false);
    for (size_t i = 0; i < arguments.positional.size(); ++i) {
      inner.Set(macro.names[i], std::move(arguments.positional[i]));
      given[i] = true;
    }
    for (auto& [name, value] : arguments.named) {
      size_t at = 0;
      while (at < macro.names.size() && macro.names[at] != name) ++at;
      if (at == macro.names.size() || given[at]) {
        return Fault(
            absl::StrCat("macro '", macro.text, "' does not take the argument '", name, "' here"));
      }
      inner.Set(name, std::move(value));
      given[at] = true;
    }
    for (size_t i = 0; i < macro.names.size(); ++i) {
      if (given[i]) continue;
      Value value =
          Value::OfUndefined(absl::StrCat("parameter '", macro.names[i], "' was not provided"));
      if (macro.defaults[i]) {
        ASSIGN_OR_RETURN(value, Evaluate(*macro.defaults[i], inner));
      }
      inner.Set(macro.names[i], std::move(value));
    }
    return Capture(macro.body, inner);
  }

  Rendering rendering_;  // outlives the variables, which may point to its namespaces
  Scope context_;
  Scope root_;
  std::string out_;
  Flow captured_flow_ = Flow::kNext;
  int depth_ = 0;
  int line_ = 1;
};

}  // namespace

absl::StatusOr<std::string> RenderTemplate(const Body& body,
                                           const nlohmann::ordered_json& context) {
  if (!context.is_object()) {
    return absl::InvalidArgumentError("the context of a chat template must be a JSON object");
  }
  return Interpreter().Run(body, context);
}

}  // namespace chorale::jinja
