// Whether a template's code has a word.
#pragma once

#include <string_view>

#include "text/jinja/syntax/ast.h"

namespace chorale::jinja {

// As a whole string constant, or as a name: of a variable, an attribute, an argument. Comments and
// the text between statements do not count.
bool Mentions(const Body& body, std::string_view word);

}  // namespace chorale::jinja
