// The templates of published models, against what transformers' environment makes of them.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/chat_template.h"

namespace chorale {
namespace {

using testing::HasSubstr;

constexpr int64_t kNow = 1767323045;  // 2026-01-02 03:04:05

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// The templates by name; empty, and the test skips, without shared data.
struct Shared {
  std::string folder;
  std::map<std::string, std::unique_ptr<const ChatTemplate>> templates;
  std::vector<OrderedJson> cases;
};

Shared LoadShared() {
  Shared shared;
  const char* data = std::getenv("CHORALE_SHARED_DATA");
  shared.folder = std::string(data == nullptr ? "" : data) + "/templates";
  std::ifstream file(shared.folder + "/golden.jsonl");
  for (std::string line; std::getline(file, line);) {
    shared.cases.push_back(OrderedJson::parse(line));
    const std::string name = shared.cases.back()["template"];
    if (shared.templates.contains(name)) continue;
    auto parsed = ChatTemplate::Parse(ReadFile(shared.folder + "/" + name));
    EXPECT_TRUE(parsed.ok()) << name << ": " << parsed.status();
    shared.templates[name] = parsed.ok() ? *std::move(parsed) : nullptr;
  }
  return shared;
}

OrderedJson ContextOf(const OrderedJson& test) {
  return {{"messages", test["messages"]}, {"tools", test["tools"]},
          {"documents", nullptr},         {"add_generation_prompt", test["add_generation_prompt"]},
          {"bos_token", "<s>"},           {"eos_token", "</s>"},
          {"current_time_unix", kNow}};
}

TEST(TemplatesTest, OfPublishedModelsGiveTheirGoldenTextsAndErrors) {
  const Shared shared = LoadShared();
  if (shared.cases.empty()) GTEST_SKIP() << "skipped: no " << shared.folder;
  int texts = 0;
  for (const OrderedJson& test : shared.cases) {
    const std::string name = test["template"];
    if (shared.templates.at(name) == nullptr) continue;
    SCOPED_TRACE(name + ", case " + test["case"].get<std::string>());
    const auto text = shared.templates.at(name)->Render(ContextOf(test));
    if (test.contains("error") && !test["error"].is_null()) {
      ASSERT_FALSE(text.ok()) << *text;
      // "Class: words"; what raise_exception says comes as it is.
      const std::string error = test["error"];
      const std::string words = error.substr(error.find(": ") + 2);
      const std::string message(text.status().message());
      EXPECT_THAT(message, HasSubstr(words));
      if (error.starts_with("TemplateError")) {
        EXPECT_EQ(message, words);
      }
      continue;
    }
    ++texts;
    EXPECT_TRUE(text.ok()) << text.status();
    if (text.ok()) {
      EXPECT_EQ(*text, test["text"].get<std::string>());
    }
  }
  EXPECT_GE(texts, 349);
}

}  // namespace
}  // namespace chorale
