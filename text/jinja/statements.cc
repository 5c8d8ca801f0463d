#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/eval.h"
#include "text/jinja/interpreter.h"

namespace chorale::jinja {
namespace {

constexpr int64_t kStepsPerMacro = 64;

}  // namespace

void Scope::Set(const std::string& name, Value value) {
  for (auto& [key, present] : variables) {
    if (key != name) continue;
    present = std::move(value);
    return;
  }
  variables.emplace_back(name, std::move(value));
}

absl::Status Interpreter::Depth::status() const {
  if (depth_ <= kEvaluationDepthMax) return absl::OkStatus();
  return Fault(absl::StrCat("evaluation is nested deeper than ", kEvaluationDepthMax, " levels"));
}

absl::StatusOr<std::string> Interpreter::Run(const Body& body,
                                             const nlohmann::ordered_json& context) {
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

absl::Status Interpreter::Write(std::string_view text) {
  if (static_cast<int64_t>(out_.size() + text.size()) > kTextBytesMax) {
    return Fault(absl::StrCat("the output is longer than ", kTextBytesMax, " bytes"));
  }
  RETURN_IF_ERROR(rendering_.budget.Bytes(static_cast<int64_t>(text.size())));
  out_ += text;
  return absl::OkStatus();
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunBody(const Body& body, Scope& scope) {
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

absl::StatusOr<Interpreter::Flow> Interpreter::RunInside(const Body& body, Scope& around) {
  Block block(*this, &around);
  return RunBody(body, block.scope());
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunStatement(const Statement& statement,
                                                            Scope& scope) {
  switch (statement.type) {
    case Statement::Type::kText:
      RETURN_IF_ERROR(Write(statement.text));
      break;
    case Statement::Type::kOutput:
      RETURN_IF_ERROR(RunOutput(statement, scope));
      break;
    case Statement::Type::kIf:
      return RunIf(statement, scope);
    case Statement::Type::kFor: {
      ASSIGN_OR_RETURN(const Value source, Evaluate(*statement.expression, scope));
      return RunFor(statement, source, /*level=*/0, scope);
    }
    case Statement::Type::kSet: {
      ASSIGN_OR_RETURN(Value value, Evaluate(*statement.expression, scope));
      RETURN_IF_ERROR(Assign(statement.targets[0], std::move(value), scope));
      break;
    }
    case Statement::Type::kSetBlock:
    case Statement::Type::kFilterBlock:
      return RunFiltered(statement, scope);
    case Statement::Type::kWith:
      return RunWith(statement, scope);
    case Statement::Type::kMacro: {
      ASSIGN_OR_RETURN(Value macro, MakeMacro(statement, scope));
      scope.Set(statement.text, std::move(macro));
      break;
    }
    case Statement::Type::kCallBlock:
      RETURN_IF_ERROR(RunCallBlock(statement, scope));
      break;
    case Statement::Type::kScope:
      return RunInside(statement.body, scope);
    case Statement::Type::kBlock:
      return RunInside(statement.body, statement.is_scoped ? scope : root_);
    case Statement::Type::kBreak:
      return Flow::kBreak;
    case Statement::Type::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

absl::Status Interpreter::RunOutput(const Statement& statement, Scope& scope) {
  ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expression, scope));
  if (const std::string* text = value.string()) return Write(*text);
  ASSIGN_OR_RETURN(const std::string text, ToText(rendering_.budget, value));
  return Write(text);
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunIf(const Statement& statement, Scope& scope) {
  for (const Statement::Branch& branch : statement.branches) {
    ASSIGN_OR_RETURN(const Value condition, Evaluate(*branch.condition, scope));
    if (Truthy(condition)) return RunBody(branch.body, scope);
  }
  return RunBody(statement.else_body, scope);
}

// Gives the value to a variable, or takes it apart.
absl::Status Interpreter::Assign(const Target& target, Value value, Scope& scope) {
  if (!target.attribute.empty()) return SetAttribute(target, std::move(value), scope);
  if (!target.unpacks) {
    scope.Set(target.name, std::move(value));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(std::vector<Value> values, Items(rendering_.budget, value));
  if (values.size() != target.parts.size()) {
    return Fault(
        absl::StrCat("expected ", target.parts.size(), " values to unpack, found ", values.size()));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    RETURN_IF_ERROR(Assign(target.parts[i], std::move(values[i]), scope));
  }
  return absl::OkStatus();
}

absl::Status Interpreter::SetAttribute(const Target& target, Value value, Scope& scope) {
  const Value holder = Lookup(target.name, scope);
  const auto* space = holder.As<Namespace*>();
  if (!space) {
    return Fault(absl::StrCat("'", target.name, "' is not a namespace: its attribute '",
                              target.attribute, "' cannot be set"));
  }
  for (auto& [name, present] : (*space)->attributes) {
    if (name != target.attribute) continue;
    present = std::move(value);
    return absl::OkStatus();
  }
  (*space)->attributes.emplace_back(target.attribute, std::move(value));
  return absl::OkStatus();
}

// The items of a for statement that its condition keeps.
absl::StatusOr<std::vector<Value>> Interpreter::ItemsToVisit(const Statement& statement,
                                                             const Value& source, Scope& scope) {
  ASSIGN_OR_RETURN(std::vector<Value> items, Items(rendering_.budget, source));
  if (!statement.condition) return items;
  std::vector<Value> kept;
  for (Value& item : items) {
    Block block(*this, &scope);
    RETURN_IF_ERROR(Assign(statement.targets[0], item, block.scope()));
    ASSIGN_OR_RETURN(const Value keep, Evaluate(*statement.condition, block.scope()));
    if (Truthy(keep)) kept.push_back(std::move(item));
  }
  return kept;
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunFor(const Statement& statement,
                                                      const Value& source, int level,
                                                      Scope& scope) {
  auto loop = std::make_shared<Loop>();
  ASSIGN_OR_RETURN(loop->items, ItemsToVisit(statement, source, scope));
  if (loop->items.empty()) return RunInside(statement.else_body, scope);
  loop->level = level;
  if (statement.is_recursive) loop->running = &statement;
  loop->scope = &scope;
  for (const Value& item : loop->items) loop->depth = std::max(loop->depth, item.depth() + 1);
  const auto visit = [&](const Value& item) -> absl::StatusOr<Flow> {
    RETURN_IF_ERROR(rendering_.budget.Steps(1));
    Block block(*this, &scope);
    RETURN_IF_ERROR(Assign(statement.targets[0], item, block.scope()));
    block.scope().Set("loop", Value(Value::Data(loop)));
    return RunBody(statement.body, block.scope());
  };
  absl::StatusOr<Flow> flow = Flow::kNext;
  for (; loop->index < static_cast<int64_t>(loop->items.size()); ++loop->index) {
    flow = visit(loop->items[static_cast<size_t>(loop->index)]);
    if (!flow.ok() || *flow == Flow::kBreak) break;
  }
  loop->running = nullptr;  // who keeps `loop` can call it no longer
  loop->changed.clear();    // may hold the loop itself
  RETURN_IF_ERROR(flow.status());
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunWith(const Statement& statement, Scope& scope) {
  Block block(*this, &scope);
  for (size_t i = 0; i < statement.targets.size(); ++i) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*statement.values[i], scope));
    RETURN_IF_ERROR(Assign(statement.targets[i], std::move(value), block.scope()));
  }
  return RunBody(statement.body, block.scope());
}

// What a body writes, as a string instead of output.
absl::StatusOr<Value> Interpreter::Capture(const Body& body, Scope& scope) {
  std::string outer = std::exchange(out_, "");
  const absl::StatusOr<Flow> flow = RunBody(body, scope);
  std::string text = std::exchange(out_, std::move(outer));
  RETURN_IF_ERROR(flow.status());
  captured_flow_ = *flow;
  return MakeString(rendering_.budget, std::move(text));
}

// A filter block writes what its filters make of its body; a set block assigns it.
absl::StatusOr<Interpreter::Flow> Interpreter::RunFiltered(const Statement& statement,
                                                           Scope& scope) {
  Block block(*this, &scope);
  ASSIGN_OR_RETURN(Value text, Capture(statement.body, block.scope()));
  if (captured_flow_ != Flow::kNext) return captured_flow_;
  captured_ = std::move(text);
  ASSIGN_OR_RETURN(Value value, Evaluate(*statement.expression, scope));
  if (statement.type == Statement::Type::kSetBlock) {
    RETURN_IF_ERROR(Assign(statement.targets[0], std::move(value), scope));
    return Flow::kNext;
  }
  ASSIGN_OR_RETURN(const std::string written, ToText(rendering_.budget, value));
  RETURN_IF_ERROR(Write(written));
  return Flow::kNext;
}

// The scopes that it sees are kept for as long as the rendering lasts.
absl::StatusOr<Value> Interpreter::MakeMacro(const Statement& statement, Scope& scope) {
  RETURN_IF_ERROR(rendering_.budget.Steps(kStepsPerMacro));
  for (Scope* at = &scope; at != nullptr && !at->is_kept; at = at->parent) at->is_kept = true;
  macros_.push_back(std::make_unique<Macro>(Macro{.statement = &statement, .scope = &scope}));
  return Value(Value::Data(static_cast<const Macro*>(macros_.back().get())));
}

absl::Status Interpreter::RunCallBlock(const Statement& statement, Scope& scope) {
  ASSIGN_OR_RETURN(const Value caller, MakeMacro(statement, scope));
  ASSIGN_OR_RETURN(const Value value, EvaluateCall(*statement.expression, &caller, scope));
  ASSIGN_OR_RETURN(const std::string text, ToText(rendering_.budget, value));
  return Write(text);
}

absl::StatusOr<std::string> RenderTemplate(const Body& body,
                                           const nlohmann::ordered_json& context) {
  if (!context.is_object()) {
    return absl::InvalidArgumentError("the context of a chat template must be a JSON object");
  }
  return Interpreter().Run(body, context);
}

}  // namespace chorale::jinja
