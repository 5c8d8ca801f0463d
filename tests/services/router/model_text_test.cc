#include "services/router/model_text.h"

#include <algorithm>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr int64_t kTokensMax = 1000;
constexpr char kMarked[] =
    "{% if tools %}{{ tools | tojson }}{% endif %}{{ greeting }}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}";
constexpr char kConversation[] =
    R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}])";

class PublicTokens : public testing::Test {
 protected:
  // A model with the tokenizer of bytes and this chat template.
  void Open(const std::string& chat_template) {
    std::ofstream(folder_.path() + "/tokenizer.json") << ByteTokenizerJson();
    std::ofstream(folder_.path() + "/tokenizer_config.json")
        << DumpJson({{"chat_template", chat_template}});
    auto text = ModelText::Load(folder_.path());
    ASSERT_TRUE(text.ok()) << text.status();
    text_ = *text;
  }

  static v1::GenerateRequest Chat(const std::string& messages, int public_messages) {
    v1::GenerateRequest request;
    request.mutable_chat()->set_messages_json(messages);
    request.set_public_messages(public_messages);
    return request;
  }

  Prompt PromptOf(const v1::GenerateRequest& request) {
    auto prompt = text_->PromptOf(request, kTokensMax);
    EXPECT_TRUE(prompt.ok()) << prompt.status();
    return prompt.ok() ? *std::move(prompt) : Prompt();
  }

  int TokensOf(const std::string& text) {
    const auto tokens = text_->Tokenize(text, kTokensMax);
    EXPECT_TRUE(tokens.ok()) << tokens.status();
    return static_cast<int>(tokens->size());
  }

  void ExpectRefused(const v1::GenerateRequest& request, const std::string& begins) {
    const auto prompt = text_->PromptOf(request, kTokensMax);
    EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(prompt.status().message()), StartsWith(begins));
  }

  TempFolder folder_;
  std::shared_ptr<const ModelText> text_;
};

TEST_F(PublicTokens, AreThoseOfTheLeadingMessages) {
  Open(kMarked);
  EXPECT_EQ(PromptOf(Chat(kConversation, 0)).public_tokens, 0);
  EXPECT_EQ(PromptOf(Chat(kConversation, 1)).public_tokens, TokensOf("<system>Be brief.</>"));
  const Prompt all = PromptOf(Chat(kConversation, 2));
  EXPECT_EQ(all.public_tokens, TokensOf("<system>Be brief.</><user>Hello</>"));
  EXPECT_EQ(all.tokens, PromptOf(Chat(kConversation, 0)).tokens);
  EXPECT_GT(static_cast<int>(all.tokens.size()), all.public_tokens);
}

TEST_F(PublicTokens, EndBeforeATokenThatReachesIntoTheNextMessage) {
  Open("{% for m in messages %}{{ m.content }}{% endfor %}");
  const std::string messages =
      R"([{"role": "system", "content": "Sort"}, {"role": "user", "content": "he"}])";
  // "Sort" + "he" has the token "the".
  EXPECT_EQ(PromptOf(Chat(messages, 1)).public_tokens, TokensOf("Sor"));
}

TEST_F(PublicTokens, AreNotThoseOfToolsAndVariables) {
  Open(kMarked);
  v1::GenerateRequest tools = Chat(kConversation, 1);
  tools.mutable_chat()->set_tools_json(R"([{"type": "function"}])");
  EXPECT_EQ(PromptOf(tools).public_tokens, 0);
  v1::GenerateRequest variables = Chat(kConversation, 1);
  variables.mutable_chat()->set_template_json(R"({"greeting": "To Ann: "})");
  EXPECT_EQ(PromptOf(variables).public_tokens, 0);
  EXPECT_EQ(static_cast<int>(PromptOf(variables).tokens.size()),
            TokensOf("To Ann: <system>Be brief.</><user>Hello</><assistant>"));
}

TEST_F(PublicTokens, AreNoneWhenTheTemplateRefusesTheMessagesAlone) {
  Open(
      "{% if messages | length < 2 %}{{ raise_exception('where is the\nuser?') }}{% endif %}"
      "{% for m in messages %}{{ m.content }}{% endfor %}");
  testing::internal::CaptureStderr();
  EXPECT_EQ(PromptOf(Chat(kConversation, 1)).public_tokens, 0);
  EXPECT_EQ(PromptOf(Chat(kConversation, 1)).public_tokens, 0);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;  // said once, on one line
  EXPECT_THAT(log, HasSubstr("where is the\\nuser?"));
  EXPECT_EQ(PromptOf(Chat(kConversation, 2)).public_tokens, TokensOf("Be brief.Hello"));
}

TEST_F(PublicTokens, OfTokenIdsAreAsManyAsTheRequestSays) {
  Open(kMarked);
  v1::GenerateRequest request;
  for (int id = 0; id < 5; ++id) request.mutable_token_ids()->add_ids(id);
  for (int tokens = 0; tokens <= 5; ++tokens) {
    request.set_public_tokens(tokens);
    EXPECT_EQ(PromptOf(request).public_tokens, tokens);
  }
  for (int tokens : {-1, 6, 1 << 30}) {
    request.set_public_tokens(tokens);
    ExpectRefused(request, "field 'public_tokens': " + std::to_string(tokens));
  }
}

TEST_F(PublicTokens, AreRefusedWhereTheyDoNotBelong) {
  Open(kMarked);
  ExpectRefused(Chat(kConversation, 3), "field 'public_messages': 3, expected 0 to the 2");
  ExpectRefused(Chat(kConversation, -1), "field 'public_messages': -1, expected 0 to the 2");
  v1::GenerateRequest chat = Chat(kConversation, 0);
  chat.set_public_tokens(1);
  ExpectRefused(chat, "field 'public_tokens': 1 without token_ids");
  v1::GenerateRequest text;
  text.set_text("a");
  text.set_public_messages(1);
  ExpectRefused(text, "field 'public_messages': 1 without a chat");
}

}  // namespace
}  // namespace chorale
