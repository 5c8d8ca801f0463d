// The tokens of a chat template as a syntax tree.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "text/jinja/syntax/ast.h"

namespace chorale::jinja {

inline constexpr int kNestingMax = 64;           // brackets and statements within each other
inline constexpr int kExpressionDepthMax = 200;  // of one expression's tree

// InvalidArgument for a syntax error, Unimplemented for a feature that is not known, both with the
// line. Names of filters, tests, functions and methods are settled here.
absl::StatusOr<Body> ParseTemplate(std::string_view source);

}  // namespace chorale::jinja
