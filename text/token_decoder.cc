#include "text/token_decoder.h"

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "text/normalizer.h"

namespace chorale {
namespace {

constexpr int kDepthMax = 8;
constexpr int kStripMax = 64;

}  // namespace

absl::StatusOr<TokenDecoder> TokenDecoder::Parse(const Json& json) {
  TokenDecoder decoder;
  if (json.is_null()) {
    return absl::UnimplementedError(
        "field 'decoder': null; known are ByteLevel, Metaspace, ByteFallback, Fuse, Replace, "
        "Strip, "
        "Sequence");
  }
  RETURN_IF_ERROR(decoder.Add(json, 0));
  return decoder;
}

absl::Status TokenDecoder::Add(const Json& json, int depth) {
  ASSIGN_OR_RETURN(const std::string type, JsonString(json, "type"));
  if (type == "Sequence") {
    const auto list = json.find("decoders");
    if (depth == kDepthMax || list == json.end() || !list->is_array()) {
      return absl::InvalidArgumentError("field 'decoder.decoders': expected a list");
    }
    for (const Json& item : *list) RETURN_IF_ERROR(Add(item, depth + 1));
    return absl::OkStatus();
  }
  if (type == "ByteLevel") {
    byte_level_ = true;
    return absl::OkStatus();
  }
  if (type == "ByteFallback" || type == "Fuse") return absl::OkStatus();  // as bytes are joined
  if (type == "Metaspace") {
    ASSIGN_OR_RETURN(const std::string from, JsonString(json, "replacement", "▁"));
    ASSIGN_OR_RETURN(const bool prefix, JsonBool(json, "add_prefix_space", true));
    ASSIGN_OR_RETURN(const std::string scheme,
                     JsonString(json, "prepend_scheme", prefix ? "always" : "never"));
    if (from.empty()) return absl::InvalidArgumentError("field 'decoder.replacement': empty");
    replacements_.emplace_back(from, " ");
    if (scheme != "never") spaces_stripped_ = 1;
    return absl::OkStatus();
  }
  if (type == "Replace") {
    const auto pattern = json.find("pattern");
    if (pattern == json.end() || !pattern->is_object() || !pattern->contains("String")) {
      return absl::UnimplementedError(
          "field 'decoder.pattern': only a replacement of a String is known");
    }
    ASSIGN_OR_RETURN(const std::string from, JsonString(*pattern, "String"));
    ASSIGN_OR_RETURN(const std::string to, JsonString(json, "content"));
    if (from.empty()) return absl::InvalidArgumentError("field 'decoder.pattern': empty");
    RETURN_IF_ERROR(BoundGrowth(from, to, growth_, "decoder"));
    replacements_.emplace_back(from, to);
    return absl::OkStatus();
  }
  if (type == "Strip") return AddStrip(json);
  return absl::UnimplementedError(absl::StrFormat(
      "field 'decoder.type': '%s' is not known; known are ByteLevel, Metaspace, ByteFallback, "
      "Fuse, Replace, Strip, Sequence",
      type.substr(0, 80)));
}

absl::Status TokenDecoder::AddStrip(const Json& json) {
  ASSIGN_OR_RETURN(const std::string content, JsonString(json, "content"));
  ASSIGN_OR_RETURN(const int64_t start, JsonInt(json, "start"));
  ASSIGN_OR_RETURN(const int64_t stop, JsonInt(json, "stop"));
  if (content != " " || start < 0 || start > kStripMax || stop != 0) {
    return absl::UnimplementedError(absl::StrFormat(
        "field 'decoder': Strip of '%s' from %d to %d: only leading spaces, at most %d, are known",
        content.substr(0, 80), start, stop, kStripMax));
  }
  spaces_stripped_ = static_cast<int>(start);
  return absl::OkStatus();
}

std::string TokenDecoder::Decode(std::string bytes) const {
  for (const auto& [from, to] : replacements_) bytes = ReplaceAll(bytes, from, to);
  return bytes;
}

}  // namespace chorale
