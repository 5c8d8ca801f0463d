// The tests and functions, and how arguments find their parameters.

#include "text/jinja/builtins.h"

#include <algorithm>
#include <array>
#include <span>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/values/operators.h"
#include "text/jinja/values/text.h"

namespace chorale::jinja {
namespace {

constexpr int64_t kStepsPerNamespace = 16;

template <bool (*kPredicate)(const Value&)>
absl::StatusOr<Value> Is(Rendering&, const Bound& bound) {
  return Value::OfBool(kPredicate(*bound.self));
}

bool IsDefined(const Value& v) { return !v.is_undefined(); }
bool IsUndefined(const Value& v) { return v.is_undefined(); }
bool IsNone(const Value& v) { return v.is_none(); }
bool IsString(const Value& v) { return v.string() != nullptr; }
bool IsMapping(const Value& v) { return v.dictionary() != nullptr; }
bool IsIterable(const Value& v) {
  return v.is_undefined() || v.string() || v.sequence() || v.dictionary() ||
         v.As<std::shared_ptr<Loop>>();
}
bool IsSequence(const Value& v) {
  return v.is_undefined() || v.string() || v.dictionary() ||
         (v.sequence() && v.sequence()->is_indexed());
}
bool IsNumber(const Value& v) { return v.is_number(); }
bool IsInteger(const Value& v) { return v.As<int64_t>() || v.is_big(); }
bool IsEscaped(const Value& v) { return v.is_markup(); }
bool IsFilter(const Value& v) { return v.string() && FindFilter(*v.string()); }
bool IsTest(const Value& v) { return v.string() && FindTest(*v.string()); }
bool IsFloat(const Value& v) { return v.As<double>() != nullptr; }
bool IsBoolean(const Value& v) { return v.As<bool>() != nullptr; }
bool IsTrue(const Value& v) { return v.As<bool>() && *v.As<bool>(); }
bool IsFalse(const Value& v) { return v.As<bool>() && !*v.As<bool>(); }
bool IsCallable(const Value& v) {
  const auto* cycler = v.As<std::shared_ptr<Cycler>>();
  // Python can call an undefined value too, to be told what it is.
  return v.is_undefined() || v.As<const Builtin*>() || v.As<const Macro*>() ||
         v.As<std::shared_ptr<Loop>>() || v.As<std::shared_ptr<const Method>>() ||
         (cycler && (*cycler)->is_joiner);
}

// Whether both are one object: of values that have no place of their own, equal ones of one type.
absl::StatusOr<Value> IsSame(Rendering& r, const Bound& bound) {
  const Value& a = *bound.self;
  const Value& b = bound[0];
  if (std::string_view(a.type_name()) != b.type_name()) return Value::OfBool(false);
  if (a.sequence()) return Value::OfBool(a.sequence() == b.sequence());
  if (a.dictionary()) return Value::OfBool(a.dictionary() == b.dictionary());
  ASSIGN_OR_RETURN(const bool same, Equal(r.budget, a, b));
  return Value::OfBool(same);
}

enum class Comparison { kEq, kNe, kLt, kLe, kGt, kGe, kIn };

template <Comparison kComparison>
absl::StatusOr<Value> Compares(Rendering& r, const Bound& bound) {
  static constexpr std::string_view kTexts[] = {"==", "!=", "<", "<=", ">", ">=", "in"};
  ASSIGN_OR_RETURN(const bool holds, Compare(r.budget, kTexts[static_cast<size_t>(kComparison)],
                                             *bound.self, bound[0]));
  return Value::OfBool(holds);
}

// Whether the value is a multiple of `divisor`, plus `remainder`.
absl::StatusOr<Value> Divides(Rendering& r, const Value& value, const Value& divisor,
                              int64_t remainder) {
  ASSIGN_OR_RETURN(const Value rest, Arithmetic(r.budget, "%", value, divisor));
  ASSIGN_OR_RETURN(const bool equal, Equal(r.budget, rest, Value::OfInt(remainder)));
  return Value::OfBool(equal);
}

absl::StatusOr<Value> IsEven(Rendering& r, const Bound& bound) {
  return Divides(r, *bound.self, Value::OfInt(2), 0);
}
absl::StatusOr<Value> IsOdd(Rendering& r, const Bound& bound) {
  return Divides(r, *bound.self, Value::OfInt(2), 1);
}
absl::StatusOr<Value> IsDivisibleBy(Rendering& r, const Bound& bound) {
  return Divides(r, *bound.self, bound[0], 0);
}

template <bool kUpper>
absl::StatusOr<Value> IsCase(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::string text, ToText(r.budget, *bound.self));
  bool any = false;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    const uint32_t c = CodePointAt(text, at);
    if (Is(kUpper ? CharacterKind::kLower : CharacterKind::kUpper, c) ||
        Is(CharacterKind::kTitle, c)) {
      return Value::OfBool(false);
    }
    any |= Is(kUpper ? CharacterKind::kUpper : CharacterKind::kLower, c);
  }
  return Value::OfBool(any);
}

