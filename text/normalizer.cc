#include "text/normalizer.h"

#include <algorithm>
#include <cstdlib>

#include <utf8proc.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

constexpr int kDepthMax = 8;
// Bounds of what a hostile file can make of a text; real ones have two steps and triple it.
constexpr size_t kPrefixBytesMax = 1024;

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<signed char>(c) >= 0; });
}

std::string MapUnicode(const std::string& text, int options) {
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t bytes = utf8proc_map(
      reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
      static_cast<utf8proc_ssize_t>(text.size()), &mapped, static_cast<utf8proc_option_t>(options));
  CHECK_GE(bytes, 0) << "valid UTF-8 can be mapped: " << utf8proc_errmsg(bytes);
  std::string result(reinterpret_cast<const char*>(mapped), static_cast<size_t>(bytes));
  std::free(mapped);
  return result;
}

}  // namespace

absl::Status BoundGrowth(std::string_view from, std::string_view to, double& growth,
                         std::string_view field) {
  growth *= std::max(1.0, static_cast<double>(to.size()) / static_cast<double>(from.size()));
  if (growth <= kGrowthMax) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "field '%s': its replacements make a text more than %g times as long", field, kGrowthMax));
}

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  size_t begin = 0;
  for (size_t hit; (hit = text.find(from, begin)) != std::string_view::npos;
       begin = hit + from.size()) {
    out.append(text, begin, hit - begin);
    out.append(to);
  }
  return out.append(text, begin);
}

absl::StatusOr<Normalizer> Normalizer::Parse(const Json& json) {
  Normalizer normalizer;
  if (json.is_null()) return normalizer;
  RETURN_IF_ERROR(normalizer.Add(json, 0));
  return normalizer;
}

absl::Status Normalizer::Add(const Json& json, int depth) {
  ASSIGN_OR_RETURN(const std::string type, JsonString(json, "type"));
  if (type == "Sequence") {
    const auto list = json.find("normalizers");
    if (depth == kDepthMax || list == json.end() || !list->is_array()) {
      return absl::InvalidArgumentError("field 'normalizer.normalizers': expected a list");
    }
    for (const Json& item : *list) RETURN_IF_ERROR(Add(item, depth + 1));
    return absl::OkStatus();
  }
  const int compose = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
  const int decompose = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  if (type == "NFC") {
    steps_.push_back({.unicode_options = compose, .keeps_ascii = true});
  } else if (type == "NFD") {
    steps_.push_back({.unicode_options = decompose, .keeps_ascii = true});
  } else if (type == "NFKC") {
    steps_.push_back({.unicode_options = compose | UTF8PROC_COMPAT, .keeps_ascii = true});
  } else if (type == "NFKD") {
    steps_.push_back({.unicode_options = decompose | UTF8PROC_COMPAT, .keeps_ascii = true});
  } else if (type == "Prepend") {
    ASSIGN_OR_RETURN(const std::string prefix, JsonString(json, "prepend"));
    if (prefix.size() > kPrefixBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field 'normalizer.prepend': %d bytes, more than the limit of %d",
                          prefix.size(), kPrefixBytesMax));
    }
    steps_.push_back({.kind = Kind::kPrepend, .to = prefix});
  } else if (type == "Replace") {
    const auto pattern = json.find("pattern");
    if (pattern == json.end() || !pattern->is_object() || !pattern->contains("String")) {
      return absl::UnimplementedError(
          "field 'normalizer.pattern': only a replacement of a String is known");
    }
    ASSIGN_OR_RETURN(const std::string from, JsonString(*pattern, "String"));
    ASSIGN_OR_RETURN(const std::string to, JsonString(json, "content"));
    if (from.empty()) return absl::InvalidArgumentError("field 'normalizer.pattern': empty");
    RETURN_IF_ERROR(BoundGrowth(from, to, growth_, "normalizer"));
    steps_.push_back({.kind = Kind::kReplace, .from = from, .to = to});
  } else if (type == "Strip") {
    ASSIGN_OR_RETURN(const bool left, JsonBool(json, "strip_left", false));
    ASSIGN_OR_RETURN(const bool right, JsonBool(json, "strip_right", false));
    steps_.push_back({.kind = Kind::kStrip, .left = left, .right = right});
  } else {
    return absl::UnimplementedError(absl::StrFormat(
        "field 'normalizer.type': '%s' is not known; known are NFC, NFD, NFKC, NFKD, Prepend, "
        "Replace, Strip, Sequence",
        type.substr(0, 80)));
  }
  return absl::OkStatus();
}

std::string Normalizer::Apply(std::string text) const {
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kUnicode:
        if (!step.keeps_ascii || !IsAscii(text)) text = MapUnicode(text, step.unicode_options);
        break;
      case Kind::kPrepend:
        if (!text.empty()) text.insert(0, step.to);
        break;
      case Kind::kReplace:
        text = ReplaceAll(text, step.from, step.to);
        break;
      case Kind::kStrip:
        if (step.left) absl::StripLeadingAsciiWhitespace(&text);
        if (step.right) absl::StripTrailingAsciiWhitespace(&text);
        break;
    }
  }
  return text;
}

}  // namespace chorale
