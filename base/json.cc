#include "base/json.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

const Json* Find(const Json& object, std::string_view field) {
  if (!object.is_object()) return nullptr;
  auto it = object.find(field);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

absl::Status Missing(std::string_view field) {
  return absl::InvalidArgumentError(absl::StrFormat("field '%s' is missing", field));
}

absl::Status WrongType(std::string_view field, const char* expected, const Json& found) {
  return absl::InvalidArgumentError(absl::StrFormat("field '%s': expected %s, found %s", field,
                                                    expected, DumpJson(found).substr(0, 80)));
}

absl::StatusOr<int64_t> AsInt(std::string_view field, const Json& value) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return WrongType(field, "an integer of 64 bits", value);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) {
    const double d = value.get<double>();
    if (std::floor(d) == d && std::abs(d) < 9e15) return static_cast<int64_t>(d);
  }
  return WrongType(field, "an integer", value);
}

absl::StatusOr<double> AsNumber(std::string_view field, const Json& value) {
  if (!value.is_number()) return WrongType(field, "a number", value);
  return value.get<double>();
}

absl::StatusOr<std::string> AsString(std::string_view field, const Json& value) {
  if (!value.is_string()) return WrongType(field, "a string", value);
  return value.get<std::string>();
}

// The number of keys of the widest object within `value`.
size_t WidestObject(const Json& value) {
  size_t keys = value.is_object() ? value.size() : 0;
  for (const Json& item : value) {
    if (item.is_structured()) keys = std::max(keys, WidestObject(item));
  }
  return keys;
}

absl::StatusOr<std::string> ReadText(const std::string& path, int64_t bytes_max) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) return absl::NotFoundError(absl::StrFormat("%s: %s", path, error.message()));
  if (static_cast<int64_t>(size) > bytes_max) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %d bytes, more than the limit of %d", path, size, bytes_max));
  }
  std::string text(size, '\0');
  std::ifstream in(path, std::ios::binary);
  if (!in.read(text.data(), static_cast<std::streamsize>(size))) {
    return absl::UnavailableError(absl::StrFormat("%s: cannot be read", path));
  }
  return text;
}

}  // namespace

absl::StatusOr<Json> ParseJson(std::string_view text, std::string_view what) {
  bool too_deep = false;
  const auto limit_depth = [&](int depth, Json::parse_event_t, Json&) {
    if (depth <= kJsonDepthMax) return true;
    too_deep = true;
    return false;
  };
  try {
    Json value = Json::parse(text.begin(), text.end(), limit_depth);
    if (too_deep) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: nested deeper than %d levels", what, kJsonDepthMax));
    }
    return value;
  } catch (const Json::exception& e) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: not valid JSON: %s", what, e.what()));
  }
}

absl::StatusOr<OrderedJson> ParseOrderedJson(std::string_view text, std::string_view what,
                                             size_t keys_max) {
  ASSIGN_OR_RETURN(const Json checked, ParseJson(text, what));
  if (const size_t keys = WidestObject(checked); keys > keys_max) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: an object has %d keys, more than %d", what, keys, keys_max));
  }
  return OrderedJson::parse(text.begin(), text.end());
}

absl::StatusOr<Json> ParseJsonFile(const std::string& path, int64_t bytes_max) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(path, bytes_max));
  return ParseJson(text, path);
}

absl::StatusOr<OrderedJson> ParseOrderedJsonFile(const std::string& path, int64_t bytes_max,
                                                 size_t keys_max) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(path, bytes_max));
  return ParseOrderedJson(text, path, keys_max);
}

std::string DumpJson(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<int64_t> JsonInt(const Json& object, std::string_view field) {
  const Json* value = Find(object, field);
  return value ? AsInt(field, *value) : absl::StatusOr<int64_t>(Missing(field));
}

absl::StatusOr<int64_t> JsonInt(const Json& object, std::string_view field, int64_t fallback) {
  const Json* value = Find(object, field);
  return value ? AsInt(field, *value) : fallback;
}

absl::StatusOr<double> JsonNumber(const Json& object, std::string_view field) {
  const Json* value = Find(object, field);
  return value ? AsNumber(field, *value) : absl::StatusOr<double>(Missing(field));
}

absl::StatusOr<double> JsonNumber(const Json& object, std::string_view field, double fallback) {
  const Json* value = Find(object, field);
  return value ? AsNumber(field, *value) : fallback;
}

absl::StatusOr<std::string> JsonString(const Json& object, std::string_view field) {
  const Json* value = Find(object, field);
  return value ? AsString(field, *value) : absl::StatusOr<std::string>(Missing(field));
}

absl::StatusOr<std::string> JsonString(const Json& object, std::string_view field,
                                       std::string_view fallback) {
  const Json* value = Find(object, field);
  return value ? AsString(field, *value) : std::string(fallback);
}

absl::StatusOr<bool> JsonBool(const Json& object, std::string_view field, bool fallback) {
  const Json* value = Find(object, field);
  if (!value) return fallback;
  if (!value->is_boolean()) return WrongType(field, "true or false", *value);
  return value->get<bool>();
}

}  // namespace chorale