absl::StatusOr<Value> Range(Rendering& r, const Bound& bound) {
  for (size_t i = 0; i < 3; ++i) {
    if (bound.has(i) && !bound[i].is_integer()) return Fault("range() takes integers");
  }
  const bool one = !bound.has(1);
  const int64_t start = one ? 0 : bound[0].integer();
  const int64_t stop = one ? bound[0].integer() : bound[1].integer();
  return MakeRange(r.budget, start, stop, bound.has(2) ? bound[2].integer() : 1);
}

absl::StatusOr<Value> MakeCycler(Rendering& r, const Bound& bound) {
  if (bound.rest.positional.empty() || !bound.rest.named.empty()) {
    return Fault("cycler() needs values to choose from");
  }
  RETURN_IF_ERROR(r.budget.Steps(static_cast<int64_t>(bound.rest.positional.size())));
  auto cycler = std::make_shared<Cycler>();
  cycler->items = bound.rest.positional;
  for (const Value& item : cycler->items) {
    cycler->depth = std::max(cycler->depth, item.depth() + 1);
  }
  if (cycler->depth > kValueDepthMax) return Fault("a cycler's values are nested too deep");
  return Value(Value::Data(std::move(cycler)));
}

absl::StatusOr<Value> MakeJoiner(Rendering&, const Bound& bound) {
  auto joiner = std::make_shared<Cycler>();
  joiner->is_joiner = true;
  joiner->items = {bound.has(0) ? bound[0] : Value::OfString(", ")};
  joiner->depth = joiner->items[0].depth() + 1;
  if (joiner->depth > kValueDepthMax) return Fault("a joiner's value is nested too deep");
  return Value(Value::Data(std::move(joiner)));
}

// The entries of namespace(...) and dict(...): of a mapping, then the named arguments.
absl::StatusOr<std::vector<std::pair<Value, Value>>> NamedEntries(const Bound& bound) {
  std::vector<std::pair<Value, Value>> entries;
  if (bound.rest.positional.size() > 1) return Fault("expected one mapping at most");
  if (!bound.rest.positional.empty()) {
    const Value& from = bound.rest.positional[0];
    if (const Dictionary* dictionary = from.dictionary()) {
      entries = dictionary->entries;
    } else {
      Budget budget;  // of pairs that are there already
      ASSIGN_OR_RETURN(const std::vector<Value> pairs, Items(budget, from));
      for (const Value& item : pairs) {
        ASSIGN_OR_RETURN(std::vector<Value> pair, Items(budget, item));
        if (pair.size() != 2) return Fault("expected a mapping, or pairs");
        entries.emplace_back(std::move(pair[0]), std::move(pair[1]));
      }
    }
  }
  for (const auto& [name, value] : bound.rest.named) {
    entries.emplace_back(Value::OfString(name), value);
  }
  return entries;
}

