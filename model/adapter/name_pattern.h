// A regular expression over the names of modules, as Python's re has them.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"

namespace chorale {

// Immutable; not thread safe.
class NamePattern {
 public:
  // InvalidArgument with the place of the fault.
  static absl::StatusOr<NamePattern> Compile(std::string_view pattern);
  // Whether all of `name` matches (re.fullmatch). Matching is bounded: InvalidArgument names a
  // pattern that takes too many steps, since neither answer would be known to be right.
  absl::StatusOr<bool> Matches(std::string_view name) const;

 private:
  struct Code;
  explicit NamePattern(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  std::shared_ptr<const Code> code_;
};

}  // namespace chorale
