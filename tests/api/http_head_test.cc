#include "api/http_head.h"

#include <string>

#include <gtest/gtest.h>

namespace chorale {
namespace {

TEST(AnswerText, IsAWholeResponse) {
  EXPECT_EQ(AnswerText({.body = "{}"}, {.request_id = "r"}, false),
            "HTTP/1.1 200 OK\r\nServer: chorale\r\nX-Request-Id: r\r\n"
            "Content-Type: application/json\r\nContent-Length: 2\r\n"
            "Connection: keep-alive\r\n\r\n{}");
  const std::string head =
      AnswerText({.status = 404, .body = "{}", .fields = {{"Allow", "GET"}}},
                 {.version = 10, .keep_alive = false, .request_id = "r"}, true);
  EXPECT_EQ(head,
            "HTTP/1.0 404 Not Found\r\nServer: chorale\r\nX-Request-Id: r\r\n"
            "Content-Type: application/json\r\nContent-Length: 2\r\nAllow: GET\r\n"
            "Connection: close\r\n\r\n");
}

TEST(AnswerFor, TellsWhenToTryAgain) {
  const HttpAnswer busy = AnswerFor(absl::ResourceExhaustedError("full"));
  EXPECT_EQ(busy.status, 429);
  ASSERT_EQ(busy.fields.size(), 1u);
  EXPECT_EQ(busy.fields[0].first, "Retry-After");
  EXPECT_TRUE(AnswerFor(absl::InvalidArgumentError("n: 0")).fields.empty());
}

TEST(EventStream, IsChunkedOrEndsWithTheConnection) {
  EXPECT_EQ(EventStreamPart("0123456789abcdef", {}), "10\r\n0123456789abcdef\r\n");
  EXPECT_EQ(EventStreamEnd({}), "0\r\n\r\n");
  EXPECT_EQ(EventStreamPart("abc", {.version = 10}), "abc");
  EXPECT_EQ(EventStreamEnd({.version = 10}), "");
  EXPECT_NE(EventStreamHead({}).find("Transfer-Encoding: chunked\r\n"), std::string::npos);
  EXPECT_NE(EventStreamHead({.version = 10}).find("Connection: close\r\n"), std::string::npos);
}

TEST(RequestIdFrom, EchoesWhatIsFitAndReplacesTheRest) {
  EXPECT_EQ(RequestIdFrom("abc-1"), "abc-1");
  for (const std::string& bad : {std::string(), std::string("a b"), std::string("a\r\nX: y"),
                                 std::string("\xff"), std::string(129, 'a')}) {
    EXPECT_EQ(RequestIdFrom(bad).size(), 24u) << bad;
  }
  EXPECT_NE(NewId(), NewId());
}

}  // namespace
}  // namespace chorale
