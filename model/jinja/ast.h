// The syntax tree of a chat template. Immutable once parsed.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/jinja/value.h"

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
    kCall,         // operands[0] ( operands[1...], named )
    kFilter,       // operands[0] | builtin ( operands[1...], named )
    kTest,         // operands[0] is builtin ( operands[1...], named )
    kUnary,        // text: "-", "+" or "not"
    kBinary,       // text: + - * / // % ** ~ and or
    kCompare,      // operands[0] comparisons[0] operands[1] comparisons[1] ...
    kConditional,  // operands[0] if operands[1] else operands[2], which may be null
  };
  Type type = Type::kConstant;
  int line = 1;
  int depth = 1;
  std::string text;
  Value constant;
  const Builtin* builtin = nullptr;
  std::vector<ExpressionPtr> operands;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  std::vector<std::string> comparisons;  // == != < <= > >= in, not in
};

struct Statement;
using Body = std::vector<std::unique_ptr<const Statement>>;

struct Statement {
  enum class Type {
    kText,      // text
    kOutput,    // expression
    kIf,        // branches; else_body
    kFor,       // names in expression if condition: body; else_body
    kSet,       // names = expression, or name.attribute = expression
    kSetBlock,  // name = rendered body
    kMacro,     // text (names = defaults): body
    kScope,     // body, whose variables stay inside
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
  std::vector<std::string> names;  // more than one or `unpacks`: the value is taken apart
  bool unpacks = false;
  std::string attribute;
  std::vector<ExpressionPtr> defaults;  // one for each name; null: none
  std::vector<Branch> branches;
  Body body;
  Body else_body;
};

}  // namespace chorale::jinja
