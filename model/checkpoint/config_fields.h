// Fields of config.json within bounds; errors name the field, its value and what is allowed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/json.h"

namespace chorale {

// The integer `field` within [low, high]; `fallback` 0 makes it required.
absl::StatusOr<int> IntWithin(const Json& object, std::string_view field, int64_t fallback,
                              int64_t low, int64_t high);
absl::StatusOr<double> NumberWithin(const Json& object, std::string_view field, double fallback,
                                    double low, double high);
// The object in a file; nothing when there is no file. InvalidArgument names the file.
absl::StatusOr<std::optional<Json>> ObjectIn(const std::string& path);
// Puts where the error was found before its message.
absl::Status Within(std::string_view place, const absl::Status& status);

}  // namespace chorale
