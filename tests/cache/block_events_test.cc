#include "cache/block_events.h"

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace chorale {
namespace {

BlockKey KeyOf(int n) {
  return MakeBlockKey({}, std::vector<TokenId>{n}, DigestBuilder().AddInt(1).Finish(), "");
}

std::vector<BlockKey> AllKeys(int count) {
  std::vector<BlockKey> keys;
  for (int n = 0; n < count; ++n) keys.push_back(KeyOf(n));
  return keys;
}

TEST(KeySum, DoesNotDependOnTheOrderAndGoesBackToZero) {
  const std::vector<BlockKey> keys = AllKeys(100);
  KeySum up, down;
  for (size_t i = 0; i < keys.size(); ++i) up.Add(keys[i]), down.Add(keys[99 - i]);
  EXPECT_EQ(up, down);
  EXPECT_EQ(*KeySum::FromBytes(up.ToBytes()), up);
  for (const BlockKey& key : keys) up.Subtract(key);
  EXPECT_EQ(up, KeySum());
}

TEST(KeySum, CarriesAndBorrowsBetweenItsHalves) {
  BlockKey low_full, one;
  std::fill_n(low_full.bytes.begin(), 8, uint8_t{0xff});
  one.bytes[0] = 1;
  KeySum sum;
  sum.Add(low_full);
  sum.Add(one);
  EXPECT_EQ(sum.ToBytes(), std::string(8, '\0') + '\1' + std::string(7, '\0'));
  sum.Subtract(one);
  EXPECT_EQ(sum.ToBytes(), std::string(8, '\xff') + std::string(8, '\0'));
}

TEST(KeySum, RefusesOtherLengths) {
  EXPECT_EQ(KeySum::FromBytes("short").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(BlockEventLog, NumbersWhatChangesSomething) {
  BlockEventLog log(10);
  log.Append({.key = KeyOf(1)});
  log.Append({.key = KeyOf(1)});
  log.Append({.key = KeyOf(2), .removed = true});
  EXPECT_EQ(log.sequence(), 1u);
  EXPECT_EQ(log.keys(), 1u);
}

TEST(BlockEventLog, SaysWhenItHasForgotten) {
  BlockEventLog log(3);
  for (int n = 0; n < 5; ++n) log.Append({.key = KeyOf(n)});
  EXPECT_FALSE(log.Since(1, 10).has_value());
  EXPECT_FALSE(log.Since(6, 10).has_value());  // of another life
  const auto events = log.Since(2, 2);
  ASSERT_TRUE(events.has_value());
  EXPECT_EQ(events->first_sequence, 3u);
  EXPECT_EQ(events->last_sequence, 4u);
  ASSERT_EQ(events->events.size(), 2u);
  EXPECT_EQ(events->events[0].key, KeyOf(2));
  const auto none = log.Since(5, 2);
  ASSERT_TRUE(none.has_value());
  EXPECT_TRUE(none->events.empty());
  EXPECT_EQ(none->last_sequence, 5u);
  EXPECT_EQ(none->digest, log.digest());
}

TEST(HolderView, IsWholeAfterASnapshotInPartsAndFollowsEvents) {
  BlockEventLog log(100);
  for (int n = 0; n < 10; ++n) log.Append({.key = KeyOf(n)});
  PrefixIndex index;
  HolderView view(&index, 2);
  EXPECT_FALSE(view.whole());
  const auto parts = log.Snapshot(4);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_FALSE(view.Apply(parts[0]));
  EXPECT_FALSE(view.Apply(parts[1]));
  EXPECT_TRUE(view.Apply(parts[2]));
  log.Append({.key = KeyOf(3), .removed = true});
  log.Append({.key = KeyOf(11)});
  EXPECT_TRUE(view.Apply(*log.Since(10, 1)));
  EXPECT_TRUE(view.Apply(*log.Since(11, 1)));
  EXPECT_EQ(view.sequence(), 12u);
  EXPECT_EQ(view.unsure_since(), 0u);
  EXPECT_EQ(index.HoldersOf(KeyOf(3)), 0u);
  EXPECT_EQ(index.HoldersOf(KeyOf(11)), 4u);
  EXPECT_EQ(index.blocks_of(2), 10);
}

TEST(HolderView, SaysSinceWhenItIsNotSureAndHealsWithWhatIsMissing) {
  BlockEventLog log(100);
  PrefixIndex index;
  HolderView view(&index, 0);
  EXPECT_TRUE(view.Apply(log.Snapshot(4)[0]));  // of nothing
  for (int n = 0; n < 6; ++n) log.Append({.key = KeyOf(n)});
  EXPECT_TRUE(view.Apply(*log.Since(0, 2)));
  EXPECT_FALSE(view.Apply(*log.Since(4, 2)));
  EXPECT_EQ(view.unsure_since(), 3u);
  EXPECT_FALSE(view.Apply(*log.Since(2, 2)));  // it has heard of 6
  EXPECT_TRUE(view.Apply(*log.Since(3, 3)));   // what overlaps is not applied twice
  EXPECT_EQ(index.blocks_of(0), 6);
}

TEST(HolderView, NoticesAMangledBatch) {
  BlockEventLog log(100);
  for (int n = 0; n < 6; ++n) log.Append({.key = KeyOf(n)});
  const auto snapshot = log.Snapshot(10);
  PrefixIndex index;
  HolderView view(&index, 0);
  BlockEventBatch bad = snapshot[0];
  bad.events[2].key.bytes[5] ^= 4;
  EXPECT_FALSE(view.Apply(bad));
  EXPECT_EQ(view.unsure_since(), 1u);
  bad = snapshot[0];
  bad.digest.reset();
  EXPECT_FALSE(view.Apply(bad));
  EXPECT_TRUE(view.Apply(snapshot[0]));
  for (auto [first, last] : {std::pair<uint64_t, uint64_t>{0, 7}, {7, 9}, {7, 5}, {~0ull, ~0ull}}) {
    EXPECT_TRUE(view.Apply(snapshot[0]));
    BlockEventBatch batch = {.first_sequence = first, .last_sequence = last};
    batch.events = {{.key = KeyOf(9)}};
    EXPECT_FALSE(view.Apply(batch)) << first << " to " << last;
    EXPECT_EQ(view.unsure_since(), 7u);
  }
}

TEST(HolderView, TakesItsBlocksWithItWhenItGoes) {
  PrefixIndex index;
  {
    HolderView view(&index, 1);
    BlockEventLog log(4);
    log.Append({.key = KeyOf(1)});
    EXPECT_TRUE(view.Apply(*log.Since(0, 4)));
    EXPECT_EQ(index.blocks_of(1), 1);
  }
  EXPECT_EQ(index.HoldersOf(KeyOf(1)), 0u);
}

// Batches are lost, doubled, late, mangled, and of former lives of the publisher. Whatever comes, a
// view that says it is whole has what the publisher had at that number.
TEST(HolderView, NeverClaimsToBeWholeWhenItIsNot) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto draw = [&](int n) { return static_cast<int>(random() % n); };
  constexpr int kKeys = 60;
  const std::vector<BlockKey> keys = AllKeys(kKeys);
  int whole = 0, unsure = 0;
  for (int round = 0; round < 30; ++round) {
    PrefixIndex index;
    HolderView view(&index, 9);
    // What there was, by number, in each life of the publisher.
    std::vector<std::vector<std::set<int>>> lives = {{{}}};
    BlockEventLog log(static_cast<size_t>(1 + draw(40)));
    std::vector<BlockEventBatch> wire;
    uint64_t sent = 0;
    for (int step = 0; step < 2000; ++step) {
      const int what = draw(10);
      if (what < 4) {
        const int n = draw(kKeys);
        std::set<int> next = lives.back().back();
        const bool removed = next.erase(n) == 1;
        if (!removed) next.insert(n);
        log.Append({.key = keys[n], .removed = removed});
        lives.back().push_back(next);
      } else if (what < 6) {
        const auto since = log.Since(sent, static_cast<size_t>(1 + draw(5)));
        if (since.has_value() && draw(50) > 0) {
          wire.push_back(*since);
          sent = since->last_sequence;
        } else {
          for (auto& part : log.Snapshot(static_cast<size_t>(1 + draw(30)))) wire.push_back(part);
          sent = log.sequence();
        }
      } else if (!wire.empty()) {
        const size_t at = draw(10) == 0 ? draw(static_cast<int>(wire.size())) : 0;
        BlockEventBatch batch = wire[at];
        const int fate = draw(40);
        if (fate != 0) wire.erase(wire.begin() + static_cast<std::ptrdiff_t>(at));  // else doubled
        if (fate == 1) continue;                                                    // lost
        if (fate == 2 && !batch.events.empty()) batch.events[0].key = keys[draw(kKeys)];
        if (fate == 3 && !batch.events.empty()) batch.events.pop_back();
        view.Apply(batch);
      }
      if (draw(1000) == 0) {  // the publisher starts again; old batches are still on their way
        log = BlockEventLog(8);
        lives.push_back({{}});
        sent = 0;
        for (auto& part : log.Snapshot(8)) wire.push_back(part);
      }
      if (!view.whole()) {
        ++unsure;
        ASSERT_GT(view.unsure_since(), 0u);
        continue;
      }
      ++whole;
      std::set<int> has;
      for (int n = 0; n < kKeys; ++n) {
        if (index.HoldersOf(keys[n]) != 0) has.insert(n);
      }
      ASSERT_TRUE(std::any_of(lives.begin(), lives.end(),
                              [&](const auto& life) {
                                return view.sequence() < life.size() &&
                                       life[view.sequence()] == has;
                              }))
          << "step " << step;
    }
    wire = log.Snapshot(7);  // with the faults over, a snapshot heals everything
    for (const auto& part : wire) view.Apply(part);
    ASSERT_TRUE(view.whole());
    ASSERT_EQ(view.sequence(), log.sequence());
  }
  EXPECT_GT(whole, 1000);
  EXPECT_GT(unsure, 1000);
}

}  // namespace
}  // namespace chorale
