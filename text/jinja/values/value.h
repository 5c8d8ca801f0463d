// The values of a running chat template, as Python would have them.
//
// Strings, sequences and dictionaries are immutable and shared. A namespace is the only thing a
// template can change; it belongs to the rendering and is pointed to, so that values cannot form
// cycles of ownership. Every sequence knows how deep it is nested, and the depth is bounded:
// walking and destroying a value cannot exhaust the stack.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/json.h"
#include "text/jinja/values/big_integer.h"
#include "text/jinja/values/budget.h"

namespace chorale::jinja {

class Value;
struct Builtin;
struct Statement;
struct Scope;

struct Sequence {
  // The last three are what keys(), values() and items() of a mapping give.
  enum class Type { kList, kTuple, kGenerator, kRange, kKeys, kValues, kItems };
  Type type = Type::kList;
  std::vector<Value> items;
  int depth = 1;
  mutable size_t taken = 0;               // of a generator, which gives its items once
  int64_t start = 0, stop = 0, step = 1;  // of a range
  bool is_group = false;                  // of a tuple: of a key and a list, what groupby gives

  bool is_list() const { return type == Type::kList; }
  // Whether it has a place for each item: can be indexed and sliced.
  bool is_indexed() const {
    return type == Type::kList || type == Type::kTuple || type == Type::kRange;
  }
};

struct Dictionary {
  std::vector<std::pair<Value, Value>> entries;  // in the order of insertion
  int depth = 1;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
};

// The variable `loop` of a for statement.
struct Loop {
  std::vector<Value> items;
  int64_t index = 0;
  int depth = 1;                       // as of a sequence
  int level = 0;                       // how many loops call each other around it
  std::vector<Value> changed;          // what loop.changed() was asked last
  bool was_asked = false;              // changed() was
  const Statement* running = nullptr;  // of a recursive loop, until it has ended
  Scope* scope = nullptr;              // around it
};

// A macro, or the body of a call block, with what it sees. Belongs to the rendering.
struct Macro {
  const Statement* statement = nullptr;
  Scope* scope = nullptr;
};

// cycler(...) and joiner(...).
struct Cycler {
  std::vector<Value> items;
  size_t at = 0;
  bool is_joiner = false;
  int depth = 1;
};

// A function of a value, as in text.split before the call.
struct Method {
  std::shared_ptr<const Value> self;
  std::string name;
};

struct Undefined {
  std::shared_ptr<const std::string> reason;
};
struct None {};

class Value {
 public:
  using Text = std::shared_ptr<const std::string>;
  using Data = std::variant<Undefined, None, bool, int64_t, double, Text,
                            std::shared_ptr<const Sequence>, std::shared_ptr<const Dictionary>,
                            Namespace*, std::shared_ptr<Loop>, const Macro*, const Builtin*,
                            std::shared_ptr<const Method>, BigInteger, std::shared_ptr<Cycler>>;

  Value() = default;
  explicit Value(Data data) : data_(std::move(data)) {}
  static Value OfUndefined(std::string reason);
  static Value OfNone() { return Value(Data(None{})); }
  static Value OfBool(bool value) { return Value(Data(value)); }
  static Value OfInt(int64_t value) { return Value(Data(value)); }
  static Value OfFloat(double value) { return Value(Data(value)); }
  static Value OfString(std::string value);
  // Text that is escaped already: Markup of markupsafe.
  static Value OfMarkup(std::string value);
  // Settles down to 64 bits where it fits.
  static Value OfBig(const BigInteger& value);

  template <typename T>
  const T* As() const {
    return std::get_if<T>(&data_);
  }
  bool is_undefined() const { return As<Undefined>() != nullptr; }
  bool is_none() const { return As<None>() != nullptr; }
  const std::string* string() const;  // null: another type
  bool is_markup() const { return markup_; }
  const Sequence* sequence() const;      // list, tuple or generator; null: another type
  const Dictionary* dictionary() const;  // null: another type
  // Of 64 bits, or a boolean.
  bool is_integer() const { return As<int64_t>() || As<bool>(); }
  bool is_big() const { return As<BigInteger>() != nullptr; }
  bool is_number() const { return is_integer() || is_big() || As<double>(); }
  int64_t integer() const;  // needs is_integer()
  BigInteger big() const;   // needs is_integer() or is_big()
  double number() const;    // needs is_number()
  int depth() const;
  const char* type_name() const;
  const char* python_type() const;  // as Python's own errors name it

 private:
  Data data_;
  bool markup_ = false;  // of a string
};

// The integer that decimal digits show.
Value IntegerOf(std::string_view digits);

// Errors of a template at run time.
absl::Status Fault(std::string message);
absl::Status UndefinedFault(const Value& undefined);

// Containers; InvalidArgument when nested too deep.
absl::StatusOr<Value> MakeSequence(Budget& budget, std::vector<Value> items,
                                   Sequence::Type type = Sequence::Type::kList);
// A tuple of a key and a list, whose parts have the names grouper and list.
absl::StatusOr<Value> MakeGroup(Budget& budget, Value grouper, Value list);
// What range() gives; InvalidArgument for more numbers than the sandbox of Jinja2 allows.
absl::StatusOr<Value> MakeRange(Budget& budget, int64_t start, int64_t stop, int64_t step);
absl::StatusOr<Value> MakeDictionary(Budget& budget, std::vector<std::pair<Value, Value>> entries);
absl::StatusOr<Value> MakeString(Budget& budget, std::string text);
absl::StatusOr<Value> FromJson(const nlohmann::ordered_json& json, int depth = 0);

// The value of a key, or null.
const Value* FindKey(const Dictionary& dictionary, std::string_view key);
absl::StatusOr<const Value*> FindKey(Budget& budget, const Dictionary& dictionary,
                                     const Value& key);

bool Truthy(const Value& value);
absl::StatusOr<bool> Equal(Budget& budget, const Value& a, const Value& b);
// -1, 0 or 1, as a is below, at or above b; 2 for numbers without an order (NaN). InvalidArgument
// for types without one.
absl::StatusOr<int> Order(Budget& budget, const Value& a, const Value& b);
absl::StatusOr<bool> Contains(Budget& budget, const Value& container, const Value& item);
// The next item of a generator; nothing at its end.
std::optional<Value> TakeItem(const Sequence& generator);
// What a for statement visits: items, keys, characters; nothing for an undefined value.
absl::StatusOr<std::vector<Value>> Items(Budget& budget, const Value& value);

// str(value), repr(value), ascii(value) and json.dumps(value).
absl::StatusOr<std::string> ToText(Budget& budget, const Value& value);
absl::StatusOr<std::string> ToRepr(Budget& budget, const Value& value);
absl::StatusOr<std::string> ToAscii(Budget& budget, const Value& value);
struct JsonStyle {
  int64_t indent = -1;  // times indent_text a level; below zero: on one line
  std::string indent_text = " ";
  std::string item_separator;
  std::string key_separator = ": ";
  bool ascii_only = false;
  bool sort_keys = false;
};
absl::StatusOr<std::string> ToJson(Budget& budget, const Value& value, const JsonStyle& style);

}  // namespace chorale::jinja
