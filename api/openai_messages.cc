#include "api/openai_messages.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/json.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

using Ordered = OrderedJson;

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
          JsonExcerpt(part)));
    }
    const std::string& type = part.at("type").get_ref<const std::string&>();
    if (type != "text") {
      return absl::InvalidArgumentError(
          absl::StrFormat("field '%s': parts of type '%s' are not supported; send text only", where,
                          type.substr(0, 40)));
    }
    if (!IsString(part, "text")) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field '%s': a text part without a string 'text': %s", where, JsonExcerpt(part)));
    }
    text += part.at("text").get_ref<const std::string&>();
  }
  return text;
}

absl::Status CheckMessage(size_t index, Ordered& message) {
  const std::string where = absl::StrFormat("messages[%d]", index);
  if (!message.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': expected an object, found %s", where, JsonExcerpt(message)));
  }
  if (!IsString(message, "role")) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field '%s.role': expected a string such as \"user\", found %s", where, JsonExcerpt(message)));
  }
  if (JsonHas(message, "function_call")) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s.function_call': use tool_calls instead", where));
  }
  const std::string content = where + ".content";
  if (!JsonHas(message, "content")) {
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
                        JsonExcerpt(value)));
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
        "field 'messages[%d].public': expected true or false, found %s", index, JsonExcerpt(mark)));
  }
  if (mark.get<bool>() && !public_so_far) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'messages[%d].public': true, but messages[%d] before it is not; "
                        "mark the leading messages only",
                        index, index - 1));
  }
  return mark.get<bool>();
}

absl::Status ReadMessages(Ordered& body, Chat& chat) {
  if (!JsonHas(body, "messages")) {
    return absl::InvalidArgumentError("field 'messages': it is missing; send a list of messages");
  }
  Ordered& messages = body["messages"];
  if (!messages.is_array() || messages.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'messages': expected a list of at least one message, found %s", JsonExcerpt(messages)));
  }
  bool all_public = true;
  for (size_t i = 0; i < messages.size(); ++i) {
    RETURN_IF_ERROR(CheckMessage(i, messages[i]));
    ASSIGN_OR_RETURN(all_public, TakePublic(i, all_public, messages[i]));
    chat.public_messages += all_public;
  }
  chat.messages = std::move(messages);
  return absl::OkStatus();
}

absl::Status ReadTools(Ordered& body, Chat& chat) {
  bool wanted = true;
  if (JsonHas(body, "tool_choice")) {
    const Ordered& choice = body["tool_choice"];
    if (choice != "auto" && choice != "none") {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'tool_choice': %s is not supported; send \"auto\" or \"none\"", JsonExcerpt(choice)));
    }
    wanted = choice == "auto";
  }
  if (!JsonHas(body, "tools")) return absl::OkStatus();
  Ordered& tools = body["tools"];
  if (!tools.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'tools': expected a list, found %s", JsonExcerpt(tools)));
  }
  for (size_t i = 0; i < tools.size(); ++i) {
    const Ordered& tool = tools[i];
    if (!tool.is_object() || !IsString(tool, "type") || tool.at("type") != "function" ||
        !JsonHas(tool, "function") || !tool.at("function").is_object() ||
        !IsString(tool.at("function"), "name")) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field 'tools[%d]': expected {\"type\": \"function\", \"function\": "
                          "{\"name\": ...}}, found %s",
                          i, JsonExcerpt(tool)));
    }
  }
  if (wanted && !tools.empty()) chat.tools = std::move(tools);
  return absl::OkStatus();
}

// What the request says of the conversation itself, or what only the server knows.
constexpr const char* kOwnVariables[] = {"messages", "tools", "documents", "current_time_unix"};

absl::Status ReadVariables(Ordered& body, Chat& chat) {
  Ordered variables = Ordered::object();
  if (JsonHas(body, "chat_template_kwargs")) {
    variables = std::move(body["chat_template_kwargs"]);
    if (!variables.is_object()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'chat_template_kwargs': expected an object, found %s", JsonExcerpt(variables)));
    }
    for (const char* name : kOwnVariables) {
      if (!variables.contains(name)) continue;
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'chat_template_kwargs.%s': it may not replace the request's own; leave it out",
          name));
    }
  }
  if (JsonHas(body, "documents")) {
    Ordered& documents = body["documents"];
    if (!documents.is_array() ||
        !std::all_of(documents.begin(), documents.end(), [](const auto& d) { return d.is_object(); })) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'documents': expected a list of objects, found %s", JsonExcerpt(documents)));
    }
    variables["documents"] = std::move(documents);
  }
  if (JsonHas(body, "add_generation_prompt")) {
    const Ordered& adds = body["add_generation_prompt"];
    if (!adds.is_boolean()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'add_generation_prompt': expected true or false, found %s", JsonExcerpt(adds)));
    }
    variables["add_generation_prompt"] = adds;
  }
  if (!variables.empty()) chat.variables = std::move(variables);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Chat> ReadChat(OrderedJson& body) {
  Chat chat;
  RETURN_IF_ERROR(ReadMessages(body, chat));
  RETURN_IF_ERROR(ReadTools(body, chat));
  RETURN_IF_ERROR(ReadVariables(body, chat));
  return chat;
}

}  // namespace chorale
