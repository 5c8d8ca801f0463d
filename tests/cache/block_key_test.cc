#include "cache/block_key.h"

#include <numeric>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/tensor.h"

namespace chorale {
namespace {

Digest WriterOf(int n) { return DigestBuilder().AddInt(n).Finish(); }

std::vector<TokenId> Tokens(int count) {
  std::vector<TokenId> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

TEST(BlockKey, DependsOnHistoryTokensWriterAndTenant) {
  const std::vector<TokenId> tokens = Tokens(16);
  const BlockKey parent = MakeBlockKey({}, tokens, WriterOf(1), {});
  std::vector<TokenId> other = tokens;
  other[15] = 99;
  const std::set<BlockKey> keys = {
      MakeBlockKey({}, tokens, WriterOf(1), ""),     MakeBlockKey(parent, tokens, WriterOf(1), ""),
      MakeBlockKey({}, other, WriterOf(1), ""),      MakeBlockKey({}, tokens, WriterOf(2), ""),
      MakeBlockKey({}, tokens, WriterOf(1), "acme"),
  };
  EXPECT_EQ(keys.size(), 5u);
}

TEST(BlockKey, NamesThePartOfALastBlockByTheTokensItHolds) {
  const std::vector<TokenId> tokens = Tokens(40);
  const auto keys = MakeBlockKeys(tokens, WriterOf(1), {});
  ASSERT_EQ(keys.size(), 3u);
  const std::span<const TokenId> all = tokens;
  EXPECT_EQ(keys[2], MakeBlockKey(keys[1], all.subspan(32), WriterOf(1), ""));
  EXPECT_NE(keys[2], MakeBlockKey(keys[1], all.subspan(32, 7), WriterOf(1), ""));
  const auto longer = MakeBlockKeys(Tokens(48), WriterOf(1), {});
  EXPECT_EQ(longer[0], keys[0]);
  EXPECT_EQ(longer[1], keys[1]);
  EXPECT_NE(longer[2], keys[2]);
}

TEST(BlockKey, NoTokensHaveNoKeys) { EXPECT_TRUE(MakeBlockKeys({}, WriterOf(1), {}).empty()); }

TEST(BlockKey, ComesBackFromItsBytes) {
  const BlockKey key = MakeBlockKey({}, Tokens(3), WriterOf(1), {});
  EXPECT_EQ(*BlockKey::FromBytes(key.AsBytes()), key);
  EXPECT_EQ(BlockKey::FromBytes("short").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace chorale
