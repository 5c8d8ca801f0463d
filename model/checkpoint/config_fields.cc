#include "model/checkpoint/config_fields.h"

#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace chorale {

absl::StatusOr<int> IntWithin(const Json& object, std::string_view field, int64_t fallback,
                              int64_t low, int64_t high) {
  ASSIGN_OR_RETURN(const int64_t value,
                   fallback == 0 ? JsonInt(object, field) : JsonInt(object, field, fallback));
  if (value < low || value > high) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': %d is not within [%d, %d]", field, value, low, high));
  }
  return static_cast<int>(value);
}

absl::StatusOr<double> NumberWithin(const Json& object, std::string_view field, double fallback,
                                    double low, double high) {
  ASSIGN_OR_RETURN(const double value, JsonNumber(object, field, fallback));
  if (!(value >= low && value <= high)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': %g is not within [%g, %g]", field, value, low, high));
  }
  return value;
}

absl::StatusOr<std::optional<Json>> ObjectIn(const std::string& path) {
  absl::StatusOr<Json> json = ParseJsonFile(path);
  if (absl::IsNotFound(json.status())) return std::nullopt;
  RETURN_IF_ERROR(json.status());
  if (!json->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: expected a JSON object, found %s", path, JsonExcerpt(*json)));
  }
  return *std::move(json);
}

absl::Status Within(std::string_view place, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrFormat("%s: %s", place, status.message()));
}

}  // namespace chorale
