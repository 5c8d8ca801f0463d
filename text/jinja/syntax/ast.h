// The syntax tree of a chat template. Immutable once parsed.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/values/value.h"

namespace chorale::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<const Expression>;

struct Expression {
  enum class Type {
    kConstant,     // constant
    kName,         // text
    kList,         // operands
    kTuple,        // operands
    kDictionary,   // operands: key, value, key, value...
    kAttribute,    // operands[0] . text
    kIndex,        // operands[0] [ operands[1] ]
    kSlice,        // operands[0] [ operands[1] : [2] : [3] ], each of them may be null
    kCall,         // operands[0] ( operands[1...], named, *star, **double_star )
    kFilter,       // operands[0] | builtin ( operands[1...], named ); null: text is not known
    kTest,         // operands[0] is builtin ( operands[1...], named )
    kUnary,        // text: "-", "+" or "not"
    kBinary,       // text: + - * / // % ** ~ and or
    kCompare,      // operands[0] comparisons[0] operands[1] comparisons[1] ...
    kConditional,  // operands[0] if operands[1] else operands[2], which may be null
    kCaptured,     // what the body of a filter block or of a set block has written
  };
  Type type = Type::kConstant;
  int line = 1;
  int depth = 1;
  std::string text;
  Value constant;
  const Builtin* builtin = nullptr;
  std::vector<ExpressionPtr> operands;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr star;  // *value and **value of a call, filter or test; null: none
  ExpressionPtr double_star;
  std::vector<std::string> comparisons;  // == != < <= > >= in, not in
};

// What a for, set or with statement gives a value to: a variable, an attribute of a namespace, or
// several such.
struct Target {
  std::string name;       // of the variable, or of the namespace
  std::string attribute;  // empty: the variable itself
  bool unpacks = false;   // the value is taken apart, one for each of the parts
  std::vector<Target> parts;
};

struct Statement;
using Body = std::vector<std::unique_ptr<const Statement>>;

struct Statement {
  enum class Type {
    kText,         // text
    kOutput,       // expression
    kIf,           // branches; else_body
    kFor,          // targets[0] in expression if condition: body; else_body
    kSet,          // targets[0] = expression
    kSetBlock,     // targets[0] = expression, of what body writes
    kWith,         // targets = values: body
    kMacro,        // text (names = values): body
    kCallBlock,    // expression is a call; body, with names = values, is the macro's caller
    kFilterBlock,  // expression, of what body writes
    kScope,        // body, whose variables stay inside
    kBlock,        // the same; without is_scoped it sees the template's variables alone
    kBreak,
    kContinue,
  };
  struct Branch {
    ExpressionPtr condition;
    Body body;
  };
  Type type = Type::kText;
  int line = 1;
  std::string text;
  ExpressionPtr expression;
  ExpressionPtr condition;
  bool is_recursive = false;  // of a for statement: loop(items) runs it again
  bool is_scoped = false;     // of a block
  std::vector<Target> targets;
  std::vector<std::string> names;     // parameters
  std::vector<ExpressionPtr> values;  // one for each name or target; null: no default
  // Which of these a macro's body names, and so takes in.
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
  std::vector<Branch> branches;
  Body body;
  Body else_body;
};

}  // namespace chorale::jinja
