#include "rpc/convert.h"

#include <string>
#include <variant>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace chorale {
namespace {

using testing::StartsWith;

constexpr char kMessages[] = R"([{"role": "user", "content": [{"type": "text", "text": "a"},
    {"type": "text", "text": "b"}], "a": 2}])";

std::string Refusal(const v1::GenerateRequest& request) {
  return std::string(FromProto(request).status().message());
}

TEST(ConvertTest, WhatIsPublicBelongsToTheKindOfPrompt) {
  v1::GenerateRequest chat;
  chat.mutable_chat()->set_messages_json(kMessages);
  chat.set_public_tokens(1);
  EXPECT_THAT(Refusal(chat), StartsWith("field 'public_tokens': 1 without token_ids"));
  v1::GenerateRequest text;
  text.set_text("a");
  text.set_public_messages(1);
  EXPECT_THAT(Refusal(text), StartsWith("field 'public_messages': 1 without a chat"));
}

TEST(ConvertTest, AChatIsParsedOnceAndRefusedWhenItCannotBe) {
  v1::GenerateRequest request;
  request.mutable_chat()->set_messages_json("[{");
  EXPECT_THAT(Refusal(request), StartsWith("messages: not valid JSON"));
  request.mutable_chat()->set_messages_json(kMessages);
  request.mutable_chat()->set_template_json("[]");
  EXPECT_THAT(Refusal(request), StartsWith("field 'chat_template_kwargs': expected an object"));
  request.mutable_chat()->set_template_json(R"({"messages": []})");
  EXPECT_THAT(Refusal(request), StartsWith("field 'chat_template_kwargs.messages': "));
  request.mutable_chat()->set_template_json(R"({"x": 123456789012345678901234})");
  EXPECT_THAT(Refusal(request), StartsWith("chat_template_kwargs: the integer 1234567890"));
  request.mutable_chat()->set_template_json(R"({"x": 1, "documents": [{"text": "d"}]})");
  const auto chat = FromProto(request);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(std::get<Chat>(chat->prompt).messages.dump(), R"([{"role":"user","content":"ab","a":2}])");
  EXPECT_EQ(std::get<Chat>(chat->prompt).variables.dump(),
            R"({"x":1,"documents":[{"text":"d"}]})");
}

TEST(ConvertTest, AChunkComesThroughTheWireAsItIs) {
  const CompletionChunk chunk = {
      .number = 3,
      .index = 1,
      .tokens = {7, 9},
      .text = "ab",
      .logprobs = {{.chosen = {7, -0.5F, "a"}, .top = {{8, -1, "x"}}}},
      .finish = FinishReason::kLength,
      .usage = Usage{.prompt_tokens = 5, .cached_tokens = 4, .completion_tokens = 2},
      .times = CallTimes{.queue = absl::Microseconds(1), .total = absl::Microseconds(9)}};
  const v1::GenerateChunk proto = ToProto(chunk);
  const CompletionChunk back = FromProto(proto);
  EXPECT_EQ(back.number, 3);
  EXPECT_EQ(back.index, 1);
  EXPECT_EQ(back.tokens, chunk.tokens);
  EXPECT_EQ(back.text, "ab");
  EXPECT_EQ(back.logprobs.at(0).top.at(0).bytes, "x");
  EXPECT_EQ(back.finish, FinishReason::kLength);
  EXPECT_EQ(back.usage->cached_tokens, 4);
  EXPECT_EQ(back.times->total, absl::Microseconds(9));
  EXPECT_EQ(ToProto(back).SerializeAsString(), proto.SerializeAsString());
}

TEST(ConvertTest, ADecodeRequestComesThroughTheWireAsItIs) {
  const GenerateRequest request = {
      .model = "m",
      .prompt = {1, 2, 3},
      .sampling = {.temperature = 0.5, .top_k = 4, .seed = ~uint64_t{0}, .logit_bias = {{3, -1.5}},
                   .max_tokens = 9, .ignore_eos = true, .stop_tokens = {2}, .stop = {"x"},
                   .logprobs = 2},
      .n = 2,
      .scope = {"salt", 2},
      .reuse_prefix = false};
  const GenerateRequest back = FromProto(ToProto(request));
  EXPECT_EQ(back.prompt, request.prompt);
  EXPECT_EQ(back.sampling.logit_bias, request.sampling.logit_bias);
  EXPECT_EQ(back.sampling.seed, request.sampling.seed);
  EXPECT_EQ(back.sampling.logprobs, request.sampling.logprobs);
  EXPECT_EQ(back.scope.tenant_salt, "salt");
  EXPECT_EQ(ToProto(back).SerializeAsString(), ToProto(request).SerializeAsString());
}

}  // namespace
}  // namespace chorale
