#include "model/jinja/operators.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace chorale::jinja {
namespace {

absl::Status WrongOperands(std::string_view operation, const Value& left, const Value& right) {
  return Fault(absl::StrCat("the operator '", std::string(operation), "' does not apply to '",
                            left.type_name(), "' and '", right.type_name(), "'"));
}

absl::Status Overflow() { return Fault("an integer exceeds 64 bits"); }

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

absl::StatusOr<Value> IntegerPower(int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) && __builtin_mul_overflow(result, base, &result)) return Overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return Overflow();
  }
  return Value::OfInt(result);
}

absl::StatusOr<Value> OnIntegers(std::string_view operation, int64_t a, int64_t b) {
  int64_t result = 0;
  if (operation == "+") {
    if (__builtin_add_overflow(a, b, &result)) return Overflow();
  } else if (operation == "-") {
    if (__builtin_sub_overflow(a, b, &result)) return Overflow();
  } else if (operation == "*") {
    if (__builtin_mul_overflow(a, b, &result)) return Overflow();
  } else if (operation == "**") {
    if (b >= 0) return IntegerPower(a, b);
    if (a == 0) return Fault("0 cannot be raised to a negative power");
    return Value::OfFloat(std::pow(static_cast<double>(a), static_cast<double>(b)));
  } else {
    if (b == 0) return Fault("division by zero");
    if (operation == "/") return Value::OfFloat(static_cast<double>(a) / static_cast<double>(b));
    if (b == -1) {
      if (operation == "%") return Value::OfInt(0);
      if (__builtin_sub_overflow(int64_t{0}, a, &result)) return Overflow();
      return Value::OfInt(result);
    }
    const bool rounds_down = a % b != 0 && (a < 0) != (b < 0);
    result = operation == "//" ? a / b - (rounds_down ? 1 : 0) : a % b + (rounds_down ? b : 0);
  }
  return Value::OfInt(result);
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
  if (left.is_integer() && right.is_integer()) {
    return OnIntegers(operation, left.integer(), right.integer());
  }
  if (left.is_number() && right.is_number()) {
    return OnFloats(operation, left.number(), right.number());
  }
  if (operation == "+" && left.string() && right.string()) {
    return MakeString(budget, absl::StrCat(*left.string(), *right.string()));
  }
  const auto repeatable = [](const Value& value) {
    return value.string() ||
           (value.sequence() && value.sequence()->type != Sequence::Type::kGenerator);
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
    return absl::UnimplementedError("string formatting by '%' is not supported");
  }
  return WrongOperands(operation, left, right);
}

absl::StatusOr<Value> Negative(const Value& value, bool negate) {
  if (value.is_undefined()) return UndefinedFault(value);
  if (value.is_integer()) {
    if (!negate) return Value::OfInt(value.integer());
    return OnIntegers("-", 0, value.integer());
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
