#include "api/openai_response.h"

#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "rpc/convert.h"

namespace chorale {
namespace {

constexpr auto kCompletions = OpenAiEndpoint::kCompletions;
constexpr auto kChat = OpenAiEndpoint::kChatCompletions;

CompletionChunk Chunk(const std::string& text) {
  v1::GenerateChunk chunk;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &chunk)) << text;
  return FromProto(std::move(chunk));
}

ReplyHead Head(OpenAiEndpoint endpoint, bool logprobs = false) {
  return {
      .endpoint = endpoint, .id = "id-1", .model = "m", .created_seconds = 7, .logprobs = logprobs};
}

constexpr char kUsage[] =
    "usage { prompt_tokens: 5 cached_tokens: 4 transferred_tokens: 1 completion_tokens: 2 }";

const Json kUsageJson = Json::parse(R"({"prompt_tokens": 5, "completion_tokens": 2,
    "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4, "transferred_tokens": 1}})");

// The JSON of each event; "[DONE]" as a string.
std::vector<Json> EventsOf(const std::string& text) {
  std::vector<Json> events;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = text.find("\n\n", begin);
    EXPECT_NE(end, std::string::npos) << text;
    const std::string line = text.substr(begin, end - begin);
    EXPECT_EQ(line.substr(0, 6), "data: ");
    const std::string data = line.substr(6);
    events.push_back(data == "[DONE]" ? Json(data) : Json::parse(data));
    begin = end + 2;
  }
  return events;
}

TEST(CompletionReply, JoinsTheChunksOfEachSequence) {
  CompletionReply reply(Head(kCompletions), 2);
  reply.Add(Chunk("index: 1 text: 'x'"));
  reply.Add(Chunk("index: 0 text: 'a'"));
  reply.Add(Chunk("index: 0 text: 'b' finish_reason: FINISH_REASON_LENGTH"));
  reply.Add(Chunk(std::string("index: 1 finish_reason: FINISH_REASON_STOP ") + kUsage));
  reply.Add(Chunk("index: 9 text: 'never asked for'"));
  Json want = Json::parse(R"({"id": "id-1", "object": "text_completion", "created": 7, "model": "m",
    "choices": [{"index": 0, "text": "ab", "finish_reason": "length", "logprobs": null},
                {"index": 1, "text": "x", "finish_reason": "stop", "logprobs": null}]})");
  want["usage"] = kUsageJson;
  EXPECT_EQ(Json::parse(reply.Body()), want);
}

TEST(CompletionReply, GivesChatsAMessage) {
  CompletionReply reply(Head(kChat), 1);
  reply.Add(Chunk(std::string("text: 'Hi' finish_reason: FINISH_REASON_STOP ") + kUsage));
  Json want = Json::parse(R"({"id": "id-1", "object": "chat.completion", "created": 7, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "logprobs": null,
                 "message": {"role": "assistant", "content": "Hi", "refusal": null}}]})");
  want["usage"] = kUsageJson;
  EXPECT_EQ(Json::parse(reply.Body()), want);
}

constexpr char kTwoTokens[] = R"(text: "é!" token_ids: [1, 2]
  logprobs { chosen { token_id: 1 logprob: -0.5 text: "\303\251" }
             top { token_id: 1 logprob: -0.5 text: "\303\251" }
             top { token_id: 3 logprob: -1 text: "\303" } }
  logprobs { chosen { token_id: 2 logprob: -inf text: "!" } })";

TEST(CompletionReply, WritesTheLogprobsOfCompletions) {
  CompletionReply reply(Head(kCompletions, true), 1);
  reply.Add(Chunk(kTwoTokens));
  const Json body = Json::parse(reply.Body());
  EXPECT_EQ(body["choices"][0]["logprobs"], Json::parse(R"({"tokens": ["é", "!"],
      "token_logprobs": [-0.5, -9999.0], "text_offset": [0, 1],
      "top_logprobs": [{"é": -0.5, "bytes:\\xc3": -1.0}, {"!": -9999.0}]})"));
}

