#include "net/redis/reply.h"

#include <gtest/gtest.h>

namespace chorale {
namespace {

// One reply as text: nil, (1), 'text', !error, [a b].
std::string Show(const RedisReply& reply) {
  switch (reply.kind) {
    case RedisReply::Kind::kNone:
      return "none";
    case RedisReply::Kind::kNil:
      return "nil";
    case RedisReply::Kind::kText:
      return "'" + reply.text + "'";
    case RedisReply::Kind::kInteger:
      return "(" + std::to_string(reply.integer) + ")";
    case RedisReply::Kind::kError:
      return "!" + reply.text;
    case RedisReply::Kind::kArray:
      break;
  }
  std::string out = "[";
  for (const RedisReply& element : reply.elements) {
    out += (out.size() > 1 ? " " : "") + Show(element);
  }
  return out + "]";
}

// All replies in `bytes`, fed `piece` bytes at a time; "bad" where it stops.
std::string ReadAll(std::string_view bytes, size_t piece, const RedisReplyLimits& limits = {}) {
  RedisReplyReader reader(limits);
  std::string out;
  for (size_t begin = 0; begin < bytes.size(); begin += piece) {
    if (!reader.Feed(bytes.substr(begin, piece)).ok()) return out + "bad";
    while (true) {
      auto reply = reader.Next();
      if (!reply.ok()) return out + "bad";
      if (!reply->has_value()) break;
      out += Show(**reply) + " ";
    }
  }
  return out;
}

TEST(RedisReplyTest, ReadsRepliesHoweverTheyAreCut) {
  constexpr std::string_view kBytes =
      "+OK\r\n-ERR no\r\n:42\r\n$-1\r\n$4\r\na\r\nb\r\n$0\r\n\r\n*0\r\n*-1\r\n"
      "*3\r\n:1\r\n*2\r\n$1\r\nx\r\n$-1\r\n+y\r\n";
  for (size_t piece = 1; piece <= kBytes.size(); ++piece) {
    EXPECT_EQ(ReadAll(kBytes, piece),
              "'OK' !ERR no (42) nil 'a\r\nb' '' [] nil [(1) ['x' nil] 'y'] ");
  }
}

TEST(RedisReplyTest, RefusesWhatIsTooLargeOrNotTheProtocol) {
  EXPECT_EQ(ReadAll("*2147483647\r\n", 100), "bad");
  EXPECT_EQ(ReadAll("*3\r\n*3\r\n", 100, {.elements_max = 5}), "bad");
  EXPECT_EQ(ReadAll("*3\r\n:1\r\n:1\r\n:1\r\n*3\r\n:1\r\n:1\r\n:1\r\n", 100, {.elements_max = 5}),
            "[(1) (1) (1)] [(1) (1) (1)] ");
  EXPECT_EQ(ReadAll("$100\r\n" + std::string(50, 'x'), 10, {.bytes_max = 40}), "bad");
  EXPECT_EQ(ReadAll("hello\r\n", 100), "bad");
}

}  // namespace
}  // namespace chorale