absl::StatusOr<Value> MakeNamespace(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(auto entries, NamedEntries(bound));
  ASSIGN_OR_RETURN(const Value unique, MakeDictionary(r.budget, std::move(entries)));
  RETURN_IF_ERROR(r.budget.Steps(kStepsPerNamespace));
  auto space = std::make_unique<Namespace>();
  for (const auto& [key, value] : unique.dictionary()->entries) {
    if (!key.string()) return Fault("the names in a namespace are strings");
    space->attributes.emplace_back(*key.string(), value);
  }
  r.namespaces.push_back(std::move(space));
  return Value(Value::Data(r.namespaces.back().get()));
}

absl::StatusOr<Value> Dict(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(auto entries, NamedEntries(bound));
  return MakeDictionary(r.budget, std::move(entries));
}

absl::StatusOr<Value> RaiseException(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(std::string message, ToText(r.budget, bound[0]));
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kRaisedByTemplate, absl::Cord());
  return status;
}

absl::StatusOr<Value> StrftimeNow(Rendering& r, const Bound& bound) {
  if (!r.current_time_unix) {
    return Fault(
        "strftime_now needs the variable 'current_time_unix' in the context: seconds since 1970");
  }
  if (!bound[0].string()) return Fault("strftime_now takes a string");
  ASSIGN_OR_RETURN(std::string text, FormatTime(*bound[0].string(), *r.current_time_unix));
  return MakeString(r.budget, std::move(text));
}

template <typename Table>
const Builtin* Find(const Table& table, std::string_view name) {
  const auto found = std::find_if(table.begin(), table.end(),
                                  [&](const Builtin& builtin) { return builtin.name == name; });
  return found == table.end() ? nullptr : &*found;
}

absl::StatusOr<Value> FromKeys(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(std::vector<Value> keys, Items(r.budget, bound[0]));
  const Value value = bound.has(1) ? bound[1] : Value::OfNone();
  std::vector<std::pair<Value, Value>> entries;
  for (Value& key : keys) entries.emplace_back(std::move(key), value);
  return MakeDictionary(r.budget, std::move(entries));
}

absl::Status BindNamed(const Builtin& builtin, Arguments& arguments, Bound& bound) {
  for (auto& [name, value] : arguments.named) {
    const auto found = std::find(builtin.parameters.begin(), builtin.parameters.end(), name);
    const auto slot = static_cast<size_t>(found - builtin.parameters.begin());
    if (found == builtin.parameters.end() || bound.slots[slot]) {
      return Fault(absl::StrCat("'", std::string(builtin.name), "' does not take the argument '",
                                name, "' here"));
    }
    bound.slots[slot] = std::move(value);
  }
  for (size_t i = 0; i < builtin.required; ++i) {
    if (bound.slots[i]) continue;
    return Fault(absl::StrCat("'", std::string(builtin.name), "' needs the argument '",
                              std::string(builtin.parameters[i]), "'"));
  }
  return absl::OkStatus();
}

}  // namespace

