#include "api/openai_request.h"

#include <optional>
#include <string>
#include <variant>

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "rpc/convert.h"

namespace chorale {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr auto kCompletions = OpenAiEndpoint::kCompletions;
constexpr auto kChat = OpenAiEndpoint::kChatCompletions;

struct Accepted {
  OpenAiEndpoint endpoint;
  const char* json;
  const char* proto;
};

class AcceptedRequest : public testing::TestWithParam<Accepted> {};

TEST_P(AcceptedRequest, SaysWhatTheProtoSays) {
  auto request = ParseOpenAiRequest(GetParam().endpoint, GetParam().json);
  ASSERT_TRUE(request.ok()) << request.status();
  v1::GenerateRequest proto;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(GetParam().proto, &proto));
  auto want = FromProto(proto);
  ASSERT_TRUE(want.ok()) << want.status();
  CompletionRequest& got = request->completion;
  // What only this API has.
  const bool plain = GetParam().endpoint == kCompletions;
  EXPECT_EQ(got.sampling.max_tokens_otherwise, plain ? std::optional(16) : std::nullopt);
  got.sampling.max_tokens_otherwise.reset();
  want->sampling.max_tokens_field = got.sampling.max_tokens_field;
  if (auto* chat = std::get_if<Chat>(&want->prompt)) {
    ASSERT_TRUE(std::holds_alternative<Chat>(got.prompt));
    EXPECT_EQ(std::get<Chat>(got.prompt).messages.dump(), chat->messages.dump());  // and their order
    chat->bytes = std::get<Chat>(got.prompt).bytes;
  }
  EXPECT_EQ(got, *want);
}

INSTANTIATE_TEST_SUITE_P(
    Table, AcceptedRequest,
    testing::Values(
        Accepted{kCompletions, R"({"model": "m", "prompt": "Hi"})",
                 R"(model: "m" text: "Hi" n: 1 sampling {})"},
        Accepted{kCompletions, R"({"prompt": ["Hi"], "max_tokens": 3})",
                 R"(text: "Hi" n: 1 sampling { max_tokens: 3 })"},
        Accepted{kCompletions, R"({"prompt": [1, 2, 3], "max_tokens": 3})",
                 R"(token_ids { ids: [1, 2, 3] } n: 1 sampling { max_tokens: 3 })"},
        Accepted{kCompletions, R"({"prompt": [[4, 5]], "max_tokens": 3})",
                 R"(token_ids { ids: [4, 5] } n: 1 sampling { max_tokens: 3 })"},
        Accepted{kCompletions, R"({"prompt": "", "max_tokens": null, "user": "u", "metadata": {}})",
                 R"(text: "" n: 1 sampling {})"},
        Accepted{kCompletions,
                 R"({"prompt": "a", "max_tokens": 5, "temperature": 0, "top_p": 0.5, "top_k": 7,
                     "min_p": 0.25, "presence_penalty": -1, "frequency_penalty": 1.5,
                     "repetition_penalty": 1.25, "seed": -1, "logit_bias": {"3": -100, "4": 2.5},
                     "logprobs": 2, "stop": "x", "stop_token_ids": [9], "ignore_eos": true, "n": 2,
                     "best_of": 2, "echo": false, "suffix": null, "no_prefix_reuse": true})",
                 R"(text: "a" n: 2 no_prefix_reuse: true sampling {
                      max_tokens: 5 temperature: 0 top_p: 0.5 top_k: 7 min_p: 0.25
                      presence_penalty: -1 frequency_penalty: 1.5 repetition_penalty: 1.25
                      seed: 18446744073709551615 logit_bias { key: 3 value: -100 }
                      logit_bias { key: 4 value: 2.5 } logprobs: 2 stop: "x" stop_token_ids: 9
                      ignore_eos: true })"},
        Accepted{kCompletions,
                 R"({"prompt": "a", "max_tokens": 5, "top_k": -1, "stop": ["x", "y"]})",
                 R"(text: "a" n: 1 sampling { max_tokens: 5 top_k: 0 stop: ["x", "y"] })"},
        Accepted{kChat, R"({"messages": [{"role": "user", "content": "Hi"}]})",
                 R"(chat { messages_json: '[{"role":"user","content":"Hi"}]' } n: 1 sampling {})"},
        Accepted{kChat,
                 R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
                     {"type": "text", "text": "b"}]}], "max_completion_tokens": 4})",
                 R"(chat { messages_json: '[{"role":"user","content":"ab"}]' } n: 1
                    sampling { max_tokens: 4 })"},
        Accepted{
            kChat,
            R"({"messages": [{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}],
                     "tools": [{"type": "function", "function": {"name": "f", "a": 1}}],
                     "tool_choice": "auto", "chat_template_kwargs": {"z": 1, "a": 2}})",
            R"(chat { messages_json:
                      '[{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]}]'
                      tools_json: '[{"type":"function","function":{"name":"f","a":1}}]'
                      template_json: '{"z":1,"a":2}' } n: 1 sampling {})"},
        Accepted{kChat,
                 R"({"messages": [{"role": "user", "content": "a"}], "tool_choice": "none",
                     "tools": [{"type": "function", "function": {"name": "f"}}],
                     "response_format": {"type": "text"}})",
                 R"(chat { messages_json: '[{"role":"user","content":"a"}]' } n: 1 sampling {})"},
        Accepted{kChat,
                 R"({"messages": [{"role": "user", "content": "a"}], "logprobs": true,
                     "top_logprobs": 3})",
                 R"(chat { messages_json: '[{"role":"user","content":"a"}]' } n: 1
                    sampling { logprobs: 3 })"},
        Accepted{kCompletions, R"({"prompt": [1, 2], "max_tokens": 3, "public_tokens": 2})",
                 R"(token_ids { ids: [1, 2] } public_tokens: 2 n: 1 sampling { max_tokens: 3 })"},
        Accepted{kChat,
                 R"({"messages": [{"role": "system", "content": "a", "public": true},
                     {"role": "user", "public": true, "content": "b"},
                     {"role": "assistant", "content": "c", "public": false},
                     {"public": null, "role": "user", "content": "d"}]})",
                 R"(chat { messages_json:
                      '[{"role":"system","content":"a"},{"role":"user","content":"b"},'
                      '{"role":"assistant","content":"c"},{"role":"user","content":"d"}]' }
                    public_messages: 2 n: 1 sampling {})"},
        Accepted{kChat, R"({"messages": [{"role": "user", "content": "a"}], "logprobs": true})",
                 R"(chat { messages_json: '[{"role":"user","content":"a"}]' } n: 1
                    sampling { logprobs: 0 })"}));

