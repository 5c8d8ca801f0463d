// What one field of a format asks for, and numbers and text in that form.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "text/jinja/values/value.h"

namespace chorale::jinja {

inline constexpr int kFieldWidthMax = 10'000;
inline constexpr int kPrecisionMax = 300;

// [[fill]align][sign][#][0][width][grouping][.precision][type]
struct Spec {
  std::string fill = " ";
  char align = '\0';  // < > = ^
  char sign = '-';
  bool alternate = false;
  int width = 0;
  char grouping = '\0';  // , or _
  int precision = -1;
  char type = '\0';
};

absl::StatusOr<Spec> ParseSpec(std::string_view text);
// The digits at the front of `text`, which are taken off; 0 without any. `what` names them in
// errors.
absl::StatusOr<int> TakeNumber(std::string_view& text, int most, const char* what);
// `sign` and `body`, filled up to the width; `align` stands for the spec's.
std::string Pad(const Spec& spec, std::string_view sign, std::string_view body, char align);
std::string SignOf(const Spec& spec, bool negative);
absl::StatusOr<std::string> FormatFloat(const Spec& spec, double value);
absl::StatusOr<std::string> FormatInteger(const Spec& spec, const Value& value);
// The first `characters` of a text.
std::string Cut(std::string_view text, int64_t characters);

}  // namespace chorale::jinja