// A snowman in three tokens, and what comes after it.
TEST(CompletionReply, GivesPartsOfACharacterItsOffset) {
  CompletionReply reply(Head(kCompletions, true), 1);
  reply.Add(Chunk(R"(logprobs { chosen { token_id: 1 text: "a\342" } }
                     logprobs { chosen { token_id: 2 text: "\230" } })"));
  reply.Add(Chunk(R"(logprobs { chosen { token_id: 3 text: "\203b" } }
                     logprobs { chosen { token_id: 4 text: "c" } })"));
  EXPECT_EQ(Json::parse(reply.Body())["choices"][0]["logprobs"]["text_offset"],
            Json::parse("[0, 1, 1, 3]"));
}

TEST(CompletionReply, ListsTheChosenTokenAmongTheTopOnes) {
  const char* chunk = R"(logprobs { chosen { token_id: 9 logprob: -3 text: "z" }
                                    top { token_id: 1 logprob: -0.5 text: "a" } })";
  CompletionReply chat(Head(kChat, true), 1);
  chat.Add(Chunk(chunk));
  const Json top = Json::parse(chat.Body())["choices"][0]["logprobs"]["content"][0]["top_logprobs"];
  ASSERT_EQ(top.size(), 2u);
  EXPECT_EQ(top[0]["token"], "a");
  EXPECT_EQ(top[1]["token"], "z");
  CompletionReply completion(Head(kCompletions, true), 1);
  completion.Add(Chunk(chunk));
  EXPECT_EQ(Json::parse(completion.Body())["choices"][0]["logprobs"]["top_logprobs"],
            Json::parse(R"([{"a": -0.5, "z": -3.0}])"));
}

TEST(CompletionReply, WritesTheLogprobsOfChats) {
  CompletionReply reply(Head(kChat, true), 1);
  reply.Add(Chunk(kTwoTokens));
  const Json body = Json::parse(reply.Body());
  EXPECT_EQ(body["choices"][0]["logprobs"], Json::parse(R"({"refusal": null, "content": [
      {"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": [
         {"token": "é", "logprob": -0.5, "bytes": [195, 169]},
         {"token": "bytes:\\xc3", "logprob": -1.0, "bytes": [195]}]},
      {"token": "!", "logprob": -9999.0, "bytes": [33], "top_logprobs": []}]})"));
}

