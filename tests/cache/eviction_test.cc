#include "cache/eviction.h"

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace chorale {
namespace {

TEST(EvictionOrder, WithEqualCostsTheLeastRecentlyUsedGoesFirst) {
  EvictionOrder order;
  for (uint32_t entry = 0; entry < 4; ++entry) order.Insert(entry, 1.0);
  order.Touch(0, 0);
  order.Touch(2, 0);
  for (uint32_t expected : {1, 3, 0, 2}) EXPECT_EQ(order.PopCheapest(), expected);
  EXPECT_TRUE(order.empty());
}

TEST(EvictionOrder, WhatIsCheapToComputeAgainGoesFirst) {
  EvictionOrder order;
  order.Insert(0, RecomputeCost(1000));
  order.Insert(1, RecomputeCost(0));
  order.Insert(2, RecomputeCost(500));
  for (uint32_t expected : {1, 2, 0}) EXPECT_EQ(order.PopCheapest(), expected);
}

TEST(EvictionOrder, WhatIsUsedOftenStaysLonger) {
  EvictionOrder order;
  order.Insert(0, 1.0);
  order.Touch(0, 3);
  order.Insert(1, 1.0);
  order.Insert(2, 2.5);
  for (uint32_t expected : {1, 2, 0}) EXPECT_EQ(order.PopCheapest(), expected);
}

TEST(EvictionOrder, WhatWasPopularOnceIsGoneAfterAsManyTurnovers) {
  EvictionOrder order;
  order.Insert(0, 1.0);
  order.Touch(0, 1'000'000);
  order.Insert(1, 1.0);
  uint32_t turnovers = 0;
  for (; order.PopCheapest() == 1; ++turnovers) order.Insert(1, 1.0);
  EXPECT_GE(turnovers, 2u);
  EXPECT_LE(turnovers, EvictionOrder::kUsesMax + 1);
}

TEST(EvictionOrder, AnEntryThatWasHeldBackReturnsToItsPlace) {
  EvictionOrder order;
  for (uint32_t entry = 0; entry < 3; ++entry) order.Insert(entry, 1.0);
  order.HoldBack(0);
  order.HoldBack(0);
  EXPECT_EQ(order.size(), 2u);
  EXPECT_TRUE(order.contains(0));
  EXPECT_EQ(order.cheapest(), 1u);
  order.Return(0);
  order.Return(0);
  EXPECT_EQ(order.PopCheapest(), 0u);
  EXPECT_FALSE(order.contains(0));
}

// The same as an EvictionOrder, written for plainness: everything is a scan.
class NaiveOrder {
 public:
  void Insert(uint32_t entry, double cost) {
    entries_[entry] = {.cost = cost};
    Touch(entry, 0);
  }
  void Remove(uint32_t entry) { entries_.erase(entry); }
  void Touch(uint32_t entry, uint32_t uses) {
    Entry& e = entries_.at(entry);
    e.uses = std::min(e.uses + uses, EvictionOrder::kUsesMax);
    e.priority = clock_ + e.cost * (1 + e.uses);
    e.last_use = ++operations_;
  }
  void SetHeldBack(uint32_t entry, bool held_back) { entries_.at(entry).held_back = held_back; }
  size_t size() const {
    return std::count_if(entries_.begin(), entries_.end(),
                         [](const auto& entry) { return !entry.second.held_back; });
  }
  uint32_t PopCheapest() {
    auto best = entries_.end();
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      if (it->second.held_back) continue;
      if (best == entries_.end() || it->second.Key() < best->second.Key()) best = it;
    }
    const uint32_t entry = best->first;
    clock_ = std::max(clock_, best->second.priority);
    entries_.erase(best);
    return entry;
  }

 private:
  struct Entry {
    double cost = 0;
    uint32_t uses = 0;
    double priority = 0;
    int last_use = 0;
    bool held_back = false;
    std::pair<double, int> Key() const { return {priority, last_use}; }
  };
  std::map<uint32_t, Entry> entries_;
  double clock_ = 0;
  int operations_ = 0;
};

TEST(EvictionOrder, AgreesWithANaiveOrderOverRandomOperations) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto draw = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
  EvictionOrder order;
  NaiveOrder naive;
  for (int step = 0; step < 100'000; ++step) {
    const uint32_t entry = draw(200);
    const uint32_t what = draw(8);
    if (what == 7 && naive.size() > 0) {
      ASSERT_EQ(order.PopCheapest(), naive.PopCheapest()) << "step " << step;
    } else if (!order.contains(entry)) {
      const double cost = 1 + draw(8) / 8.0;  // exact, also as a float
      order.Insert(entry, cost);
      naive.Insert(entry, cost);
    } else if (what < 3) {
      const uint32_t uses = draw(3);
      order.Touch(entry, uses);
      naive.Touch(entry, uses);
    } else if (what < 5) {
      order.HoldBack(entry);
      naive.SetHeldBack(entry, true);
    } else if (what == 5) {
      order.Return(entry);
      naive.SetHeldBack(entry, false);
    } else if (what == 6) {
      order.Remove(entry);
      naive.Remove(entry);
    }
    ASSERT_EQ(order.size(), naive.size());
  }
}

}  // namespace
}  // namespace chorale
