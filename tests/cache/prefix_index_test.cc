#include "cache/prefix_index.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace chorale {
namespace {

// Keys of a test need not look random: the index mixes them.
BlockKey KeyOf(uint32_t n) {
  BlockKey key;
  for (int i = 0; i < 4; ++i) key.bytes[i] = static_cast<uint8_t>(n >> (8 * i));
  return key;
}

std::vector<BlockKey> KeysOf(uint32_t begin, uint32_t end) {
  std::vector<BlockKey> keys;
  for (uint32_t n = begin; n < end; ++n) keys.push_back(KeyOf(n));
  return keys;
}

std::vector<std::pair<int, int>> PairsOf(const PrefixMatch& match) {
  std::vector<std::pair<int, int>> pairs;
  for (const auto& [holder, blocks] : match.holders) pairs.push_back({holder, blocks});
  return pairs;
}

TEST(PrefixIndex, SaysHowMuchOfAChainIsWhere) {
  PrefixIndex index;
  for (uint32_t n = 0; n < 40; ++n) index.Add(0, KeyOf(n));
  for (uint32_t n = 0; n < 70; ++n) index.Add(63, KeyOf(n));
  for (uint32_t n = 0; n < 40; ++n) index.Add(5, KeyOf(n));
  for (uint32_t n = 1; n < 90; ++n) index.Add(7, KeyOf(n));  // not the first one
  const PrefixMatch match = index.Find(KeysOf(0, 100));
  EXPECT_EQ(PairsOf(match), (std::vector<std::pair<int, int>>{{63, 70}, {0, 40}, {5, 40}}));
  EXPECT_EQ(match.blocks_anywhere, 90);
}

TEST(PrefixIndex, FindsNothingInAnEmptyIndexOrForAnEmptyChain) {
  PrefixIndex index;
  EXPECT_TRUE(index.Find(KeysOf(0, 3)).holders.empty());
  EXPECT_EQ(index.HoldersOf(KeyOf(0)), 0u);
  EXPECT_FALSE(index.Remove(0, KeyOf(0)));
  index.Add(1, KeyOf(0));
  EXPECT_TRUE(index.Find({}).holders.empty());
  EXPECT_EQ(index.Find({}).blocks_anywhere, 0);
}

TEST(PrefixIndex, TheZeroKeyIsAKeyLikeOthers) {
  PrefixIndex index;
  EXPECT_EQ(index.HoldersOf({}), 0u);
  EXPECT_TRUE(index.Add(2, {}));
  EXPECT_FALSE(index.Add(2, {}));
  EXPECT_EQ(index.HoldersOf({}), 4u);
  EXPECT_TRUE(index.Remove(2, {}));
  EXPECT_FALSE(index.Remove(2, {}));
}

TEST(PrefixIndex, AHolderThatComesAgainUnderTheSameNumberBeginsWithNothing) {
  PrefixIndex index;
  for (uint32_t n = 0; n < 5000; ++n) index.Add(3, KeyOf(n));
  index.Add(4, KeyOf(7));
  index.RemoveHolder(3);
  index.Add(3, KeyOf(1));
  EXPECT_EQ(index.blocks_of(3), 1);
  for (uint32_t n = 0; n < 5000; ++n) {
    ASSERT_EQ(index.HoldersOf(KeyOf(n)), n == 1 ? 8u : n == 7 ? 16u : 0u) << n;
  }
}

TEST(PrefixIndex, TakesAtMost64BytesABlockAndGivesMemoryBack) {
  PrefixIndex index;
  const int64_t empty = index.bytes();
  for (uint32_t n = 0; n < 300'000; ++n) {
    index.Add(0, KeyOf(n));
    if (n % 10'000 == 9'999) {
      ASSERT_LE(index.bytes(), empty + 64 * int64_t{n}) << n;
    }
  }
  for (uint32_t n = 0; n < 300'000; ++n) index.Remove(0, KeyOf(n));
  EXPECT_LE(index.bytes(), empty + 256 * 8 * 24);
  for (uint32_t n = 0; n < 300'000; ++n) index.Add(0, KeyOf(n));
  index.RemoveHolder(0);
  for (uint32_t n = 0; n < 10'000; ++n) index.Add(0, KeyOf(n));
  EXPECT_LE(index.bytes(), empty + 64 * 10'000 + 256 * 8 * 24);
}

TEST(PrefixIndex, AgreesWithAMapOverRandomOperations) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto draw = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
  constexpr uint32_t kKeys = 4000;
  constexpr int kHolders = 5;
  PrefixIndex index;
  std::map<uint32_t, std::set<int>> model;
  for (int step = 0; step < 300'000; ++step) {
    const int holder = static_cast<int>(draw(kHolders)) * 15;
    const uint32_t n = draw(kKeys);
    // The mood changes now and then, so that the index grows, shrinks and grows again.
    const uint32_t adds = step / 30'000 % 2 == 0 ? 70 : 20;
    const uint32_t what = draw(100);
    if (what < adds) {
      ASSERT_EQ(index.Add(holder, KeyOf(n)), model[n].insert(holder).second) << step;
    } else if (what < 92) {
      ASSERT_EQ(index.Remove(holder, KeyOf(n)), model[n].erase(holder) == 1) << step;
    } else if (draw(2000) == 0) {
      index.RemoveHolder(holder);
      for (auto& [key, holders] : model) holders.erase(holder);
    } else {
      const uint32_t end = n + draw(60);
      std::map<int, int> leading;
      int anywhere = 0;
      for (uint32_t i = n; i < end && !model[i].empty(); ++i) {
        ++anywhere;
        for (int h : model[i]) {
          if (leading[h] == static_cast<int>(i - n)) ++leading[h];
        }
      }
      std::erase_if(leading, [](const auto& entry) { return entry.second == 0; });
      std::vector<std::pair<int, int>> expected(leading.begin(), leading.end());
      std::stable_sort(expected.begin(), expected.end(),
                       [](const auto& a, const auto& b) { return a.second > b.second; });
      const PrefixMatch match = index.Find(KeysOf(n, end));
      ASSERT_EQ(PairsOf(match), expected) << step;
      ASSERT_EQ(match.blocks_anywhere, anywhere) << step;
    }
  }
  for (int holder = 0; holder < kHolders * 15; holder += 15) {
    int64_t blocks = 0;
    for (const auto& [key, holders] : model) blocks += static_cast<int64_t>(holders.count(holder));
    EXPECT_EQ(index.blocks_of(holder), blocks);
  }
  for (uint32_t n = 0; n < kKeys; ++n) {
    uint64_t bits = 0;
    for (int holder : model[n]) bits |= uint64_t{1} << holder;
    ASSERT_EQ(index.HoldersOf(KeyOf(n)), bits) << n;
  }
}

}  // namespace
}  // namespace chorale
