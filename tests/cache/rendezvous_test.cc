#include "cache/rendezvous.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace chorale {
namespace {

BlockKey KeyOf(int n) {
  return MakeBlockKey({}, std::vector<TokenId>{n}, DigestBuilder().AddInt(1).Finish(), "");
}

std::vector<std::string> Nodes(int count) {
  std::vector<std::string> ids;
  for (int i = 0; i < count; ++i) ids.push_back("store-" + std::to_string(i));
  return ids;
}

TEST(RankNodes, SpreadsKeysEvenly) {
  constexpr int kKeys = 20'000;
  const std::vector<std::string> nodes = Nodes(5);
  std::vector<int> first(5), second(5);
  for (int n = 0; n < kKeys; ++n) {
    const std::vector<int> order = RankNodes(KeyOf(n), nodes);
    ++first[order[0]];
    ++second[order[1]];
  }
  for (int node = 0; node < 5; ++node) {  // binomial: 4000 with a deviation of 57
    EXPECT_NEAR(first[node], kKeys / 5, 6 * 57);
    EXPECT_NEAR(second[node], kKeys / 5, 6 * 57);
  }
}

TEST(RankNodes, ANodeThatGoesMovesOnlyItsOwnKeysAndEvenly) {
  const std::vector<std::string> before = Nodes(5);
  const std::vector<std::string> after(before.begin(), before.begin() + 4);  // the last one goes
  std::vector<int> heirs(4);
  for (int n = 0; n < 20'000; ++n) {
    std::vector<int> order = RankNodes(KeyOf(n), before);
    if (order[0] == 4) ++heirs[order[1]];
    std::erase(order, 4);
    ASSERT_EQ(RankNodes(KeyOf(n), after), order);
  }
  for (int heir : heirs) EXPECT_NEAR(heir, 1000, 6 * 31);
}

TEST(RankNodes, DoesNotDependOnTheOrderInWhichNodesAreListed) {
  const std::vector<std::string> nodes = Nodes(6);
  std::vector<std::string> reversed(nodes.rbegin(), nodes.rend());
  for (int n = 0; n < 100; ++n) {
    const std::vector<int> a = RankNodes(KeyOf(n), nodes);
    const std::vector<int> b = RankNodes(KeyOf(n), reversed);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(nodes[a[i]], reversed[b[i]]);
  }
}

TEST(RankNodes, GivesTheFirstOfTheWholeOrder) {
  const std::vector<std::string> nodes = Nodes(6);
  const std::vector<int> all = RankNodes(KeyOf(1), nodes);
  EXPECT_EQ(RankNodes(KeyOf(1), nodes, 2), std::vector<int>(all.begin(), all.begin() + 2));
  EXPECT_EQ(RankNodes(KeyOf(1), nodes, 9), all);
  EXPECT_TRUE(RankNodes(KeyOf(1), nodes, -1).empty());
  EXPECT_TRUE(RankNodes(KeyOf(1), {}, 2).empty());
}

// Stores find their blocks again after an update only while this holds.
TEST(RankNodes, IsTheSameOnEveryMachineAndVersion) {
  std::string orders;
  for (int n = 0; n < 4; ++n) {
    BlockKey key;
    for (size_t i = 0; i < key.bytes.size(); ++i) key.bytes[i] = static_cast<uint8_t>(n * 16 + i);
    for (int node : RankNodes(key, Nodes(5))) orders += std::to_string(node);
    orders += ' ';
  }
  EXPECT_EQ(orders, "40321 10234 42130 01243 ");
}

}  // namespace
}  // namespace chorale