struct RefusedCase {
  OpenAiEndpoint endpoint;
  const char* json;
  const char* begins;
  const char* says;
};

class RefusedRequest : public testing::TestWithParam<RefusedCase> {};

TEST_P(RefusedRequest, NamesTheFieldAndTheRemedy) {
  const auto request = ParseOpenAiRequest(GetParam().endpoint, GetParam().json);
  ASSERT_FALSE(request.ok());
  EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(request.status().message());
  EXPECT_THAT(message, StartsWith(GetParam().begins));
  EXPECT_THAT(message, HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    Completions, RefusedRequest,
    testing::Values(
        RefusedCase{kCompletions, "{", "request body: ", "not valid JSON"},
        RefusedCase{kCompletions, "", "request body: ", "not valid JSON"},
        RefusedCase{kCompletions, "[1]", "request body: ", "expected a JSON object"},
        RefusedCase{kCompletions, "{\"prompt\": \"\xff\"}", "request body: ", "UTF-8"},
        RefusedCase{kCompletions, R"({"prompt": "\ud800"})", "request body: ", "surrogate"},
        RefusedCase{kCompletions, "{}", "field 'prompt': ", "missing"},
        RefusedCase{kCompletions, R"({"prompt": []})", "field 'prompt': ", "expected a string"},
        RefusedCase{kCompletions, R"({"prompt": 3})", "field 'prompt': ", "found 3"},
        RefusedCase{kCompletions, R"({"prompt": ["a", "b"]})", "field 'prompt': ", "2 prompts"},
        RefusedCase{kCompletions, R"({"prompt": [1, "b"]})",
                    "field 'prompt': ", "\"b\" is not a token id"},
        RefusedCase{kCompletions, R"({"prompt": [4294967296]})",
                    "field 'prompt': ", "not a token id"},
        RefusedCase{kCompletions, R"({"prompt": "a", "model": 3})", "field 'model'", "a string"},
        RefusedCase{kCompletions, R"({"prompt": "a", "temperature": "hot"})", "field 'temperature'",
                    "a number"},
        RefusedCase{kCompletions, R"({"prompt": "a", "max_tokens": 1e12})",
                    "field 'max_tokens': ", "does not fit"},
        RefusedCase{kCompletions, R"({"prompt": "a", "max_tokens": 1.5})", "field 'max_tokens'",
                    "an integer"},
        RefusedCase{kCompletions, R"({"prompt": "a", "suffix": "end"})",
                    "field 'suffix': ", "\"end\""},
        RefusedCase{kCompletions, R"({"prompt": "a", "echo": true})",
                    "field 'echo': ", "not supported"},
        RefusedCase{kCompletions, R"({"prompt": "a", "best_of": 3})",
                    "field 'best_of': ", "n of 3"},
        RefusedCase{kCompletions, R"({"prompt": "a", "n": 0})", "field 'n': 0", "1 to 128"},
        RefusedCase{kCompletions, R"({"prompt": "a", "n": 1000000})", "field 'n': 1000000",
                    "1 to 128"},
        RefusedCase{kCompletions, R"({"prompt": "a", "stop": [""]})",
                    "field 'stop': ", "not empty"},
        RefusedCase{kCompletions, R"({"prompt": "a", "stop": 3})", "field 'stop': ", "found 3"},
        RefusedCase{kCompletions, R"({"prompt": "a", "logit_bias": {"x": 1}})",
                    "field 'logit_bias': ", "key 'x'"},
        RefusedCase{kCompletions, R"({"prompt": "a", "logit_bias": {"1": "x"}})",
                    "field 'logit_bias': ", "token 1"},
        RefusedCase{kCompletions, R"({"prompt": "a", "logprobs": 21})", "field 'logprobs': 21",
                    "0 to 20"},
        RefusedCase{kCompletions, R"({"prompt": "a", "logprobs": true})", "field 'logprobs'",
                    "an integer"},
        RefusedCase{kCompletions, R"({"prompt": "a", "public_tokens": 1})",
                    "field 'public_tokens': 1", "send token ids"},
        RefusedCase{kCompletions, R"({"prompt": [1], "public_tokens": true})",
                    "field 'public_tokens'", "an integer"},
        RefusedCase{kCompletions, R"({"prompt": "a", "stream_options": {"include_usage": true}})",
                    "field 'stream_options': ", "set stream to true"},
        RefusedCase{kCompletions, R"({"prompt": "a", "add_special_tokens": false})",
                    "field 'add_special_tokens': false", "token ids"},
        RefusedCase{kCompletions, R"({"prompt": "a", "seed": 123456789012345678901})",
                    "request body: the integer 123456789012345678901", "as a string"}));

INSTANTIATE_TEST_SUITE_P(
    Chat, RefusedRequest,
    testing::Values(
        RefusedCase{kChat, R"({"prompt": "a"})", "field 'messages': ", "missing"},
        RefusedCase{kChat, R"({"messages": []})", "field 'messages': ", "at least one"},
        RefusedCase{kChat, R"({"messages": [3]})", "field 'messages[0]': ", "found 3"},
        RefusedCase{kChat, R"({"messages": [{"content": "a"}]})",
                    "field 'messages[0].role': ", "user"},
        RefusedCase{kChat, R"({"messages": [{"role": "user"}]})",
                    "field 'messages[0].content': ", "missing"},
        RefusedCase{kChat, R"({"messages": [{"role": "user", "content": 3}]})",
                    "field 'messages[0].content': ", "found 3"},
        RefusedCase{kChat,
                    R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})",
                    "field 'messages[0].content': ", "'image_url' are not supported"},
        RefusedCase{kChat,
                    R"({"messages": [{"role": "s", "content": "a"},
                        {"role": "u", "content": "b", "public": true}]})",
                    "field 'messages[1].public': true, but messages[0] before it is not",
                    "mark the leading messages only"},
        RefusedCase{kChat, R"({"messages": [{"role": "s", "content": "a", "public": 1}]})",
                    "field 'messages[0].public': ", "true or false, found 1"},
        RefusedCase{kChat, R"({"messages": [{"role": "u", "content": "a"}], "public_tokens": 1})",
                    "field 'public_tokens': 1", "\"public\": true"},
        RefusedCase{kChat, R"({"messages": [{"role": "u", "content": "a"}], "functions": [{}]})",
                    "field 'functions': ", "use tools"},
        RefusedCase{kChat,
                    R"({"messages": [{"role": "u", "content": "a"}], "tool_choice": "required"})",
                    "field 'tool_choice': ", "\"required\""},
        RefusedCase{kChat, R"({"messages": [{"role": "u", "content": "a"}], "tools": [{}]})",
                    "field 'tools[0]': ", "expected"},
        RefusedCase{kChat,
                    R"({"messages": [{"role": "u", "content": "a"}],
                        "response_format": {"type": "json_object"}})",
                    "field 'response_format': ", "json_object"},
        RefusedCase{kChat,
                    R"({"messages": [{"role": "u", "content": "a"}], "max_tokens": 3,
                        "max_completion_tokens": 4})",
                    "field 'max_completion_tokens': 4", "max_tokens is 3"},
        RefusedCase{kChat, R"({"messages": [{"role": "u", "content": "a"}], "top_logprobs": 3})",
                    "field 'top_logprobs': 3", "logprobs to true"},
        RefusedCase{kChat,
                    R"({"messages": [{"role": "u", "content": "a"}], "chat_template_kwargs": 3})",
                    "field 'chat_template_kwargs': ", "found 3"},
        RefusedCase{kChat,
                    R"({"messages": [{"role": "u", "content": "a"}],
                        "chat_template_kwargs": {"messages": []}})",
                    "field 'chat_template_kwargs.messages': ", "leave it out"},
        RefusedCase{kChat,
                    R"({"messages": [{"role": "u", "content": "a"}], "chat_template": "{{ 1 }}"})",
                    "field 'chat_template': ", "the model's own"},
        RefusedCase{kChat, R"({"messages": [{"role": "u", "content": "a"}], "documents": "d"})",
                    "field 'documents': ", "a list of objects"},
        RefusedCase{kChat,
                    R"({"messages": [{"role": "u", "content": "a"}], "add_special_tokens": true})",
                    "field 'add_special_tokens': true", "template"},
        RefusedCase{kChat,
                    R"({"messages": [{"role": "u", "content": "a",
                                      "x": -123456789012345678901234567890}]})",
                    "request body: the integer -12345678901234567890", "as a string"}));

