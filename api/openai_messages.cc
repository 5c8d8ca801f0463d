#include "api/openai_messages.h"

#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/json.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

using Ordered = OrderedJson;

std::string Dump(const Ordered& value) {
  return value.dump(-1, ' ', false, Ordered::error_handler_t::replace);
}

std::string Excerpt(const Ordered& value) { return Dump(value).substr(0, 80); }

bool Present(const Ordered& object, const char* field) {
  const auto it = object.find(field);
  return it != object.end() && !it->is_null();
}

bool IsString(const Ordered& object, const char* field) {
  const auto it = object.find(field);
  return it != object.end() && it->is_string();
}

// The text of a list of content parts.
absl::StatusOr<std::string> JoinParts(const Ordered& parts, const std::string& where) {
  std::string text;
  for (const Ordered& part : parts) {
    if (!part.is_object() || !IsString(part, "type")) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field '%s': expected parts of {\"type\": \"text\", \"text\": ...}, found %s", where,
          Excerpt(part)));
    }
    const std::string& type = part.at("type").get_ref<const std::string&>();
    if (type != "text") {
      return absl::InvalidArgumentError(
          absl::StrFormat("field '%s': parts of type '%s' are not supported; send text only", where,
                          type.substr(0, 40)));
    }
    if (!IsString(part, "text")) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field '%s': a text part without a string 'text': %s", where, Excerpt(part)));
    }
    text += part.at("text").get_ref<const std::string&>();
  }
  return text;
}

absl::Status CheckMessage(size_t index, Ordered& message) {
  const std::string where = absl::StrFormat("messages[%d]", index);
  if (!message.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': expected an object, found %s", where, Excerpt(message)));
  }
  if (!IsString(message, "role")) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field '%s.role': expected a string such as \"user\", found %s", where, Excerpt(message)));
  }
  if (Present(message, "function_call")) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s.function_call': use tool_calls instead", where));
  }
  const std::string content = where + ".content";
  if (!Present(message, "content")) {
    if (message.at("role") == "assistant") return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': it is missing; send a string", content));
  }
  Ordered& value = message["content"];
  if (value.is_array()) {
    ASSIGN_OR_RETURN(value, JoinParts(Ordered(value), content));
  }
  if (!value.is_string()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': expected a string or a list of text parts, found %s", content,
                        Excerpt(value)));
  }
  return absl::OkStatus();
}

// Takes the mark `public` off a message; it may have one when all before it are `public_so_far`.
absl::StatusOr<bool> TakePublic(size_t index, bool public_so_far, Ordered& message) {
  const auto it = message.find("public");
  if (it == message.end()) return false;
  const Ordered mark = *it;
  message.erase(it);
  if (mark.is_null()) return false;
  if (!mark.is_boolean()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'messages[%d].public': expected true or false, found %s", index, Excerpt(mark)));
  }
  if (mark.get<bool>() && !public_so_far) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'messages[%d].public': true, but messages[%d] before it is not; "
                        "mark the leading messages only",
                        index, index - 1));
  }
  return mark.get<bool>();
}

absl::Status ReadMessages(Ordered& body, v1::GenerateRequest& request) {
  if (!Present(body, "messages")) {
    return absl::InvalidArgumentError("field 'messages': it is missing; send a list of messages");
  }
  Ordered& messages = body["messages"];
  if (!messages.is_array() || messages.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'messages': expected a list of at least one message, found %s", Excerpt(messages)));
  }
  bool all_public = true;
  int public_messages = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    RETURN_IF_ERROR(CheckMessage(i, messages[i]));
    ASSIGN_OR_RETURN(all_public, TakePublic(i, all_public, messages[i]));
    public_messages += all_public;
  }
  request.set_public_messages(public_messages);
  request.mutable_chat()->set_messages_json(Dump(messages));
  return absl::OkStatus();
}

absl::Status ReadTools(const Ordered& body, v1::Chat& chat) {
  bool wanted = true;
  if (Present(body, "tool_choice")) {
    const Ordered& choice = body["tool_choice"];
    if (choice != "auto" && choice != "none") {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'tool_choice': %s is not supported; send \"auto\" or \"none\"", Excerpt(choice)));
    }
    wanted = choice == "auto";
  }
  if (!Present(body, "tools")) return absl::OkStatus();
  const Ordered& tools = body["tools"];
  if (!tools.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'tools': expected a list, found %s", Excerpt(tools)));
  }
  for (size_t i = 0; i < tools.size(); ++i) {
    const Ordered& tool = tools[i];
    if (!tool.is_object() || !IsString(tool, "type") || tool.at("type") != "function" ||
        !Present(tool, "function") || !tool.at("function").is_object() ||
        !IsString(tool.at("function"), "name")) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field 'tools[%d]': expected {\"type\": \"function\", \"function\": "
                          "{\"name\": ...}}, found %s",
                          i, Excerpt(tool)));
    }
  }
  if (wanted && !tools.empty()) chat.set_tools_json(Dump(tools));
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadChat(std::string_view body, v1::GenerateRequest& request) {
  ASSIGN_OR_RETURN(Ordered json, ParseOrderedJson(body, "request body"));
  if (!json.is_object()) {
    return absl::InvalidArgumentError("request body: expected a JSON object");
  }
  RETURN_IF_ERROR(ReadMessages(json, request));
  v1::Chat& chat = *request.mutable_chat();
  RETURN_IF_ERROR(ReadTools(json, chat));
  Ordered variables = Ordered::object();
  if (Present(json, "chat_template_kwargs")) {
    variables = json["chat_template_kwargs"];
    if (!variables.is_object()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'chat_template_kwargs': expected an object, found %s", Excerpt(variables)));
    }
  }
  if (Present(json, "add_generation_prompt")) {
    const Ordered& adds = json["add_generation_prompt"];
    if (!adds.is_boolean()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'add_generation_prompt': expected true or false, found %s", Excerpt(adds)));
    }
    variables["add_generation_prompt"] = adds;
  }
  if (!variables.empty()) chat.set_template_json(Dump(variables));
  return absl::OkStatus();
}

}  // namespace chorale
