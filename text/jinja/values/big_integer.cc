#include "text/jinja/values/big_integer.h"

#include <algorithm>
#include <utility>

#include <boost/multiprecision/cpp_int.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace chorale::jinja {

using Integer = boost::multiprecision::cpp_int;

struct BigInteger::Digits {
  Integer value;
};

namespace {

absl::Status TooBig() {
  return absl::InvalidArgumentError(
      absl::StrCat("an integer has more than ", kIntegerBitsMax, " bits"));
}

int64_t BitsOf(const Integer& value) {
  return value == 0 ? 1 : static_cast<int64_t>(msb(abs(value))) + 1;
}

// Towards minus infinity, as Python divides.
std::pair<Integer, Integer> FloorDivide(const Integer& a, const Integer& b) {
  Integer quotient, remainder;
  divide_qr(a, b, quotient, remainder);
  if (remainder != 0 && (remainder < 0) != (b < 0)) {
    --quotient;
    remainder += b;
  }
  return {quotient, remainder};
}

absl::StatusOr<Integer> Power(const Integer& base, const Integer& exponent) {
  if (base == 0 || base == 1) return exponent == 0 ? Integer(1) : base;
  if (base == -1) return bit_test(exponent, 0) ? base : Integer(1);
  if (exponent > kIntegerBitsMax || (BitsOf(base) - 1) * exponent > kIntegerBitsMax) {
    return TooBig();
  }
  return Integer(pow(base, static_cast<unsigned>(exponent)));
}

absl::StatusOr<Integer> Result(std::string_view operation, const Integer& a, const Integer& b) {
  if (operation == "+") return Integer(a + b);
  if (operation == "-") return Integer(a - b);
  if (operation == "*") return Integer(a * b);
  if (operation == "**") return Power(a, b);
  if (b == 0) return absl::InvalidArgumentError("division by zero");
  return operation == "//" ? FloorDivide(a, b).first : FloorDivide(a, b).second;
}

}  // namespace

BigInteger BigInteger::Of(int64_t value) {
  return BigInteger(std::make_shared<const Digits>(Digits{Integer(value)}));
}

std::optional<BigInteger> BigInteger::Parse(std::string_view text) {
  const bool negative = !text.empty() && text[0] == '-';
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  // Python's str and int have a like bound.
  if (text.empty() || text.size() > kIntegerBitsMax / 4 ||
      !std::all_of(text.begin(), text.end(), absl::ascii_isdigit)) {
    return std::nullopt;
  }
  text.remove_prefix(std::min(text.find_first_not_of('0'), text.size() - 1));
  Integer value{std::string(text)};
  if (negative) value = -value;
  return BigInteger(std::make_shared<const Digits>(Digits{std::move(value)}));
}

absl::StatusOr<BigInteger> BigInteger::Apply(std::string_view operation, const BigInteger& a,
                                             const BigInteger& b) {
  absl::StatusOr<Integer> result = Result(operation, a.digits_->value, b.digits_->value);
  if (!result.ok()) return result.status();
  if (BitsOf(*result) > kIntegerBitsMax) return TooBig();
  return BigInteger(std::make_shared<const Digits>(Digits{*std::move(result)}));
}

int BigInteger::Compare(const BigInteger& a, const BigInteger& b) {
  return a.digits_->value.compare(b.digits_->value);
}

std::optional<int64_t> BigInteger::ToInt64() const {
  const Integer& value = digits_->value;
  if (value < INT64_MIN || value > INT64_MAX) return std::nullopt;
  return static_cast<int64_t>(value);
}

double BigInteger::ToDouble() const { return digits_->value.convert_to<double>(); }

std::string BigInteger::ToDecimal() const { return digits_->value.str(); }

std::string BigInteger::ToBase(int base) const {
  if (base == 10) return ToDecimal();
  Integer rest = abs(digits_->value);
  std::string text;
  do {
    text += "0123456789abcdef"[static_cast<int>(rest % base)];
    rest /= base;
  } while (rest != 0);
  if (digits_->value < 0) text += '-';
  std::reverse(text.begin(), text.end());
  return text;
}

}  // namespace chorale::jinja
