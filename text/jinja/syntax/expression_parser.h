// The expressions of a template: what stands inside {{ }} and after a statement's name.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "text/jinja/syntax/ast.h"
#include "text/jinja/syntax/token_stream.h"

namespace chorale::jinja {

absl::StatusOr<ExpressionPtr> ParseExpression(TokenStream& tokens, bool with_conditional = true);
// One expression, or a tuple of several with commas.
absl::StatusOr<ExpressionPtr> ParseTuple(TokenStream& tokens, bool with_conditional = true);

// A chain of filters over what a body writes (kCaptured): "| f | g", or "f | g" of a filter block.
absl::StatusOr<ExpressionPtr> ParseFiltersOfBody(TokenStream& tokens, bool first_is_named = false);

}  // namespace chorale::jinja
