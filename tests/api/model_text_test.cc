#include "api/model_text.h"

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
constexpr absl::Time kNow = absl::FromUnixSeconds(1767323045);
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

  static Chat ChatOf(const std::string& messages, int public_messages) {
    return {.messages = OrderedJson::parse(messages), .public_messages = public_messages};
  }

  Prompt PromptOf(const PromptRequest& request) {
    auto prompt = text_->PromptOf(request, kTokensMax, kNow);
    EXPECT_TRUE(prompt.ok()) << prompt.status();
    return prompt.ok() ? *std::move(prompt) : Prompt();
  }

  int TokensOf(const std::string& text) {
    const auto tokens = text_->Tokenize(text, kTokensMax);
    EXPECT_TRUE(tokens.ok()) << tokens.status();
    return static_cast<int>(tokens->size());
  }

  void ExpectRefused(const PromptRequest& request, const std::string& begins) {
    const auto prompt = text_->PromptOf(request, kTokensMax, kNow);
    EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(prompt.status().message()), StartsWith(begins));
  }

  TempFolder folder_;
  std::shared_ptr<const ModelText> text_;
};

TEST_F(PublicTokens, AreThoseOfTheLeadingMessages) {
  Open(kMarked);
  EXPECT_EQ(PromptOf(ChatOf(kConversation, 0)).public_tokens, 0);
  EXPECT_EQ(PromptOf(ChatOf(kConversation, 1)).public_tokens, TokensOf("<system>Be brief.</>"));
  const Prompt all = PromptOf(ChatOf(kConversation, 2));
  EXPECT_EQ(all.public_tokens, TokensOf("<system>Be brief.</><user>Hello</>"));
  EXPECT_EQ(all.tokens, PromptOf(ChatOf(kConversation, 0)).tokens);
  EXPECT_GT(static_cast<int>(all.tokens.size()), all.public_tokens);
}

TEST_F(PublicTokens, EndBeforeATokenThatReachesIntoTheNextMessage) {
  Open("{% for m in messages %}{{ m.content }}{% endfor %}");
  const std::string messages =
      R"([{"role": "system", "content": "Sort"}, {"role": "user", "content": "he"}])";
  // "Sort" + "he" has the token "the".
  EXPECT_EQ(PromptOf(ChatOf(messages, 1)).public_tokens, TokensOf("Sor"));
}

TEST_F(PublicTokens, AreNotThoseOfToolsAndVariables) {
  Open(kMarked);
  Chat tools = ChatOf(kConversation, 1);
  tools.tools = OrderedJson::parse(R"([{"type": "function"}])");
  EXPECT_EQ(PromptOf(tools).public_tokens, 0);
  Chat variables = ChatOf(kConversation, 1);
  variables.variables = {{"greeting", "To Ann: "}};
  EXPECT_EQ(PromptOf(variables).public_tokens, 0);
  EXPECT_EQ(static_cast<int>(PromptOf(variables).tokens.size()),
            TokensOf("To Ann: <system>Be brief.</><user>Hello</><assistant>"));
}

TEST_F(PublicTokens, AreNoneWhenTheTemplateRefusesTheMessagesAlone) {
  Open(
      "{% if messages | length < 2 %}{{ raise_exception('where is the\nuser?') }}{% endif %}"
      "{% for m in messages %}{{ m.content }}{% endfor %}");
  const Prompt refused = PromptOf(ChatOf(kConversation, 1));
  EXPECT_EQ(refused.public_tokens, 0);
  EXPECT_THAT(refused.public_refusal, HasSubstr("where is the\\nuser?"));  // on one line
  EXPECT_EQ(PromptOf(ChatOf(kConversation, 2)).public_refusal, "");
  EXPECT_EQ(PromptOf(ChatOf(kConversation, 2)).public_tokens, TokensOf("Be brief.Hello"));
}

TEST_F(PublicTokens, OfTokenIdsAreAsManyAsTheRequestSays) {
  Open(kMarked);
  TokenPrompt prompt = {.ids = {0, 1, 2, 3, 4}};
  for (int tokens = 0; tokens <= 5; ++tokens) {
    prompt.public_tokens = tokens;
    EXPECT_EQ(PromptOf(prompt).public_tokens, tokens);
  }
  for (int tokens : {-1, 6, 1 << 30}) {
    prompt.public_tokens = tokens;
    ExpectRefused(prompt, "field 'public_tokens': " + std::to_string(tokens));
  }
}

TEST_F(PublicTokens, AreRefusedWhereTheyDoNotBelong) {
  Open(kMarked);
  ExpectRefused(ChatOf(kConversation, 3), "field 'public_messages': 3, expected 0 to the 2");
  ExpectRefused(ChatOf(kConversation, -1), "field 'public_messages': -1, expected 0 to the 2");
}

// What the files say beside the tokenizer: templates and special tokens.
class TextOfAModel : public testing::Test {
 protected:
  TextOfAModel() { Write("tokenizer.json", ByteTokenizerJson()); }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_.path() + "/" + name) << text;
  }
  std::shared_ptr<const ModelText> Load() {
    auto text = ModelText::Load(folder_.path());
    EXPECT_TRUE(text.ok()) << text.status();
    return *text;
  }
  static Chat ChatOf(const std::string& messages) {
    return {.messages = OrderedJson::parse(messages)};
  }
  // The text of a chat's prompt.
  std::string Shown(const PromptRequest& request) {
    const auto prompt = Load()->PromptOf(request, kTokensMax, kNow);
    EXPECT_TRUE(prompt.ok()) << prompt.status();
    return (*Tokenizer::Parse(ByteTokenizerJson()))->Decode(prompt->tokens, false);
  }

  TempFolder folder_;
};

