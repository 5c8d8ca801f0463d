// The operators of expressions on values, as Python defines them.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "text/jinja/values/value.h"

namespace chorale::jinja {

// + - * / // % ** and ~; % formats when a string stands before it.
absl::StatusOr<Value> Arithmetic(Budget& budget, std::string_view operation, const Value& left,
                                 const Value& right);
absl::StatusOr<Value> Negative(const Value& value, bool negate);
// == != < <= > >= in, not in.
absl::StatusOr<bool> Compare(Budget& budget, std::string_view comparison, const Value& left,
                             const Value& right);

}  // namespace chorale::jinja