const Builtin* FindTest(std::string_view name) {
  using C = Comparison;
  static const std::array kTests = {
      Builtin{"boolean", &Is<&IsBoolean>},
      Builtin{"callable", &Is<&IsCallable>},
      Builtin{"defined", &Is<&IsDefined>},
      Builtin{"divisibleby", &IsDivisibleBy, {"num"}, 1},
      Builtin{"eq", &Compares<C::kEq>, {"other"}, 1, false, true},
      Builtin{"==", &Compares<C::kEq>, {"other"}, 1, false, true},
      Builtin{"equalto", &Compares<C::kEq>, {"other"}, 1, false, true},
      Builtin{"escaped", &Is<&IsEscaped>},
      Builtin{"even", &IsEven},
      Builtin{"false", &Is<&IsFalse>},
      Builtin{"filter", &Is<&IsFilter>},
      Builtin{"float", &Is<&IsFloat>},
      Builtin{"ge", &Compares<C::kGe>, {"other"}, 1, false, true},
      Builtin{">=", &Compares<C::kGe>, {"other"}, 1, false, true},
      Builtin{"greaterthan", &Compares<C::kGt>, {"other"}, 1, false, true},
      Builtin{"gt", &Compares<C::kGt>, {"other"}, 1, false, true},
      Builtin{">", &Compares<C::kGt>, {"other"}, 1, false, true},
      Builtin{"in", &Compares<C::kIn>, {"seq"}, 1},
      Builtin{"integer", &Is<&IsInteger>},
      Builtin{"iterable", &Is<&IsIterable>},
      Builtin{"le", &Compares<C::kLe>, {"other"}, 1, false, true},
      Builtin{"<=", &Compares<C::kLe>, {"other"}, 1, false, true},
      Builtin{"lessthan", &Compares<C::kLt>, {"other"}, 1, false, true},
      Builtin{"lower", &IsCase<false>},
      Builtin{"lt", &Compares<C::kLt>, {"other"}, 1, false, true},
      Builtin{"<", &Compares<C::kLt>, {"other"}, 1, false, true},
      Builtin{"mapping", &Is<&IsMapping>},
      Builtin{"ne", &Compares<C::kNe>, {"other"}, 1, false, true},
      Builtin{"!=", &Compares<C::kNe>, {"other"}, 1, false, true},
      Builtin{"none", &Is<&IsNone>},
      Builtin{"number", &Is<&IsNumber>},
      Builtin{"odd", &IsOdd},
      Builtin{"sameas", &IsSame, {"other"}, 1},
      Builtin{"sequence", &Is<&IsSequence>},
      Builtin{"string", &Is<&IsString>},
      Builtin{"test", &Is<&IsTest>},
      Builtin{"true", &Is<&IsTrue>},
      Builtin{"undefined", &Is<&IsUndefined>},
      Builtin{"upper", &IsCase<true>},
  };
  return Find(kTests, name);
}

const Builtin* FindFunction(std::string_view name) {
  static const std::array kFunctions = {
      Builtin{"cycler", &MakeCycler, {}, 0, true},
      Builtin{"dict", &Dict, {}, 0, true},
      Builtin{"joiner", &MakeJoiner, {"sep"}},
      Builtin{"namespace", &MakeNamespace, {}, 0, true},
      Builtin{"raise_exception", &RaiseException, {"message"}, 1},
      Builtin{"range", &Range, {"start", "stop", "step"}, 1, false, true},
      Builtin{"strftime_now", &StrftimeNow, {"format"}, 1},
  };
  return Find(kFunctions, name);
}

const Builtin& DictFromKeys() {
  static const Builtin kFromKeys = {"fromkeys", &FromKeys,          {"iterable", "value"},
                                    1,          /*variadic=*/false, /*by_place=*/true};
  return kFromKeys;
}

absl::StatusOr<Value> RunBuiltin(Rendering& rendering, const Builtin& builtin, const Value* self,
                                 Arguments arguments) {
  RETURN_IF_ERROR(rendering.budget.Steps(1));
  if (builtin.by_place && !arguments.named.empty()) {
    return Fault(absl::StrCat("'", std::string(builtin.name), "' takes no arguments by name"));
  }
  Bound bound;
  bound.self = self;
  if (builtin.variadic) {
    bound.rest = std::move(arguments);
    return builtin.run(rendering, bound);
  }
  if (arguments.positional.size() > builtin.parameters.size()) {
    return Fault(absl::StrCat("'", std::string(builtin.name), "' takes at most ",
                              builtin.parameters.size(), " arguments, not ",
                              arguments.positional.size()));
  }
  bound.slots.resize(builtin.parameters.size());
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    bound.slots[i] = std::move(arguments.positional[i]);
  }
  RETURN_IF_ERROR(BindNamed(builtin, arguments, bound));
  return builtin.run(rendering, bound);
}

}  // namespace chorale::jinja
