// The tables of filters, by what they apply to, and what their functions share.
#pragma once

#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "text/jinja/builtins.h"

namespace chorale::jinja {

std::span<const Builtin> TextFilters();
std::span<const Builtin> SequenceFilters();

absl::Status WrongSubject(std::string_view filter, const Value& value);
absl::StatusOr<int64_t> IntegerSlot(const Bound& bound, size_t slot, std::string_view name);
// item[path], where a path is an index, or names joined by dots as in 'function.name'.
absl::StatusOr<Value> AtPath(Rendering& r, Value item, const Value& path);

}  // namespace chorale::jinja
