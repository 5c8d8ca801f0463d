// The filters of numbers and of any value, and how filters are found.

#include "text/jinja/filters.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "text/jinja/values/operators.h"
#include "text/jinja/values/text.h"

namespace chorale::jinja {
namespace {

// Of a text in any base, within kIntegerBitsMax.
constexpr size_t kIntegerDigitsMax = 600;

std::string WithoutUnderscores(std::string_view digits) {
  std::string plain;
  for (size_t i = 0; i < digits.size(); ++i) {
    const bool between = i > 0 && i + 1 < digits.size() && absl::ascii_isalnum(digits[i - 1]) &&
                         absl::ascii_isalnum(digits[i + 1]);
    if (digits[i] != '_' || !between) plain += digits[i];
  }
  return plain;
}

absl::StatusOr<Value> Length(Rendering&, const Bound& bound) {
  const Value& value = *bound.self;
  if (value.is_undefined()) return Value::OfInt(0);
  if (const std::string* text = value.string()) return Value::OfInt(CharacterCount(*text));
  if (const Dictionary* dictionary = value.dictionary()) {
    return Value::OfInt(static_cast<int64_t>(dictionary->entries.size()));
  }
  if (const auto* loop = value.As<std::shared_ptr<Loop>>()) {
    return Value::OfInt(static_cast<int64_t>((*loop)->items.size()));
  }
  const Sequence* sequence = value.sequence();
  if (sequence && sequence->type != Sequence::Type::kGenerator) {
    return Value::OfInt(static_cast<int64_t>(sequence->items.size()));
  }
  return WrongSubject("length", value);
}

absl::StatusOr<Value> Default(Rendering&, const Bound& bound) {
  const bool any_false = bound.has(1) && Truthy(bound[1]);
  if (!bound.self->is_undefined() && !(any_false && !Truthy(*bound.self))) return *bound.self;
  return bound.has(0) ? bound[0] : Value::OfString("");
}

absl::StatusOr<Value> Entries(Rendering& r, const Bound& bound) {
  std::vector<Value> items;
  if (const Dictionary* dictionary = bound.self->dictionary()) {
    for (const auto& [key, value] : dictionary->entries) {
      ASSIGN_OR_RETURN(Value pair, MakeSequence(r.budget, {key, value}, Sequence::Type::kTuple));
      items.push_back(std::move(pair));
    }
  } else if (!bound.self->is_undefined()) {
    return WrongSubject("items", *bound.self);
  }
  return MakeSequence(r.budget, std::move(items), Sequence::Type::kGenerator);
}

// The number that a text shows in Python's notation, if it does.
std::optional<double> NumberIn(const std::string& text) {
  const std::string plain = WithoutUnderscores(Strip(text, nullptr, true, true));
  if (plain.find_first_of("xXpP_") != std::string::npos) return std::nullopt;
  double number = 0;
  if (!absl::SimpleAtod(plain, &number)) return std::nullopt;
  return number;
}

// What int(text, base) gives, if it does. The base's prefix may stand before the digits; of base 0
// it says the base.
std::optional<Value> IntegerIn(const std::string& text, int64_t base) {
  std::string plain = WithoutUnderscores(Strip(text, nullptr, true, true));
  if (base != 0 && (base < 2 || base > 36)) return std::nullopt;
  if (base == 10) {
    const std::optional<BigInteger> value = BigInteger::Parse(plain);
    return value ? std::optional(Value::OfBig(*value)) : std::nullopt;
  }
  const bool negative = !plain.empty() && plain[0] == '-';
  if (!plain.empty() && (plain[0] == '-' || plain[0] == '+')) plain.erase(0, 1);
  const std::string prefix = absl::AsciiStrToLower(plain.substr(0, 2));
  if (base == 0) {
    base = prefix == "0x" ? 16 : prefix == "0o" ? 8 : prefix == "0b" ? 2 : 10;
    const bool zeros = plain.find_first_not_of('0') == std::string::npos;
    if (base == 10 && !zeros && plain[0] == '0') return std::nullopt;
  }
  if ((base == 16 && prefix == "0x") || (base == 8 && prefix == "0o") ||
      (base == 2 && prefix == "0b")) {
    plain.erase(0, 2);
  }
  if (plain.empty() || plain.size() > kIntegerDigitsMax) return std::nullopt;
  BigInteger value = BigInteger::Of(0);
  for (const char c : plain) {
    const int digit = absl::ascii_isdigit(c)   ? c - '0'
                      : absl::ascii_isalpha(c) ? absl::ascii_tolower(c) - 'a' + 10
                                               : 99;
    if (digit >= base) return std::nullopt;
    value = *BigInteger::Apply("*", value, BigInteger::Of(base));
    value = *BigInteger::Apply("+", value, BigInteger::Of(digit));
  }
  return Value::OfBig(negative ? *BigInteger::Apply("-", BigInteger::Of(0), value) : value);
}

absl::StatusOr<Value> Int(Rendering&, const Bound& bound) {
  const Value& value = *bound.self;
  const Value otherwise = bound.has(0) ? bound[0] : Value::OfInt(0);
  int64_t base = 10;
  if (bound.has(1)) {
    ASSIGN_OR_RETURN(base, IntegerSlot(bound, 1, "base"));
  }
  if (value.is_undefined()) return UndefinedFault(value);
  if (value.is_integer()) return Value::OfInt(value.integer());
  if (value.is_big()) return value;
  double number = 0;
  if (const std::string* text = value.string()) {
    if (const std::optional<Value> integer = IntegerIn(*text, base)) return *integer;
    const std::optional<double> shown = NumberIn(*text);
    if (!shown) return otherwise;
    number = *shown;
  } else if (value.is_number()) {
    number = value.number();
  } else {
    return otherwise;
  }
  if (!std::isfinite(number)) return otherwise;
  if (std::abs(number) < 9.2e18) return Value::OfInt(static_cast<int64_t>(number));
  const std::string digits = absl::StrFormat("%.0f", number);
  const std::optional<BigInteger> big = BigInteger::Parse(digits);
  if (!big) return Fault("a float is too large for an integer");
  return Value::OfBig(*big);
}

absl::StatusOr<Value> Float(Rendering&, const Bound& bound) {
  const Value& value = *bound.self;
  if (value.is_undefined()) return UndefinedFault(value);
  if (value.is_number()) return Value::OfFloat(value.number());
  if (value.string()) {
    if (const std::optional<double> number = NumberIn(*value.string())) {
      return Value::OfFloat(*number);
    }
  }
  return bound.has(0) ? bound[0] : Value::OfFloat(0);
}

absl::StatusOr<Value> Abs(Rendering&, const Bound& bound) {
  const Value& value = *bound.self;
  if (!value.is_number()) return WrongSubject("abs", value);
  return Negative(value, value.number() < 0);
}

// To the nearest, halves as the number's own digits fall; of an integer an integer.
absl::StatusOr<Value> Round(Rendering&, const Bound& bound) {
  const Value& value = *bound.self;
  if (!value.is_number()) return WrongSubject("round", value);
  int64_t precision = 0;
  if (bound.has(0)) {
    ASSIGN_OR_RETURN(precision, IntegerSlot(bound, 0, "precision"));
  }
  if (precision < -300 || precision > 300) return Fault("round: the precision is out of range");
  const std::string method = bound.has(1) && bound[1].string() ? *bound[1].string() : "common";
  if (method != "common" && method != "ceil" && method != "floor") {
    return Fault("round: the method must be common, ceil or floor");
  }
  if (method != "common") {
    const double scale = std::pow(10.0, static_cast<double>(precision));
    const double scaled = value.number() * scale;
    return Value::OfFloat((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
  }
  if (!value.As<double>() && precision >= 0)
    return Value(value.is_big() ? value : Value::OfInt(value.integer()));
  const double number = value.number();
  if (!std::isfinite(number)) return value;
  double rounded = 0;
  if (precision >= 0) {
    CHECK(absl::SimpleAtod(absl::StrFormat("%.*f", static_cast<int>(precision), number), &rounded));
    return Value::OfFloat(rounded);
  }
  const double scale = std::pow(10.0, static_cast<double>(-precision));
  rounded = std::nearbyint(number / scale) * scale;
  if (value.As<double>()) return Value::OfFloat(rounded);
  return Value::OfInt(static_cast<int64_t>(rounded));
}

// An attribute, not an item.
absl::StatusOr<Value> Attr(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::string name, ToText(r.budget, bound[0]));
  if (bound.self->dictionary() && !HasAttribute(*bound.self, name)) {
    return Value::OfUndefined(absl::StrCat("a mapping has no attribute '", name, "'"));
  }
  return Attribute(r, *bound.self, name);
}

}  // namespace

absl::Status WrongSubject(std::string_view filter, const Value& value) {
  if (value.is_undefined()) return UndefinedFault(value);
  return Fault(absl::StrCat("the filter '", std::string(filter),
                            "' does not apply to a value of type '", value.type_name(), "'"));
}

absl::StatusOr<int64_t> IntegerSlot(const Bound& bound, size_t slot, std::string_view name) {
  if (bound[slot].is_integer()) return bound[slot].integer();
  return Fault(absl::StrCat("the argument '", std::string(name), "' must be an integer, not '",
                            bound[slot].type_name(), "'"));
}

const Builtin* FindFilter(std::string_view name) {
  static const std::array kFilters = {
      Builtin{"abs", &Abs},
      Builtin{"attr", &Attr, {"name"}, 1},
      Builtin{"count", &Length},
      Builtin{"d", &Default, {"default_value", "boolean"}},
      Builtin{"default", &Default, {"default_value", "boolean"}},
      Builtin{"float", &Float, {"default"}},
      Builtin{"int", &Int, {"default", "base"}},
      Builtin{"items", &Entries},
      Builtin{"length", &Length},
      Builtin{"round", &Round, {"precision", "method"}},
  };
  for (const std::span<const Builtin> table :
       {std::span<const Builtin>(kFilters), TextFilters(), SequenceFilters()}) {
    const auto found = std::find_if(table.begin(), table.end(),
                                    [&](const Builtin& filter) { return filter.name == name; });
    if (found != table.end()) return &*found;
  }
  return nullptr;
}

}  // namespace chorale::jinja
