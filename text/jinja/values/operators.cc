#include "text/jinja/values/operators.h"

#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/values/format.h"
#include "text/jinja/values/text.h"

namespace chorale::jinja {
namespace {

using Type = Sequence::Type;

absl::Status WrongOperands(std::string_view operation, const Value& left, const Value& right) {
  return Fault(absl::StrCat("the operator '", std::string(operation), "' does not apply to '",
                            left.type_name(), "' and '", right.type_name(), "'"));
}

absl::StatusOr<Value> Repeat(Budget& budget, const Value& value, int64_t times) {
  if (times < 0) times = 0;
  if (const std::string* text = value.string()) {
    const auto size = static_cast<int64_t>(text->size());
    if (size > 0 && times > kTextBytesMax / size) {
      return Fault(absl::StrCat("a repeated string is longer than ", kTextBytesMax, " bytes"));
    }
    std::string result;
    if (size > 0) {
      result.reserve(static_cast<size_t>(size * times));
      for (int64_t i = 0; i < times; ++i) result += *text;
    }
    return MakeString(budget, std::move(result));
  }
  const Sequence& sequence = *value.sequence();
  const auto size = static_cast<int64_t>(sequence.items.size());
  if (size > 0 && times > kStepsMax / size) return budget.Steps(kStepsMax + 1);
  RETURN_IF_ERROR(budget.Steps(size * times));
  std::vector<Value> items;
  for (int64_t i = 0; size > 0 && i < times; ++i) {
    items.insert(items.end(), sequence.items.begin(), sequence.items.end());
  }
  return MakeSequence(budget, std::move(items), sequence.type);
}

// Of integers of 64 bits, where the result is one too.
std::optional<int64_t> OnSmallIntegers(std::string_view operation, int64_t a, int64_t b) {
  int64_t result = 0;
  if (operation == "+" && !__builtin_add_overflow(a, b, &result)) return result;
  if (operation == "-" && !__builtin_sub_overflow(a, b, &result)) return result;
  if (operation == "*" && !__builtin_mul_overflow(a, b, &result)) return result;
  if ((operation != "//" && operation != "%") || b == 0 || b == -1) return std::nullopt;
  const bool rounds_down = a % b != 0 && (a < 0) != (b < 0);
  return operation == "//" ? a / b - (rounds_down ? 1 : 0) : a % b + (rounds_down ? b : 0);
}

absl::StatusOr<Value> OnFloats(std::string_view operation, double a, double b);

absl::StatusOr<Value> OnIntegers(Budget& budget, std::string_view operation, const Value& a,
                                 const Value& b) {
  if (operation == "/") {
    const double quotient = a.number() / b.number();
    if (b.number() != 0 && !std::isfinite(quotient)) {
      return Fault("integers are too large to be divided");
    }
    return OnFloats(operation, a.number(), b.number());
  }
  if (a.is_integer() && b.is_integer()) {
    if (const auto small = OnSmallIntegers(operation, a.integer(), b.integer())) {
      return Value::OfInt(*small);
    }
  }
  if (operation == "**" && b.number() < 0) {
    if (a.number() == 0) return Fault("0 cannot be raised to a negative power");
    return Value::OfFloat(std::pow(a.number(), b.number()));
  }
  RETURN_IF_ERROR(budget.Bytes(kIntegerBitsMax));
  ASSIGN_OR_RETURN(const BigInteger result, BigInteger::Apply(operation, a.big(), b.big()));
  return Value::OfBig(result);
}

absl::StatusOr<Value> OnFloats(std::string_view operation, double a, double b) {
  if (operation == "+") return Value::OfFloat(a + b);
  if (operation == "-") return Value::OfFloat(a - b);
  if (operation == "*") return Value::OfFloat(a * b);
  if (operation == "**") {
    const double result = std::pow(a, b);
    if (std::isfinite(a) && std::isfinite(b) && !std::isfinite(result)) {
      return Fault("a power exceeds the range of floating point");
    }
    return Value::OfFloat(result);
  }
  if (b == 0) return Fault("division by zero");
  if (operation == "/") return Value::OfFloat(a / b);
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (operation == "%") return Value::OfFloat(remainder);
  return Value::OfFloat(std::round((a - remainder) / b));
}

// Text beside text that is escaped is escaped too.
absl::StatusOr<Value> AddStrings(Budget& budget, const Value& left, const Value& right) {
  const bool markup = left.is_markup() || right.is_markup();
  const auto text = [&](const Value& value) {
    return markup && !value.is_markup() ? EscapeHtml(*value.string()) : *value.string();
  };
  ASSIGN_OR_RETURN(const Value sum, MakeString(budget, absl::StrCat(text(left), text(right))));
  return markup ? Value::OfMarkup(*sum.string()) : sum;
}

}  // namespace

absl::StatusOr<Value> Arithmetic(Budget& budget, std::string_view operation, const Value& left,
                                 const Value& right) {
  if (operation == "~") {
    ASSIGN_OR_RETURN(std::string text, ToText(budget, left));
    ASSIGN_OR_RETURN(const std::string end, ToText(budget, right));
    text += end;
    return MakeString(budget, std::move(text));
  }
  if (left.is_undefined()) return UndefinedFault(left);
  if (right.is_undefined()) return UndefinedFault(right);
  const auto whole = [](const Value& value) { return value.is_integer() || value.is_big(); };
  if (whole(left) && whole(right)) return OnIntegers(budget, operation, left, right);
  if (left.is_number() && right.is_number()) {
    return OnFloats(operation, left.number(), right.number());
  }
  if (operation == "+" && left.string() && right.string()) return AddStrings(budget, left, right);
  const auto repeatable = [](const Value& value) {
    return value.string() || (value.sequence() && (value.sequence()->is_list() ||
                                                   value.sequence()->type == Type::kTuple));
  };
  if (operation == "+" && left.sequence() && right.sequence() && repeatable(left) &&
      left.sequence()->type == right.sequence()->type) {
    std::vector<Value> items = left.sequence()->items;
    RETURN_IF_ERROR(budget.Steps(static_cast<int64_t>(items.size())));
    items.insert(items.end(), right.sequence()->items.begin(), right.sequence()->items.end());
    return MakeSequence(budget, std::move(items), left.sequence()->type);
  }
  if (operation == "*" && repeatable(left) && right.is_integer()) {
    return Repeat(budget, left, right.integer());
  }
  if (operation == "*" && repeatable(right) && left.is_integer()) {
    return Repeat(budget, right, left.integer());
  }
  if (operation == "%" && left.string()) {
    return FormatPercent(budget, *left.string(), right);
  }
  return WrongOperands(operation, left, right);
}

absl::StatusOr<Value> Negative(const Value& value, bool negate) {
  if (value.is_undefined()) return UndefinedFault(value);
  if (value.is_integer() || value.is_big()) {
    Budget budget;
    return OnIntegers(budget, negate ? "-" : "+", Value::OfInt(0), value);
  }
  if (!value.is_number()) {
    return Fault(absl::StrCat("a sign does not apply to '", value.type_name(), "'"));
  }
  return Value::OfFloat(negate ? -value.number() : value.number());
}

absl::StatusOr<bool> Compare(Budget& budget, std::string_view comparison, const Value& left,
                             const Value& right) {
  if (comparison == "==" || comparison == "!=") {
    ASSIGN_OR_RETURN(const bool equal, Equal(budget, left, right));
    return equal == (comparison == "==");
  }
  if (comparison == "in" || comparison == "not in") {
    ASSIGN_OR_RETURN(const bool contained, Contains(budget, right, left));
    return contained == (comparison == "in");
  }
  const auto is_nan = [](const Value& v) { return v.As<double>() && std::isnan(*v.As<double>()); };
  if (left.is_number() && right.is_number() && (is_nan(left) || is_nan(right))) return false;
  ASSIGN_OR_RETURN(const int order, Order(budget, left, right));
  if (comparison == "<") return order < 0;
  if (comparison == "<=") return order <= 0;
  if (comparison == ">") return order > 0;
  return order >= 0;
}

}  // namespace chorale::jinja
