// Integers of more than 64 bits, as Python has them; bounded, so that no template can make one that
// takes long to print.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace chorale::jinja {

inline constexpr int kIntegerBitsMax = 4096;

// Immutable. An integer that fits into 64 bits is never one of these: see Value::OfBig.
class BigInteger {
 public:
  struct Digits;
  explicit BigInteger(std::shared_ptr<const Digits> digits) : digits_(std::move(digits)) {}
  static BigInteger Of(int64_t value);
  // Of decimal digits, with a sign before them or not; nothing for other text.
  static std::optional<BigInteger> Parse(std::string_view text);

  // + - * // % and **; the exponent of ** is not negative. InvalidArgument: division by zero, or a
  // result of more than kIntegerBitsMax bits.
  static absl::StatusOr<BigInteger> Apply(std::string_view operation, const BigInteger& a,
                                          const BigInteger& b);
  static int Compare(const BigInteger& a, const BigInteger& b);

  std::optional<int64_t> ToInt64() const;
  double ToDouble() const;  // the nearest; infinite beyond the range
  std::string ToDecimal() const;
  // Base 2, 8, 10 or 16, in lower case, with '-' when negative.
  std::string ToBase(int base) const;

 private:
  std::shared_ptr<const Digits> digits_;
};

}  // namespace chorale::jinja
