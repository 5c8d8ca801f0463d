// Formatting of values as Python has it: the operator %, str.format, and the specs of both.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "text/jinja/builtins.h"
#include "text/jinja/values/value.h"

namespace chorale::jinja {

// format % value, where value is a tuple, a mapping for fields with names, or one value.
absl::StatusOr<Value> FormatPercent(Budget& budget, std::string_view format, const Value& value);
// format.format(arguments).
absl::StatusOr<Value> FormatBraces(Rendering& rendering, std::string_view format,
                                   const Arguments& arguments);
// format(value, spec), of strings, numbers and booleans.
absl::StatusOr<std::string> FormatSpec(Budget& budget, const Value& value, std::string_view spec);

}  // namespace chorale::jinja
