// Runs a parsed chat template.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "text/jinja/syntax/ast.h"

namespace chorale::jinja {

// The text that `body` writes with the variables of `context`, an object. Errors name the line,
// except the message of raise_exception, which is given as it is.
absl::StatusOr<std::string> RenderTemplate(const Body& body, const nlohmann::ordered_json& context);

}  // namespace chorale::jinja
