// Generations over HTTP: replies, streams, and clients that go away.
#include <string>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "base/json.h"
#include "tests/services/http/http_fixture.h"

namespace chorale {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr char kPath[] = "/v1/completions";
constexpr char kPlain[] = R"({"prompt": [1, 2]})";
constexpr char kStream[] = R"({"prompt": [1, 2], "stream": true})";
// Of 64 KiB: more than the buffers of both sockets hold (6 MiB), less than the inbox does (8 MiB).
constexpr int kUnreadChunks = 112;
constexpr char kLast[] =
    "sequence_number: 1 text: 'b' finish_reason: FINISH_REASON_STOP "
    "usage { prompt_tokens: 2 completion_tokens: 2 }";

TEST_F(HttpTest, RepliesWithTheWholeCompletion) {
  Open();
  Client client(server_->address());
  client.Post(kPath, R"({"model": "m", "prompt": [1, 2], "max_tokens": 3, "seed": 9})");
  auto call = backend_.NextCall();
  EXPECT_EQ(call->request().model, "m");
  EXPECT_EQ(call->request().prompt.size(), 2);
  EXPECT_EQ(call->request().sampling.max_tokens, 3);
  EXPECT_EQ(call->request().sampling.seed, 9u);
  call->Chunk("text: 'a'");
  call->Chunk(kLast);
  call->Done(absl::OkStatus());
  const Response response = client.Read();
  EXPECT_EQ(response.status, 200);
  const Json body = Json::parse(response.body);
  EXPECT_EQ(body["choices"][0]["text"], "ab");
  EXPECT_EQ(body["usage"]["total_tokens"], 4);
  EXPECT_EQ(body["model"], "m");
}

TEST_F(HttpTest, EndsAReplyThatGrowsTooLongToBeSentWhole) {
  HttpServerOptions options;
  options.limits.reply_bytes_max = 1000;
  Open(options);
  Client client(server_->address());
  client.Post(kPath, kPlain);
  auto call = backend_.NextCall();
  for (int i = 0; i < 11; ++i) call->ChunkOfText(std::string(100, 'a'));
  call->WaitUntilCancelled();
  const Response response = client.Read();
  EXPECT_EQ(response.status, 429);
  EXPECT_THAT(response.body, HasSubstr("stream"));
}

TEST_F(HttpTest, StreamsEventsAsTheyComeAndKeepsTheConnection) {
  Open();
  Client client(server_->address());
  for (int i = 0; i < 2; ++i) {
    client.Post(kPath, kStream);
    auto call = backend_.NextCall();
    call->Chunk("text: 'a'");
    EXPECT_TRUE(client.ReadUntil("\"text\":\"a\""));  // before the call has ended
    call->Chunk(kLast);
    call->Done(absl::OkStatus());
    const Response response = client.Read();
    EXPECT_EQ(response.status, 200);
    EXPECT_THAT(response.head, HasSubstr("Content-Type: text/event-stream"));
    const size_t a = response.body.find("\"text\":\"a\"");
    const size_t b = response.body.find("\"text\":\"b\"");
    ASSERT_NE(b, std::string::npos) << response.body;
    EXPECT_LT(a, b);
    EXPECT_THAT(response.body, testing::StartsWith("data: {"));
    EXPECT_THAT(response.body, testing::EndsWith("}\n\ndata: [DONE]\n\n"));
  }
}

TEST_F(HttpTest, EndsAStreamForHttp10WithTheConnection) {
  Open();
  Client client(server_->address());
  client.Send(
      "POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 34\r\n\r\n" +
      std::string(kStream));
  auto call = backend_.NextCall();
  call->Chunk(kLast);
  call->Done(absl::OkStatus());
  const std::string all = client.ReadToEnd();
  EXPECT_THAT(all, Not(HasSubstr("chunked")));
  EXPECT_THAT(all, testing::EndsWith("\n\ndata: [DONE]\n\n"));
}

TEST_F(HttpTest, AnswersBadRequestsAndGoesOn) {
  Open();
  Client client(server_->address());
  const std::pair<const char*, const char*> table[] = {
      {"{", "not valid JSON"},
      {R"({"prompt": [1], "echo": true})", "'echo': true"},
      {R"({"prompt": [100]})", "token id 100"},
      {R"({"prompt": "text"})", "no tokenizer"},
      {R"({"prompt": [1], "temperature": -1, "stream": true})", "temperature"},
  };
  for (const auto& [json, says] : table) {
    client.Post(kPath, json);
    const Response response = client.Read();
    EXPECT_EQ(response.status, 400) << json;
    EXPECT_THAT(std::string(Json::parse(response.body)["error"]["message"]), HasSubstr(says));
  }
  client.Post(kPath, R"({"model": "x", "prompt": [1]})");
  EXPECT_EQ(client.Read().status, 404);
  client.Post("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "a"}]})");
  EXPECT_EQ(client.Read().status, 400);
}

TEST_F(HttpTest, TellsWhyACallFailedBeforeItsFirstToken) {
  Open();
  Client client(server_->address());
  client.Post(kPath, kStream);
  backend_.NextCall()->Done(absl::ResourceExhaustedError("the queue is full"));
  const Response busy = client.Read();
  EXPECT_EQ(busy.status, 429);
  EXPECT_THAT(busy.head, HasSubstr("Retry-After: 1\r\n"));
  EXPECT_EQ(Json::parse(busy.body)["error"]["type"], "rate_limit_error");
  client.Post(kPath, kPlain);
  auto call = backend_.NextCall();
  call->Chunk("text: 'a'");
  call->Done(absl::UnavailableError("the worker was lost"));
  EXPECT_EQ(client.Read().status, 503);
}

TEST_F(HttpTest, EndsAStreamThatFailsWithAnErrorEvent) {
  Open();
  Client client(server_->address());
  client.Post(kPath, kStream);
  auto call = backend_.NextCall();
  call->Chunk("text: 'a'");
  call->Done(absl::UnavailableError("the worker was lost"));
  const std::string all = client.ReadToEnd();  // the connection ends
  EXPECT_THAT(all, HasSubstr("data: {\"error\":{"));
  EXPECT_THAT(all, HasSubstr("the worker was lost"));
  EXPECT_THAT(all, Not(HasSubstr("[DONE]")));
}

TEST_F(HttpTest, CancelsTheCallOfAClientThatGoesAway) {
  Open();
  for (const char* json : {kPlain, kStream}) {
    Client client(server_->address());
    client.Post(kPath, json);
    auto call = backend_.NextCall();
    call->Chunk("text: 'a'");
    if (json == kStream) {
      EXPECT_TRUE(client.ReadUntil("\"text\":\"a\""));
    }
    client.Close();
    call->WaitUntilCancelled();
    call->Chunk("text: 'too late'");
  }
}

TEST_F(HttpTest, CutsOffAClientThatDoesNotRead) {
  HttpServerOptions options;
  options.limits.unsent_bytes_max = 256 << 10;
  Open(options);
  Client client(server_->address());
  client.Post(kPath, kStream);
  auto call = backend_.NextCall();
  for (int i = 0; i < kUnreadChunks; ++i) call->ChunkOfText(std::string(64 << 10, 'a'));
  call->WaitUntilCancelled();
  EXPECT_THAT(client.ReadToEnd(), Not(HasSubstr("[DONE]")));
}

TEST_F(HttpTest, CutsOffAClientThatStopsReadingForTooLong) {
  HttpServerOptions options;
  options.limits.unsent_bytes_max = 1 << 30;
  options.limits.write_time_max = absl::Milliseconds(50);
  Open(options);
  Client client(server_->address());
  client.Post(kPath, kStream);
  auto call = backend_.NextCall();
  for (int i = 0; i < kUnreadChunks; ++i) call->ChunkOfText(std::string(64 << 10, 'a'));
  call->WaitUntilCancelled();
}

TEST_F(HttpTest, AnswersWhatWasSentAheadOfAStreamsEnd) {
  Open();
  Client client(server_->address());
  client.Post(kPath, kStream);
  auto call = backend_.NextCall();
  call->Chunk("text: 'a'");
  EXPECT_TRUE(client.ReadUntil("\"text\":\"a\""));
  client.Get("/health");
  call->Chunk(kLast);
  call->Done(absl::OkStatus());
  EXPECT_THAT(client.Read().body, HasSubstr("[DONE]"));
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(HttpTest, LetsStreamsFinishWhenItDrains) {
  Open();
  Client client(server_->address());
  client.Post(kPath, kStream);
  auto call = backend_.NextCall();
  call->Chunk("text: 'a'");
  EXPECT_TRUE(client.ReadUntil("\"text\":\"a\""));
  Client idle(server_->address());
  idle.Get("/health");
  EXPECT_EQ(idle.Read().status, 200);
  std::thread drain([this] { server_->Drain(absl::InfiniteFuture()); });
  EXPECT_EQ(idle.ReadToEnd(), "");  // draining has begun
  call->Chunk(kLast);
  call->Done(absl::OkStatus());
  EXPECT_THAT(client.ReadToEnd(), HasSubstr("data: [DONE]\n\n"));
  drain.join();
}

TEST_F(HttpTest, CancelsWhatIsLeftAtTheDeadlineOfADrain) {
  Open();
  Client client(server_->address());
  client.Post(kPath, kStream);
  auto call = backend_.NextCall();
  server_->Drain(absl::Now());
  call->WaitUntilCancelled();
  EXPECT_EQ(client.ReadToEnd(), "");
}

TEST_F(HttpTest, IsDestroyedWithCallsUnderWay) {
  Open();
  Client client(server_->address());
  client.Post(kPath, kStream);
  auto call = backend_.NextCall();
  server_.reset();
  call->WaitUntilCancelled();
  call->Chunk("text: 'too late'");
}

}  // namespace
}  // namespace chorale
