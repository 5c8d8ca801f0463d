#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/values/operators.h"

namespace chorale::jinja {

using Type = Expression::Type;

Value Interpreter::Lookup(const std::string& name, const Scope& scope) const {
  for (const Scope* at = &scope; at; at = at->parent) {
    for (const auto& [key, value] : at->variables) {
      if (key == name) return value;
    }
  }
  if (const Builtin* function = FindFunction(name)) return Value(Value::Data(function));
  return Value::OfUndefined(absl::StrCat("'", name, "' is undefined"));
}

absl::StatusOr<Value> Interpreter::Evaluate(const Expression& node, Scope& scope) {
  Depth depth(depth_);
  RETURN_IF_ERROR(depth.status());
  RETURN_IF_ERROR(rendering_.budget.Steps(1));
  line_ = node.line;
  switch (node.type) {
    case Type::kConstant:
      return node.constant;
    case Type::kName:
      return Lookup(node.text, scope);
    case Type::kCaptured:
      return captured_;
    case Type::kList:
    case Type::kTuple:
      return EvaluateSequence(node, scope);
    case Type::kDictionary:
      return EvaluateDictionary(node, scope);
    case Type::kSlice:
      return EvaluateSlice(node, scope);
    case Type::kCall:
      return EvaluateCall(node, /*caller=*/nullptr, scope);
    case Type::kCompare:
      return EvaluateCompare(node, scope);
    case Type::kConditional: {
      ASSIGN_OR_RETURN(const Value condition, Evaluate(*node.operands[1], scope));
      if (Truthy(condition)) return Evaluate(*node.operands[0], scope);
      if (node.operands[2]) return Evaluate(*node.operands[2], scope);
      return Value::OfUndefined("the inline if has no else branch and its condition is false");
    }
    default:
      break;
  }
  ASSIGN_OR_RETURN(const Value first, Evaluate(*node.operands[0], scope));
  return EvaluateOnFirst(node, first, scope);
}

// Of the expressions whose first operand comes first, always.
absl::StatusOr<Value> Interpreter::EvaluateOnFirst(const Expression& node, const Value& first,
                                                   Scope& scope) {
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
      line_ = node.line;
      if (node.builtin == nullptr) {
        return absl::UnimplementedError(absl::StrCat("the ",
                                                     node.type == Type::kFilter ? "filter" : "test",
                                                     " '", node.text, "' is not supported"));
      }
      return RunBuiltin(rendering_, *node.builtin, &first, std::move(arguments));
    }
    case Type::kUnary:
      if (node.text == "not") return Value::OfBool(!Truthy(first));
      return Negative(first, node.text == "-");
    default:
      return EvaluateBinary(node, first, scope);
  }
}

absl::StatusOr<Value> Interpreter::EvaluateBinary(const Expression& node, const Value& left,
                                                  Scope& scope) {
  if (node.text == "and" && !Truthy(left)) return left;
  if (node.text == "or" && Truthy(left)) return left;
  ASSIGN_OR_RETURN(Value right, Evaluate(*node.operands[1], scope));
  if (node.text == "and" || node.text == "or") return right;
  return Arithmetic(rendering_.budget, node.text, left, right);
}

absl::StatusOr<Value> Interpreter::EvaluateCompare(const Expression& node, Scope& scope) {
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

absl::StatusOr<Value> Interpreter::EvaluateSequence(const Expression& node, Scope& scope) {
  std::vector<Value> items;
  for (const ExpressionPtr& operand : node.operands) {
    ASSIGN_OR_RETURN(Value item, Evaluate(*operand, scope));
    items.push_back(std::move(item));
  }
  return MakeSequence(rendering_.budget, std::move(items),
                      node.type == Type::kTuple ? Sequence::Type::kTuple : Sequence::Type::kList);
}

absl::StatusOr<Value> Interpreter::EvaluateDictionary(const Expression& node, Scope& scope) {
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i < node.operands.size(); i += 2) {
    ASSIGN_OR_RETURN(Value key, Evaluate(*node.operands[i], scope));
    ASSIGN_OR_RETURN(Value value, Evaluate(*node.operands[i + 1], scope));
    entries.emplace_back(std::move(key), std::move(value));
  }
  return MakeDictionary(rendering_.budget, std::move(entries));
}

absl::StatusOr<Value> Interpreter::EvaluateSlice(const Expression& node, Scope& scope) {
  Value parts[4];
  for (size_t i = 0; i < 4; ++i) {
    if (!node.operands[i]) continue;
    ASSIGN_OR_RETURN(parts[i], Evaluate(*node.operands[i], scope));
  }
  const auto bound = [&](size_t i) { return node.operands[i] ? &parts[i] : nullptr; };
  return Slice(rendering_, parts[0], bound(1), bound(2), bound(3));
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const Expression& node, Scope& scope) {
  Arguments arguments;
  for (size_t i = 1; i < node.operands.size(); ++i) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*node.operands[i], scope));
    arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, expression] : node.named) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*expression, scope));
    arguments.named.emplace_back(name, std::move(value));
  }
  if (node.star) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(*node.star, scope));
    ASSIGN_OR_RETURN(const std::vector<Value> more, Items(rendering_.budget, value));
    arguments.positional.insert(arguments.positional.end(), more.begin(), more.end());
  }
  if (node.double_star) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(*node.double_star, scope));
    const Dictionary* dictionary = value.dictionary();
    if (!dictionary) return Fault("the argument after '**' must be a mapping");
    for (const auto& [key, item] : dictionary->entries) {
      const std::string* name = key.string();
      if (!name) return Fault("the keys of the argument after '**' must be strings");
      const bool twice = std::any_of(arguments.named.begin(), arguments.named.end(),
                                     [&](const auto& named) { return named.first == *name; });
      if (twice) return Fault(absl::StrCat("the argument '", *name, "' is there twice"));
      arguments.named.emplace_back(*name, item);
    }
  }
  return arguments;
}

