// The server as a piece of HTTP: framing, limits, connections.
#include "services/http/http_server.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "base/json.h"
#include "tests/services/http/http_fixture.h"

namespace chorale {
namespace {

using testing::HasSubstr;

TEST_F(HttpTest, ServesSeveralRequestsOnOneConnection) {
  Open();
  Client client(server_->address());
  for (int i = 0; i < 3; ++i) {
    client.Get("/v1/models");
    const Response response = client.Read();
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(Json::parse(response.body)["data"][0]["id"], "m");
  }
  client.Get("/nowhere");
  EXPECT_EQ(client.Read().status, 404);
  client.Get("/v1/completions");
  EXPECT_EQ(client.Read().status, 405);
  client.Get("/health");
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(HttpTest, AnswersRequestsThatWereSentAhead) {
  Open();
  Client client(server_->address());
  client.Send(
      "GET /health HTTP/1.1\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\n\r\n");
  EXPECT_EQ(client.Read().status, 200);
  EXPECT_EQ(client.Read().status, 404);
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(HttpTest, PassesOverEmptyLinesBeforeARequest) {
  Open();
  Client client(server_->address());
  client.Send("\r\nGET /health HTTP/1.1\r\n\r\n\r\n\r");
  EXPECT_EQ(client.Read().status, 200);
  client.Send("\nGET /nowhere HTTP/1.1\r\n\r\n");
  EXPECT_EQ(client.Read().status, 404);
  std::string many;
  for (int i = 0; i < 100; ++i) many += "\r\n";
  client.Send(many + "GET /health HTTP/1.1\r\n\r\n");
  EXPECT_EQ(client.Read().status, 400);
}

TEST_F(HttpTest, AnswersHeadWithoutABody) {
  Open();
  Client client(server_->address());
  client.Send("HEAD /health HTTP/1.1\r\nConnection: close\r\n\r\n");
  const std::string all = client.ReadToEnd();
  EXPECT_THAT(all, HasSubstr("200 OK"));
  EXPECT_THAT(all, HasSubstr("Content-Length: 15\r\n"));
  EXPECT_THAT(all, testing::EndsWith("\r\n\r\n"));
}

TEST_F(HttpTest, EchoesTheRequestId) {
  Open();
  Client client(server_->address());
  client.Send("GET /health HTTP/1.1\r\nX-Request-Id: abc-7\r\n\r\n");
  EXPECT_THAT(client.Read().head, HasSubstr("X-Request-Id: abc-7\r\n"));
  client.Get("/health");
  EXPECT_THAT(client.Read().head, testing::ContainsRegex("X-Request-Id: [0-9a-f]{24}\r\n"));
}

TEST_F(HttpTest, ClosesAfterAReplyWhenTheClientWantsIt) {
  Open();
  Client one(server_->address());
  one.Send("GET /health HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(one.ReadToEnd(), HasSubstr("Connection: close\r\n"));
  Client old(server_->address());
  old.Send("GET /health HTTP/1.0\r\n\r\n");
  EXPECT_THAT(old.ReadToEnd(), testing::StartsWith("HTTP/1.0 200 OK\r\n"));
}

TEST_F(HttpTest, RefusesAHundredMegabytesWithoutKeepingThem) {
  Open();
  Client client(server_->address());
  client.Post("/v1/completions", std::string(100'000'000, 'a'));
  const Response response = client.Read();
  EXPECT_EQ(response.status, 413);
  EXPECT_THAT(std::string(Json::parse(response.body)["error"]["message"]), HasSubstr("4194304"));
  EXPECT_EQ(client.ReadToEnd(), "");
}

TEST_F(HttpTest, RefusesALargeBodyThatComesInChunks) {
  HttpServerOptions options;
  options.limits.body_bytes_max = 1000;
  Open(options);
  Client client(server_->address());
  client.Send("POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n");
  client.Send(std::string(2000, 'a') + "\r\n0\r\n\r\n");
  EXPECT_EQ(client.Read().status, 413);
}

TEST_F(HttpTest, RefusesALargeHeader) {
  Open();
  Client client(server_->address());
  client.Send("GET /health HTTP/1.1\r\nX: " + std::string(100'000, 'a') + "\r\n\r\n");
  EXPECT_EQ(client.Read().status, 431);
}

// What a chunk's extension holds is thrown away, but only at its end.
TEST_F(HttpTest, RefusesAChunkExtensionWithoutEnd) {
  Open();
  Client client(server_->address());
  client.Send("POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" +
              std::string(1 << 20, 'a'));
  client.ReadToEnd();  // the connection is closed, whatever it answers
}

TEST_F(HttpTest, RefusesWhatIsNotHttp) {
  Open();
  for (const char* bytes : {"\x16\x03\x01\x02 hello\r\n\r\n", "GET\r\n\r\n",
                            "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    Client client(server_->address());
    client.Send(bytes);
    EXPECT_EQ(client.Read().status, 400) << bytes;
    EXPECT_EQ(client.ReadToEnd(), "");
  }
}

// A request whose end could be read in two ways hides another one from who reads it the other way.
TEST_F(HttpTest, RefusesARequestThatCouldEndInTwoPlaces) {
  Open();
  const std::string hidden = "0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: h\r\n\r\n";
  const std::string length = "Content-Length: " + std::to_string(hidden.size()) + "\r\n";
  for (const std::string& fields :
       {"Transfer-Encoding: chunked, identity\r\n" + length,
        std::string("Transfer-Encoding: xchunked\r\n"),
        "Transfer-Encoding: chunked\r\n" + length, length + "Transfer-Encoding: chunked\r\n",
        std::string("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        "Transfer-Encoding: identity\r\n" + length}) {
    Client client(server_->address());
    client.Send("POST /v1/completions HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n" + hidden);
    EXPECT_EQ(client.Read().status, 400) << fields;
    EXPECT_EQ(client.ReadToEnd(), "") << fields;  // what was hidden got no answer
  }
}

TEST_F(HttpTest, AsksForTheBodyOfAClientThatWaits) {
  Open();
  Client client(server_->address());
  client.Send("POST /v1/completions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
  EXPECT_EQ(client.Read().status, 100);
  client.Send("{");
  EXPECT_EQ(client.Read().status, 400);
}

TEST_F(HttpTest, ClosesConnectionsThatSendNothing) {
  HttpServerOptions options;
  options.limits.idle_time_max = absl::Milliseconds(20);
  options.limits.body_time_max = absl::Milliseconds(20);
  Open(options);
  Client silent(server_->address());
  EXPECT_EQ(silent.ReadToEnd(), "");
  Client half_header(server_->address());
  half_header.Send("GET /health HT");
  EXPECT_EQ(half_header.ReadToEnd(), "");
  Client half_body(server_->address());
  half_body.Send("POST /v1/completions HTTP/1.1\r\nContent-Length: 9\r\n\r\n{");
  EXPECT_EQ(half_body.ReadToEnd(), "");
}

TEST_F(HttpTest, RefusesConnectionsBeyondTheLimit) {
  HttpServerOptions options;
  options.connections_max = 1;
  Open(options);
  Client first(server_->address());
  first.Get("/health");
  EXPECT_EQ(first.Read().status, 200);
  Client second(server_->address());
  const std::string refused = second.ReadToEnd();
  EXPECT_THAT(refused, HasSubstr("503 Service Unavailable"));
  EXPECT_THAT(refused, HasSubstr("Retry-After: 1\r\n"));
  first.Send("GET /health HTTP/1.1\r\nConnection: close\r\n\r\n");
  first.ReadToEnd();
  for (int status = 0; status != 200;) {  // the place becomes free a moment after the last byte
    Client third(server_->address());
    third.Get("/health");
    status = third.Read().status;
  }
}

TEST_F(HttpTest, SaysWhyItCannotListen) {
  Open();
  for (const std::string& address : {server_->address(), std::string("localhost"),
                                     std::string("127.0.0.1:no-such-port"), std::string("")}) {
    HttpServerOptions options;
    options.address = address;
    const auto second = HttpServer::Open(options, *gateway_);
    ASSERT_FALSE(second.ok()) << address;
    EXPECT_EQ(second.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(second.status().message()), HasSubstr("--http " + address));
  }
}

TEST_F(HttpTest, ClosesIdleConnectionsWhenItDrains) {
  Open();
  Client client(server_->address());
  client.Get("/health");
  EXPECT_EQ(client.Read().status, 200);
  server_->Drain(absl::InfiniteFuture());
  EXPECT_EQ(client.ReadToEnd(), "");
}

}  // namespace
}  // namespace chorale
