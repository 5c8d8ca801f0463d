#include "api/chat_messages.h"

#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

// No arguments at all, and an empty text, are an object without keys.
absl::Status ReadArguments(const std::string& where, OrderedJson& function) {
  OrderedJson& arguments = function["arguments"];
  if (arguments.is_null()) arguments = OrderedJson::object();
  if (arguments.is_string()) {
    const std::string text = arguments.get<std::string>();
    if (text.find_first_not_of(" \t\r\n") == std::string::npos) {
      arguments = OrderedJson::object();
    } else {
      absl::StatusOr<OrderedJson> parsed = ParseOrderedJson(text, where);
      RETURN_IF_ERROR(CheckIntegers(text, absl::StrFormat("field '%s'", where)));
      if (!parsed.ok()) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "field '%s': the text is no JSON object: %s", where, JsonExcerpt(arguments)));
      }
      arguments = *std::move(parsed);
    }
  }
  if (arguments.is_object()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("field '%s': expected a JSON object, or the text of one, found %s", where,
                      JsonExcerpt(arguments)));
}

absl::Status ReadCalls(const std::string& where, OrderedJson& calls) {
  if (!calls.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': expected a list, found %s", where, JsonExcerpt(calls)));
  }
  for (size_t i = 0; i < calls.size(); ++i) {
    const auto function = calls[i].is_object() ? calls[i].find("function") : calls[i].end();
    if (!calls[i].is_object() || function == calls[i].end() || !function->is_object()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field '%s[%d]': expected {\"type\": \"function\", \"function\": {\"name\": ..., "
          "\"arguments\": ...}}, found %s",
          where, i, JsonExcerpt(calls[i])));
    }
    RETURN_IF_ERROR(
        ReadArguments(absl::StrFormat("%s[%d].function.arguments", where, i), *function));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ToTemplateForm(OrderedJson& messages) {
  if (!messages.is_array()) {
    return absl::InvalidArgumentError("field 'messages': expected a list");
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    OrderedJson& message = messages[i];
    const std::string where = absl::StrFormat("messages[%d]", i);
    if (!message.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field '%s': expected an object, found %s", where, JsonExcerpt(message)));
    }
    const auto calls = message.find("tool_calls");
    if (calls != message.end() && calls->is_null()) {
      message.erase(calls);
    } else if (calls != message.end()) {
      RETURN_IF_ERROR(ReadCalls(where + ".tool_calls", *calls));
    }
    const auto role = message.find("role");
    const auto content = message.find("content");
    const bool no_content = content == message.end() || content->is_null();
    if (no_content && role != message.end() && *role == "assistant") message["content"] = "";
  }
  return absl::OkStatus();
}

}  // namespace chorale