absl::StatusOr<Value> Interpreter::EvaluateCall(const Expression& node, const Value* caller,
                                                Scope& scope) {
  ASSIGN_OR_RETURN(const Value callee, Evaluate(*node.operands[0], scope));
  ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(node, scope));
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  line_ = node.line;
  return Call(callee, std::move(arguments));
}

absl::StatusOr<Value> Interpreter::Call(const Value& callee, Arguments arguments) {
  if (callee.is_undefined()) return UndefinedFault(callee);
  if (const auto* function = callee.As<const Builtin*>()) {
    return RunBuiltin(rendering_, **function, nullptr, std::move(arguments));
  }
  if (const auto* method = callee.As<std::shared_ptr<const Method>>()) {
    return RunMethod(rendering_, *(*method)->self, (*method)->name, std::move(arguments));
  }
  if (const auto* macro = callee.As<const Macro*>()) {
    return CallMacro(**macro, std::move(arguments));
  }
  if (const auto* loop = callee.As<std::shared_ptr<Loop>>()) return CallLoop(**loop, arguments);
  if (const auto* cycler = callee.As<std::shared_ptr<Cycler>>(); cycler && (*cycler)->is_joiner) {
    return (*cycler)->at++ == 0 ? Value::OfString("") : (*cycler)->items[0];
  }
  return Fault(absl::StrCat("a value of type '", callee.type_name(), "' cannot be called"));
}

absl::StatusOr<Value> Interpreter::CallLoop(Loop& loop, const Arguments& arguments) {
  if (loop.running == nullptr)
    return Fault("a loop can be called when it is recursive, from within");
  if (arguments.positional.size() != 1 || !arguments.named.empty()) {
    return Fault("a loop is called with the items to visit");
  }
  Depth depth(depth_);
  RETURN_IF_ERROR(depth.status());
  std::string outer = std::exchange(out_, "");
  const absl::StatusOr<Flow> flow =
      RunFor(*loop.running, arguments.positional[0], loop.level + 1, *loop.scope);
  std::string text = std::exchange(out_, std::move(outer));
  RETURN_IF_ERROR(flow.status());
  return MakeString(rendering_.budget, std::move(text));
}

absl::StatusOr<Value> Interpreter::CallMacro(const Macro& macro, Arguments arguments) {
  Block block(*this, macro.scope);
  RETURN_IF_ERROR(BindParameters(*macro.statement, std::move(arguments), block.scope()));
  return Capture(macro.statement->body, block.scope());
}

// Gives the parameters of a macro their values, and what it takes in besides them.
absl::Status Interpreter::BindParameters(const Statement& macro, Arguments arguments,
                                         Scope& inner) {
  const size_t count = macro.names.size();
  std::vector<bool> given(count, false);
  std::vector<Value> more;
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    if (i < count) {
      inner.Set(macro.names[i], std::move(arguments.positional[i]));
      given[i] = true;
    } else {
      more.push_back(std::move(arguments.positional[i]));
    }
  }
  std::vector<std::pair<Value, Value>> named;
  Value caller = Value::OfUndefined("No caller defined");
  for (auto& [name, value] : arguments.named) {
    const auto at = static_cast<size_t>(std::find(macro.names.begin(), macro.names.end(), name) -
                                        macro.names.begin());
    if (at < count && !given[at]) {
      inner.Set(name, std::move(value));
      given[at] = true;
    } else if (at == count && name == "caller" && macro.uses_caller) {
      caller = std::move(value);
    } else if (at == count && macro.uses_kwargs) {
      named.emplace_back(Value::OfString(name), std::move(value));
    } else {
      return Fault(
          absl::StrCat("macro '", macro.text, "' does not take the argument '", name, "' here"));
    }
  }
  if (!more.empty() && !macro.uses_varargs) {
    return Fault(absl::StrCat("macro '", macro.text, "' takes at most ", count, " arguments"));
  }
  if (macro.uses_caller) inner.Set("caller", std::move(caller));
  if (macro.uses_varargs) {
    ASSIGN_OR_RETURN(Value list,
                     MakeSequence(rendering_.budget, std::move(more), Sequence::Type::kTuple));
    inner.Set("varargs", std::move(list));
  }
  if (macro.uses_kwargs) {
    ASSIGN_OR_RETURN(Value mapping, MakeDictionary(rendering_.budget, std::move(named)));
    inner.Set("kwargs", std::move(mapping));
  }
  for (size_t i = 0; i < count; ++i) {
    if (given[i]) continue;
    Value value =
        Value::OfUndefined(absl::StrCat("parameter '", macro.names[i], "' was not provided"));
    if (macro.values[i]) {
      ASSIGN_OR_RETURN(value, Evaluate(*macro.values[i], inner));
    }
    inner.Set(macro.names[i], std::move(value));
  }
  return absl::OkStatus();
}

}  // namespace chorale::jinja
