#include "net/redis/slots.h"

#include <gtest/gtest.h>

namespace chorale {
namespace {

const RedisAddress kAsked{.host = "10.0.0.9", .port = 7000};

// The check value of CRC-16/XMODEM is 0x31c3, as the cluster specification says too.
TEST(RedisSlotsTest, HashesKeysAsTheSpecificationSays) {
  EXPECT_EQ(RedisSlotOf("123456789"), 0x31c3 % kRedisSlots);
  EXPECT_EQ(RedisSlotOf(""), 0);
  EXPECT_EQ(RedisSlotOf("{user1000}.following"), RedisSlotOf("user1000"));
  EXPECT_EQ(RedisSlotOf("foo{{bar}}zap"), RedisSlotOf("{bar"));
  EXPECT_EQ(RedisSlotOf("foo{bar}{zap}"), RedisSlotOf("bar"));
  EXPECT_NE(RedisSlotOf("foo{}{bar}"), RedisSlotOf("bar"));
}

TEST(RedisSlotsTest, ReadsRedirects) {
  const auto moved = ParseRedisRedirect("MOVED 3999 127.0.0.1:6381", kAsked);
  ASSERT_TRUE(moved.has_value());
  EXPECT_FALSE(moved->ask);
  EXPECT_EQ(moved->slot, 3999);
  EXPECT_EQ(moved->to.ToString(), "127.0.0.1:6381");
  EXPECT_TRUE(ParseRedisRedirect("ASK 1 ::1:6381", kAsked)->ask);
  EXPECT_EQ(ParseRedisRedirect("ASK 1 ::1:6381", kAsked)->to.ToString(), "[::1]:6381");
  EXPECT_EQ(ParseRedisRedirect("MOVED 1 :6381", kAsked)->to.ToString(), "10.0.0.9:6381");
  for (const char* text : {"", "MOVED", "MOVED ", "MOVED 1", "MOVED 1 ", "MOVED x a:1", "MOVED 1 a",
                           "MOVED 1 a:", "MOVED 1 a:0", "MOVED 1 a:70000", "MOVED 16384 a:1",
                           "MOVED -1 a:1", "MOVED 1 a:1x", "ERR no"}) {
    EXPECT_FALSE(ParseRedisRedirect(text, kAsked).has_value()) << text;
  }
}

RedisReply Int(int64_t value) { return {.kind = RedisReply::Kind::kInteger, .integer = value}; }
RedisReply Text(std::string text) { return {.kind = RedisReply::Kind::kText, .text = text}; }
RedisReply Array(std::vector<RedisReply> elements) {
  return {.kind = RedisReply::Kind::kArray, .elements = std::move(elements)};
}

TEST(RedisSlotsTest, ReadsTheMapOfACluster) {
  const auto ranges = ParseClusterSlots(
      Array({Array({Int(0), Int(99), Array({Text("a"), Int(1), Text("id")}), Array({})}),
             Array({Int(100), Int(16383), Array({Text(""), Int(2)})})}),
      kAsked);
  ASSERT_TRUE(ranges.ok()) << ranges.status();
  EXPECT_EQ((*ranges)[0].last, 99);
  EXPECT_EQ((*ranges)[0].master.ToString(), "a:1");
  EXPECT_EQ((*ranges)[1].master.ToString(), "10.0.0.9:2");
}

TEST(RedisSlotsTest, RefusesWhatIsNoMap) {
  const RedisReply master = Array({Text("a"), Int(1)});
  for (const RedisReply& row :
       {Array({}), Text("x"), Array({Int(0), Int(1)}), Array({Int(0), Int(1), Text("a")}),
        Array({Int(-1), Int(1), master}), Array({Int(2), Int(1), master}),
        Array({Int(0), Int(16384), master}), Array({Text("0"), Int(1), master}),
        Array({Int(0), Int(1), Array({Text("a"), Int(0)})}),
        Array({Int(0), Int(1), Array({Text(std::string(300, 'a')), Int(1)})})}) {
    EXPECT_FALSE(ParseClusterSlots(Array({row}), kAsked).ok());
  }
  EXPECT_FALSE(ParseClusterSlots(Text("x"), kAsked).ok());
}

}  // namespace
}  // namespace chorale
