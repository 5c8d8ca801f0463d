#include "api/chat_messages.h"

#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "api/openai_messages.h"
#include "text/chat_template.h"

namespace chorale {
namespace {

using testing::HasSubstr;

OrderedJson Converted(const std::string& messages) {
  OrderedJson json = OrderedJson::parse(messages);
  const absl::Status status = ToTemplateForm(json);
  EXPECT_TRUE(status.ok()) << status;
  return json;
}

TEST(ChatMessagesTest, ReadArgumentsAsWhatTheySay) {
  const OrderedJson messages = Converted(
      R"([{"role": "assistant", "content": "x", "tool_calls": [
            {"id": "1", "function": {"name": "f", "arguments": "{\"b\": [1, 2.5], \"a\": null}"}},
            {"id": "2", "function": {"name": "g", "arguments": {"c": 1}}},
            {"id": "3", "function": {"name": "h", "arguments": ""}},
            {"id": "4", "function": {"name": "i"}}]}])");
  const OrderedJson& calls = messages[0]["tool_calls"];
  EXPECT_EQ(calls[0]["function"]["arguments"].dump(), R"({"b":[1,2.5],"a":null})");
  EXPECT_EQ(calls[1]["function"]["arguments"].dump(), R"({"c":1})");
  EXPECT_EQ(calls[2]["function"]["arguments"].dump(), "{}");
  EXPECT_EQ(calls[3]["function"]["arguments"].dump(), "{}");
}

TEST(ChatMessagesTest, GiveAnAssistantWithoutContentAnEmptyOne) {
  const OrderedJson messages = Converted(
      R"([{"role": "assistant", "content": null, "tool_calls": null}, {"role": "assistant"},
          {"role": "user", "content": "x", "name": "kept"}])");
  EXPECT_EQ(messages[0]["content"], "");
  EXPECT_FALSE(messages[0].contains("tool_calls"));
  EXPECT_EQ(messages[1]["content"], "");
  EXPECT_EQ(messages[2]["name"], "kept");
}

TEST(ChatMessagesTest, RefuseWhatIsNoCall) {
  const std::pair<const char*, const char*> kRefusals[] = {
      {R"({"role": "user"})", "field 'messages': expected a list"},
      {R"([5])", "field 'messages[0]': expected an object, found 5"},
      {R"([{"role": "assistant", "tool_calls": {}}])", "field 'messages[0].tool_calls'"},
      {R"([{"role": "assistant", "tool_calls": [5]}])", "field 'messages[0].tool_calls[0]'"},
      {R"([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{\"a\": "}}]}])",
       "field 'messages[0].tool_calls[0].function.arguments': the text is no JSON object"},
      {R"([{"role": "assistant", "tool_calls": [{"function": {"arguments": "[1]"}}]}])",
       "field 'messages[0].tool_calls[0].function.arguments': expected a JSON object"},
      {R"([{"role": "assistant", "tool_calls": [{"function": {"arguments": 5}}]}])", "found 5"},
  };
  for (const auto& [messages, message] : kRefusals) {
    OrderedJson json = OrderedJson::parse(messages);
    const absl::Status status = ToTemplateForm(json);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << messages;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

// As a client of OpenAI's API sends what a golden case holds.
OrderedJson WireForm(OrderedJson messages, bool absent) {
  for (OrderedJson& message : messages) {
    if (!message.contains("tool_calls")) continue;
    for (OrderedJson& call : message["tool_calls"]) {
      OrderedJson& arguments = call["function"]["arguments"];
      arguments = arguments.dump();
    }
    if (message["content"] != "") continue;
    absent ? void(message.erase("content")) : void(message["content"] = nullptr);
  }
  return messages;
}

TEST(ChatMessagesTest, TemplatesOfPublishedModelsGiveTheirGoldenTextsFromTheWireForm) {
  const char* data = std::getenv("CHORALE_SHARED_DATA");
  const std::string folder = std::string(data == nullptr ? "" : data) + "/templates";
  std::ifstream file(folder + "/golden.jsonl");
  if (!file.good()) GTEST_SKIP() << "skipped: no " << folder;
  std::map<std::string, std::unique_ptr<const ChatTemplate>> templates;
  int texts = 0;
  for (std::string line; std::getline(file, line);) {
    const OrderedJson test = OrderedJson::parse(line);
    if (!test.contains("text") || test["text"].is_null()) continue;
    ++texts;
    const std::string name = test["template"];
    if (!templates.contains(name)) {
      std::ifstream in(folder + "/" + name, std::ios::binary);
      std::ostringstream source;
      source << in.rdbuf();
      auto parsed = ChatTemplate::Parse(source.str());
      ASSERT_TRUE(parsed.ok()) << name << ": " << parsed.status();
      templates[name] = *std::move(parsed);
    }
    for (bool absent : {false, true}) {
      SCOPED_TRACE(name + ", case " + test["case"].get<std::string>());
      // Through what reads HTTP bodies, and what reads the chats of every protocol.
      OrderedJson body = {{"messages", WireForm(test["messages"], absent)}};
      if (!test["tools"].is_null()) body["tools"] = test["tools"];
      const absl::StatusOr<Chat> chat = ReadChat(body);
      ASSERT_TRUE(chat.ok()) << chat.status();
      OrderedJson messages = chat->messages;
      ASSERT_TRUE(ToTemplateForm(messages).ok());
      const auto text = templates[name]->Render(
          {{"messages", messages},
           {"tools", test["tools"]},
           {"documents", nullptr},
           {"add_generation_prompt", test["add_generation_prompt"]},
           {"bos_token", "<s>"},
           {"eos_token", "</s>"},
           {"current_time_unix", 1767323045}});
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(*text, test["text"].get<std::string>());
    }
  }
  EXPECT_EQ(texts, 349);
}

}  // namespace
}  // namespace chorale