TEST(StreamReply, SendsOneEventForEachChunkOfACompletion) {
  StreamReply reply(Head(kCompletions), false);
  EXPECT_EQ(reply.Events(Chunk("index: 1 text: 'a'")),
            "data: {\"choices\":[{\"finish_reason\":null,\"index\":1,\"logprobs\":null,"
            "\"text\":\"a\"}],\"created\":7,\"id\":\"id-1\",\"model\":\"m\","
            "\"object\":\"text_completion\"}\n\n");
  EXPECT_EQ(reply.Events(Chunk("index: 1 token_ids: 3")), "") << "half a code point";
  const auto last = EventsOf(reply.Events(Chunk("finish_reason: FINISH_REASON_STOP")));
  ASSERT_EQ(last.size(), 1u);
  EXPECT_EQ(last[0]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(reply.End(), "data: [DONE]\n\n");
}

TEST(StreamReply, BeginsAChatWithTheRoleAndEndsItWithAnEmptyDelta) {
  StreamReply reply(Head(kChat), true);
  const auto first = EventsOf(reply.Events(Chunk("text: 'a'")));
  ASSERT_EQ(first.size(), 2u);
  EXPECT_EQ(first[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(first[0]["choices"][0]["delta"],
            Json::parse(R"({"role": "assistant", "content": ""})"));
  EXPECT_EQ(first[1]["choices"][0]["delta"], Json::parse(R"({"content": "a"})"));
  EXPECT_TRUE(first[1]["usage"].is_null());
  const auto last = EventsOf(
      reply.Events(Chunk(std::string("text: 'b' finish_reason: FINISH_REASON_LENGTH ") + kUsage)));
  ASSERT_EQ(last.size(), 2u);
  EXPECT_EQ(last[0]["choices"][0]["delta"], Json::parse(R"({"content": "b"})"));
  EXPECT_TRUE(last[0]["choices"][0]["finish_reason"].is_null());
  EXPECT_EQ(last[1]["choices"][0]["delta"], Json::object());
  EXPECT_EQ(last[1]["choices"][0]["finish_reason"], "length");
  const auto end = EventsOf(reply.End());
  ASSERT_EQ(end.size(), 2u);
  EXPECT_EQ(end[0]["choices"], Json::array());
  EXPECT_EQ(end[0]["usage"], kUsageJson);
  EXPECT_EQ(end[1], "[DONE]");
}

TEST(StreamReply, CountsTextOffsetsOverTheWholeStream) {
  StreamReply reply(Head(kCompletions, true), false);
  reply.Events(Chunk(kTwoTokens));
  const auto second = EventsOf(reply.Events(Chunk(kTwoTokens)));
  EXPECT_EQ(second[0]["choices"][0]["logprobs"]["text_offset"], Json::parse("[2, 3]"));
}

TEST(Errors, HaveOpenAisShape) {
  EXPECT_EQ(
      Json::parse(ErrorBody(absl::InvalidArgumentError("field 'top_p': 3 is not within (0, 1]"))),
      Json::parse(R"({"error": {"message": "field 'top_p': 3 is not within (0, 1]",
                "type": "invalid_request_error", "param": "top_p", "code": null}})"));
  EXPECT_EQ(
      Json::parse(ErrorBody(absl::InvalidArgumentError("field 'n': expected")))["error"]["param"],
      "n");
  EXPECT_TRUE(
      Json::parse(ErrorBody(absl::InvalidArgumentError("request body: bad")))["error"]["param"]
          .is_null());
  const Json missing = Json::parse(ErrorBody(absl::NotFoundError("model 'x' does not exist")));
  EXPECT_EQ(missing["error"]["code"], "model_not_found");
  EXPECT_EQ(missing["error"]["param"], "model");
  EXPECT_EQ(ErrorEvent(absl::UnavailableError("lost")),
            "data: {\"error\":{\"code\":null,\"message\":\"lost\",\"param\":null,"
            "\"type\":\"server_error\"}}\n\n");
}

TEST(Errors, HaveTheHttpStatusThatFits) {
  using absl::StatusCode;
  const struct {
    StatusCode code;
    int http;
    int retry_after;
  } table[] = {{StatusCode::kInvalidArgument, 400, 0},  {StatusCode::kFailedPrecondition, 400, 0},
               {StatusCode::kOutOfRange, 400, 0},       {StatusCode::kUnauthenticated, 401, 0},
               {StatusCode::kNotFound, 404, 0},         {StatusCode::kResourceExhausted, 429, 1},
               {StatusCode::kUnimplemented, 501, 0},    {StatusCode::kUnavailable, 503, 1},
               {StatusCode::kDeadlineExceeded, 504, 0}, {StatusCode::kInternal, 500, 0},
               {StatusCode::kCancelled, 500, 0}};
  for (const auto& row : table) {
    const absl::Status status(row.code, "why");
    EXPECT_EQ(HttpStatusOf(status), row.http) << status;
    EXPECT_EQ(RetryAfterSeconds(status), row.retry_after) << status;
  }
}

TEST(Models, ListsNamesAndContext) {
  const ModelTable models(
      {{.served = {.name = "m", .mode = "standard", .context_tokens = 9}},
       {.served = {.name = "a", .mode = "icarus", .context_tokens = 9}}});
  EXPECT_EQ(Json::parse(ModelsBody(models, 7)), Json::parse(R"({"object": "list", "data": [
      {"id": "a", "object": "model", "created": 7, "owned_by": "chorale", "mode": "icarus",
       "max_model_len": 9},
      {"id": "m", "object": "model", "created": 7, "owned_by": "chorale", "mode": "standard",
       "max_model_len": 9}]})"));
}

}  // namespace
}  // namespace chorale