TEST(ParseOpenAiRequest, ReadsTheStreamOptions) {
  const auto plain = ParseOpenAiRequest(kCompletions, R"({"prompt": "a", "stream": true})");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_TRUE(plain->stream);
  EXPECT_FALSE(plain->include_usage);
  const auto usage = ParseOpenAiRequest(
      kCompletions,
      R"({"prompt": "a", "stream": true, "stream_options": {"include_usage": true}})");
  ASSERT_TRUE(usage.ok()) << usage.status();
  EXPECT_TRUE(usage->include_usage);
}

TEST(ParseOpenAiRequest, RefusesNestingThatIsTooDeep) {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  const auto request = ParseOpenAiRequest(kChat, R"({"messages": )" + deep + "}");
  EXPECT_THAT(std::string(request.status().message()), HasSubstr("nested deeper"));
}

// A body is looked through once; what its objects cost to order is bounded.
TEST(ParseOpenAiRequest, BoundsTheKeysOfObjects) {
  const auto object = [](int keys) {
    std::string text = "{";
    for (int i = 0; i < keys; ++i) text += absl::StrCat(i == 0 ? "" : ",", "\"", i, "\":1");
    return text + "}";
  };
  const auto status = [&](const std::string& junk) {
    return ParseOpenAiRequest(kCompletions, R"({"prompt": "a", "x": )" + junk + "}").status();
  };
  EXPECT_TRUE(status(object(1025)).ok()) << "what logit_bias may have is for its own check";
  EXPECT_THAT(std::string(status(object(5000)).message()), HasSubstr("more than 2048 keys"));
  std::string many = "[" + object(2000);
  for (int i = 0; i < 40; ++i) many += "," + object(2000);
  EXPECT_THAT(std::string(status(many + "]").message()), HasSubstr("too many objects"));
  std::string empty = "[{}";
  for (int i = 0; i < 300'000; ++i) empty += ",{}";
  EXPECT_TRUE(status(empty + "]").ok());
}

}  // namespace
}  // namespace chorale
