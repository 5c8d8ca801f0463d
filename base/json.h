// JSON from outside: parsing with limits, and typed fields whose errors name the field.
//
// Everything here turns bad input into InvalidArgument that says which field is at fault, what was
// expected and what was found. nlohmann's exceptions do not leave this file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace chorale {

using Json = nlohmann::json;
// Keeps the keys of an object in the order of the text, which prompts show.
using OrderedJson = nlohmann::ordered_json;

// Deepest nesting that ParseJson accepts.
inline constexpr int kJsonDepthMax = 128;

// Parses `text`; `what` names the document in errors ("config.json").
absl::StatusOr<Json> ParseJson(std::string_view text, std::string_view what);
// InvalidArgument when `text`, which is JSON, has an integer that 64 bits do not hold: as a number it
// would be rounded.
absl::Status CheckIntegers(std::string_view text, std::string_view what);

// Most keys of one object that ParseOrderedJson accepts unless told otherwise: an ordered object
// finds a key by looking at all of them. So the keys that are looked at in all are bounded too.
inline constexpr size_t kOrderedKeysMax = 256;

// As ParseJson, for text whose order of keys matters.
absl::StatusOr<OrderedJson> ParseOrderedJson(std::string_view text, std::string_view what,
                                             size_t keys_max = kOrderedKeysMax);

// Reads a whole file and parses it. NotFound names a missing file; a file of more than `bytes_max`
// is refused.
absl::StatusOr<Json> ParseJsonFile(const std::string& path, int64_t bytes_max = 64 << 20);
absl::StatusOr<OrderedJson> ParseOrderedJsonFile(const std::string& path, int64_t bytes_max,
                                                 size_t keys_max);

// Whether an object has the field, with a value other than null.
template <typename AnyJson>
bool JsonHas(const AnyJson& object, std::string_view field) {
  const auto it = object.find(field);
  return it != object.end() && !it->is_null();
}

// The first `bytes_max` bytes of a text in UTF-8, or some fewer: no character is cut.
std::string Utf8Prefix(std::string text, size_t bytes_max);

// The beginning of a value's text, for errors that show what was found.
template <typename AnyJson>
std::string JsonExcerpt(const AnyJson& value) {
  return Utf8Prefix(value.dump(-1, ' ', false, AnyJson::error_handler_t::replace), 80);
}

// Compact text of `value`; invalid UTF-8 inside strings becomes U+FFFD rather than an exception.
std::string DumpJson(const Json& value);

// A field of an object, by type. The required forms give InvalidArgument when the field is absent;
// the forms with a fallback take it for absent or null. A value of another type is always an error.
absl::StatusOr<int64_t> JsonInt(const Json& object, std::string_view field);
absl::StatusOr<int64_t> JsonInt(const Json& object, std::string_view field, int64_t fallback);
absl::StatusOr<double> JsonNumber(const Json& object, std::string_view field);
absl::StatusOr<double> JsonNumber(const Json& object, std::string_view field, double fallback);
absl::StatusOr<std::string> JsonString(const Json& object, std::string_view field);
absl::StatusOr<std::string> JsonString(const Json& object, std::string_view field,
                                       std::string_view fallback);
absl::StatusOr<bool> JsonBool(const Json& object, std::string_view field, bool fallback);

}  // namespace chorale
