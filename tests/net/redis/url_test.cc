#include "net/redis/url.h"

#include <gtest/gtest.h>

namespace chorale {
namespace {

TEST(RedisUrlTest, ReadsWhatItWrites) {
  const std::pair<std::string, std::string> cases[] = {
      {"redis://host", "redis://host:6379"},
      {"redis://host/", "redis://host:6379"},
      {"redis://10.0.0.1:7000/2", "redis://10.0.0.1:7000/2"},
      {"redis://user:pass@host:1", "redis://host:1"},
      {"redis://[::1]:6380", "redis://[::1]:6380"},
      {"redis://[::1]", "redis://[::1]:6379"},
      {"redis://a:1,b,c:3", "redis://a:1,b:6379,c:3"},
      {"unix:///run/redis.sock", "unix:///run/redis.sock"},
      {"unix:///run/redis.sock?database=1&password=x", "unix:///run/redis.sock"},
  };
  for (const auto& [text, normal] : cases) {
    const auto url = RedisUrl::Parse(text);
    ASSERT_TRUE(url.ok()) << text << ": " << url.status();
    EXPECT_EQ(url->ToString(), normal) << text;
  }
}

TEST(RedisUrlTest, DecodesUserAndPassword) {
  const auto url = RedisUrl::Parse("redis://us%65r:p%40ss%3A%2f:@host/7");
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(url->user, "user");
  EXPECT_EQ(url->password, "p@ss:/:");
  EXPECT_EQ(url->database, 7);
  EXPECT_EQ(RedisUrl::Parse("redis://:secret@host")->user, "");
}

TEST(RedisUrlTest, RefusesWhatIsNoUrlAndNeverShowsThePassword) {
  for (const std::string text : {"",
                                 "host:6379",
                                 "http://host",
                                 "rediss://host",
                                 "redis://",
                                 "redis://:6379",
                                 "redis://host:0",
                                 "redis://host:65536",
                                 "redis://host:x",
                                 "redis://host/x",
                                 "redis://host/-1",
                                 "redis://a,,b",
                                 "redis://a,b/1",
                                 "redis://::1",
                                 "redis://[::1",
                                 "redis://[::1]6379",
                                 "redis://hunter2@host",
                                 "redis://u:hunter2%@host",
                                 "redis://u:hunter2%zz@host",
                                 "unix://relative",
                                 "unix://",
                                 "unix:///x?hunter=2",
                                 "unix:///x?password=hunter2%1",
                                 "redis://host:6379/0?password=hunter2",
                                 "redis://host:6379?password=hunter2",
                                 "redis://user:hunter2",
                                 "unix:///x?password=a&hunter2",
                                 "unix:///x&password=hunter2",
                                 "unix://x.sock&password=hunter2",
                                 "redis://user:hunter2:6379",
                                 "redis://[[a]",
                                 "redis://a]",
                                 "redis://host/-0",
                                 "redis://ho st"}) {
    const auto url = RedisUrl::Parse(text);
    ASSERT_FALSE(url.ok()) << text;
    EXPECT_EQ(url.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(std::string(url.status().message()).find("hunter2"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace chorale
