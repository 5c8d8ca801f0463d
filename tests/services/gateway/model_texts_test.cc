#include "services/gateway/model_texts.h"

#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

void Write(const TempFolder& folder, const std::string& name, const std::string& text) {
  std::ofstream(folder.path() + "/" + name) << text;
}

TEST(ModelTextsTest, AreReadAgainWhenTheWorkerHasReadAnotherVersion) {
  TempFolder folder;
  Write(folder, "tokenizer.json", ByteTokenizerJson());
  ModelTexts texts;
  const auto shown = [&](uint8_t version) {
    const Chat chat = {.messages = OrderedJson::parse(R"([{"role": "user", "content": "x"}])")};
    auto text = texts.Get(folder.path(), "", Digest{.bytes = {version}});
    EXPECT_TRUE(text.ok()) << text.status();
    const auto prompt = (*text)->PromptOf(chat, 1000, absl::UnixEpoch());
    EXPECT_TRUE(prompt.ok()) << prompt.status();
    return prompt->tokens;
  };
  Write(folder, "chat_template.jinja", "a");
  const std::vector<TokenId> first = shown(1);
  Write(folder, "chat_template.jinja", "b");
  EXPECT_EQ(shown(1), first);
  EXPECT_NE(shown(2), first);
}

TEST(ModelTextsTest, AreLookedForAgainWhenTheyWereNotThere) {
  TempFolder folder;
  ModelTexts texts;
  EXPECT_FALSE((*texts.Get(folder.path(), "", {}))->has_tokenizer());
  Write(folder, "tokenizer.json", ByteTokenizerJson());
  EXPECT_TRUE((*texts.Get(folder.path(), "", {}))->has_tokenizer());
}

}  // namespace
}  // namespace chorale