TEST_F(TextOfAModel, ATemplateThatIsNotUnderstoodCostsTheChatAlone) {
  Write("chat_template.jinja", "a\n{% include 'x' %}");
  const auto text = Load();
  EXPECT_TRUE(text->Tokenize("the", kTokensMax).ok());
  const absl::Status status =
      text->PromptOf(ChatOf(R"([{"role": "user", "content": "x"}])"), kTokensMax, kNow).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("line 2: the statement 'include'"));
}

TEST_F(TextOfAModel, ATemplatesFaultIsTheRequests) {
  for (const char* source : {"{{ messages|frobnicate }}", "{{ 1 / 0 }}", "{{ 'a'.encode() }}"}) {
    Write("chat_template.jinja", source);
    const absl::Status status =
        Load()->PromptOf(ChatOf(R"([{"role": "user", "content": "x"}])"), kTokensMax, kNow).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  }
}

TEST_F(TextOfAModel, TakesTheTemplateForToolsWhenThereAreTools) {
  Write("tokenizer_config.json",
        R"({"chat_template": [{"name": "default", "template": "D{{ tools is none }}"},
                              {"name": "tool_use", "template": "T{{ tools|length }}"}]})");
  Chat request = ChatOf(R"([{"role": "user", "content": "x"}])");
  EXPECT_EQ(Shown(request), "DTrue");
  request.tools = OrderedJson::parse("[{}]");
  EXPECT_EQ(Shown(request), "T1");
  Write("tokenizer_config.json",
        R"({"chat_template": [{"name": "rag", "template": "R"}]})");
  EXPECT_THAT(std::string(Load()->PromptOf(request, kTokensMax, kNow).status().message()),
              HasSubstr("there is: rag"));
}

TEST_F(TextOfAModel, RefusesWhatItsTemplateWouldPassOver) {
  Write("chat_template.jinja", "{{ messages[0].content }}");
  Chat request = ChatOf(R"([{"role": "user", "content": "x"}])");
  request.tools = OrderedJson::parse("[{}]");
  const auto refusal = [&] {
    return std::string(Load()->PromptOf(request, kTokensMax, kNow).status().message());
  };
  EXPECT_THAT(refusal(), StartsWith("field 'tools': this model's chat template does not read it"));
  request.tools = nullptr;
  request.variables = {{"documents", OrderedJson::array()}};
  EXPECT_THAT(refusal(), StartsWith("field 'documents': "));
}

TEST_F(TextOfAModel, HandsSpecialTokensToTheTemplate) {
  Write("chat_template.jinja",
        "{{ bos_token }}|{{ pad_token }}|{{ eos_token is defined }}|{{ documents is none }}");
  Write("tokenizer_config.json", R"({"bos_token": "<b>", "eos_token": null})");
  Write("special_tokens_map.json", R"({"pad_token": {"content": "<p>"}})");
  EXPECT_EQ(Shown(ChatOf(R"([{"role": "user", "content": "x"}])")), "<b>|<p>|False|True");
}

TEST_F(TextOfAModel, ADeveloperIsTheSystemWhereTheTemplateDoesNotKnowIt) {
  const Chat request = ChatOf(R"([{"role": "developer", "content": "x"}])");
  Write("chat_template.jinja", "{{ messages[0].role }}");
  EXPECT_EQ(Shown(request), "system");
  Write("chat_template.jinja", "{{ messages[0].role == 'developer' }}");
  EXPECT_EQ(Shown(request), "True");
}

TEST_F(TextOfAModel, TakesCallsInOpenAisForm) {
  Write("chat_template.jinja",
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}"
        "{{ c.function.arguments.a }}{% endfor %}{% endfor %}");
  EXPECT_EQ(Shown(ChatOf(R"([{"role": "assistant", "content": null, "tool_calls":
                           [{"function": {"name": "f", "arguments": "{\"a\": 5}"}}]}])")),
            "5");
}

TEST_F(TextOfAModel, AddsTheTokensThatTheConfigAsksFor) {
  const auto plain = *Load()->Tokenize("x", kTokensMax);
  Write("tokenizer_config.json",
        R"({"bos_token": "the", "eos_token": "in", "add_bos_token": true, "add_eos_token": true})");
  const auto added = *Load()->Tokenize("x", kTokensMax);
  const auto tokenizer = *Tokenizer::Parse(ByteTokenizerJson());
  EXPECT_EQ(added, (std::vector<TokenId>{*tokenizer->IdOf("the"), plain[0],
                                         *tokenizer->IdOf("in")}));
  // The template writes its own.
  Write("chat_template.jinja", "{{ bos_token }}x");
  EXPECT_EQ(Load()->PromptOf(ChatOf(R"([{"role": "user", "content": "x"}])"), kTokensMax, kNow)
                ->tokens.size(),
            2u);
}

}  // namespace
}  // namespace chorale
