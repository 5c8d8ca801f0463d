// One rendering of a template: its variables, its output, and what it may still spend.
//
// statements.cc runs statements, expressions.cc evaluates expressions and calls macros.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/json.h"
#include "text/jinja/builtins.h"
#include "text/jinja/syntax/ast.h"
#include "text/jinja/values/value.h"

namespace chorale::jinja {

// The variables of one block. Those of the blocks around it are seen, but not changed.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string, Value>> variables = {};
  bool is_kept = false;  // a macro sees it, and may be called when its block has ended

  void Set(const std::string& name, Value value);
};

class Interpreter {
 public:
  // Once. `context` is an object.
  absl::StatusOr<std::string> Run(const Body& body, const nlohmann::ordered_json& context);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  class Block;
  class Depth;

  // statements.cc
  absl::Status Write(std::string_view text);
  absl::StatusOr<Flow> RunBody(const Body& body, Scope& scope);
  absl::StatusOr<Flow> RunStatement(const Statement& statement, Scope& scope);
  absl::StatusOr<Flow> RunInside(const Body& body, Scope& around);
  absl::Status RunOutput(const Statement& statement, Scope& scope);
  absl::StatusOr<Flow> RunIf(const Statement& statement, Scope& scope);
  absl::StatusOr<Flow> RunFor(const Statement& statement, const Value& source, int level,
                              Scope& scope);
  absl::StatusOr<std::vector<Value>> ItemsToVisit(const Statement& statement, const Value& source,
                                                  Scope& scope);
  absl::StatusOr<Flow> RunWith(const Statement& statement, Scope& scope);
  absl::StatusOr<Flow> RunFiltered(const Statement& statement, Scope& scope);
  absl::Status RunCallBlock(const Statement& statement, Scope& scope);
  absl::Status Assign(const Target& target, Value value, Scope& scope);
  absl::Status SetAttribute(const Target& target, Value value, Scope& scope);
  absl::StatusOr<Value> Capture(const Body& body, Scope& scope);
  absl::StatusOr<Value> MakeMacro(const Statement& statement, Scope& scope);

  // expressions.cc
  Value Lookup(const std::string& name, const Scope& scope) const;
  absl::StatusOr<Value> Evaluate(const Expression& node, Scope& scope);
  absl::StatusOr<Value> EvaluateOnFirst(const Expression& node, const Value& first, Scope& scope);
  absl::StatusOr<Value> EvaluateBinary(const Expression& node, const Value& left, Scope& scope);
  absl::StatusOr<Value> EvaluateCompare(const Expression& node, Scope& scope);
  absl::StatusOr<Value> EvaluateSequence(const Expression& node, Scope& scope);
  absl::StatusOr<Value> EvaluateDictionary(const Expression& node, Scope& scope);
  absl::StatusOr<Value> EvaluateSlice(const Expression& node, Scope& scope);
  absl::StatusOr<Arguments> EvaluateArguments(const Expression& node, Scope& scope);
  absl::StatusOr<Value> EvaluateCall(const Expression& node, const Value* caller, Scope& scope);
  absl::StatusOr<Value> Call(const Value& callee, Arguments arguments);
  absl::StatusOr<Value> CallMacro(const Macro& macro, Arguments arguments);
  absl::Status BindParameters(const Statement& macro, Arguments arguments, Scope& inner);
  absl::StatusOr<Value> CallLoop(Loop& loop, const Arguments& arguments);

  Rendering rendering_;  // outlives the variables, which may point to its namespaces
  std::vector<std::unique_ptr<Macro>> macros_;
  std::vector<std::unique_ptr<Scope>> kept_;  // scopes of blocks that have ended
  Scope context_;
  Scope root_;
  Value captured_;  // kCaptured
  std::string out_;
  Flow captured_flow_ = Flow::kNext;
  int depth_ = 0;
  int line_ = 1;
};

// The scope of a block for as long as it runs.
class Interpreter::Block {
 public:
  Block(Interpreter& interpreter, Scope* parent)
      : interpreter_(interpreter), scope_(std::make_unique<Scope>(Scope{.parent = parent})) {}
  ~Block() {
    if (scope_->is_kept) interpreter_.kept_.push_back(std::move(scope_));
  }
  Scope& scope() { return *scope_; }

 private:
  Interpreter& interpreter_;
  std::unique_ptr<Scope> scope_;
};

// One level of evaluation for as long as it lives.
class Interpreter::Depth {
 public:
  explicit Depth(int& depth) : depth_(depth) { ++depth_; }
  ~Depth() { --depth_; }
  absl::Status status() const;

 private:
  int& depth_;
};

}  // namespace chorale::jinja
