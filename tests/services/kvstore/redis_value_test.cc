#include "services/kvstore/redis/redis_value.h"

#include <gtest/gtest.h>

#include "base/hash.h"

namespace chorale {
namespace {

TEST(RedisValueTest, FindsEveryFlippedBitCutAndMixUp) {
  BlockKey key, other;
  other.bytes[15] = 1;
  const std::vector<std::byte> bytes(100, std::byte{7});
  const std::string value =
      EncodeRedisBlock(key, {.format = 1, .index = 2, .checksum = Checksum64(bytes)}, bytes);
  const auto head = DecodeRedisBlock(key, value);
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ(head->format, 1u);
  EXPECT_EQ(head->index, 2);
  EXPECT_FALSE(DecodeRedisBlock(other, value).ok());
  for (size_t bit = 0; bit < 8 * value.size(); ++bit) {
    std::string flipped = value;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_FALSE(DecodeRedisBlock(key, flipped).ok()) << bit;
  }
  for (size_t size = 0; size < value.size(); ++size) {
    EXPECT_FALSE(DecodeRedisBlock(key, value.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(DecodeRedisBlock(key, value + "x").ok());
}

}  // namespace
}  // namespace chorale
