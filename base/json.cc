#include "base/json.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

// Keys that are looked at while a text with ordered objects is parsed, some nanoseconds each.
constexpr int64_t kOrderedLookupsMax = int64_t{1} << 26;

int64_t Square(size_t n) { return static_cast<int64_t>(n) * static_cast<int64_t>(n); }

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
                                                    expected, JsonExcerpt(found)));
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

// Walks over the text of JSON outside its strings. What is no JSON is left to the parser.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  // The next character that is not in a string, or 0 at the end.
  char Next() {
    while (at_ < text_.size()) {
      const char c = text_[at_++];
      if (c != '"') return c;
      while (at_ < text_.size() && text_[at_] != '"') at_ += text_[at_] == '\\' ? 2 : 1;
      ++at_;
    }
    return 0;
  }
  // Behind the character that Next gave.
  size_t at() const { return at_; }

 private:
  const std::string_view text_;
  size_t at_ = 0;
};

// Looks at the shape of a text before it is parsed, at a cost that its length bounds.
absl::Status CheckShape(std::string_view text, std::string_view what, size_t keys_max,
                        int64_t lookups_max) {
  Scanner scanner(text);
  std::vector<size_t> keys;  // of each level around here
  int64_t lookups = 0;
  while (const char c = scanner.Next()) {
    if (c == '{' || c == '[') {
      keys.push_back(0);
      if (keys.size() > kJsonDepthMax) {
        return absl::InvalidArgumentError(
            absl::StrFormat("%s: nested deeper than %d levels", what, kJsonDepthMax));
      }
    } else if (keys.empty()) {
      continue;
    } else if (c == '}' || c == ']') {
      keys.pop_back();
    } else if (c == ':') {
      lookups += static_cast<int64_t>(++keys.back());
      if (keys.back() > keys_max) {
        return absl::InvalidArgumentError(
            absl::StrFormat("%s: an object has more than %d keys", what, keys_max));
      }
      if (lookups > lookups_max) {
        return absl::InvalidArgumentError(
            absl::StrFormat("%s: too many objects with many keys; send fewer", what));
      }
    }
  }
  return absl::OkStatus();
}

template <typename AnyJson>
absl::StatusOr<AnyJson> Parse(std::string_view text, std::string_view what) {
  try {
    return AnyJson::parse(text.begin(), text.end());
  } catch (const nlohmann::detail::exception& e) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: not valid JSON: %s", what, e.what()));
  }
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
  RETURN_IF_ERROR(CheckShape(text, what, SIZE_MAX, INT64_MAX));
  return Parse<Json>(text, what);
}

absl::StatusOr<OrderedJson> ParseOrderedJson(std::string_view text, std::string_view what,
                                             size_t keys_max) {
  RETURN_IF_ERROR(CheckShape(text, what, keys_max, std::max(kOrderedLookupsMax, Square(keys_max))));
  return Parse<OrderedJson>(text, what);
}

absl::Status CheckIntegers(std::string_view text, std::string_view what) {
  Scanner scanner(text);
  std::string number;
  const auto check = [&] {
    int64_t integer = 0;
    uint64_t natural = 0;
    const bool fits = number.find_first_of(".eE") != std::string::npos ||
                      absl::SimpleAtoi(number, &integer) || absl::SimpleAtoi(number, &natural);
    const size_t digits = number.size();
    const std::string shown = std::exchange(number, "").substr(0, 40);
    if (fits || digits < 19) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: the integer %s%s does not fit into 64 bits; send it as a string", what, shown,
        digits > shown.size() ? "..." : ""));
  };
  while (const char c = scanner.Next()) {
    if (absl::ascii_isdigit(c) || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E') {
      number += c;
    } else if (!number.empty()) {
      RETURN_IF_ERROR(check());
    }
  }
  return number.empty() ? absl::OkStatus() : check();
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

std::string Utf8Prefix(std::string text, size_t bytes_max) {
  if (text.size() <= bytes_max) return text;
  size_t end = bytes_max;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  text.resize(end);
  return text;
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
