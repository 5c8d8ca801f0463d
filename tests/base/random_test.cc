#include "base/random.h"

#include <set>

#include <gtest/gtest.h>

namespace chorale {
namespace {

TEST(Random, IsAFunctionOfItsArguments) {
  static_assert(RandomBits(1, 2, 3) == RandomBits(1, 2, 3));
  EXPECT_NE(RandomBits(1, 2, 3), RandomBits(1, 3, 2));
  EXPECT_NE(RandomBits(1, 2, 3), RandomBits(2, 1, 3));
}

TEST(Random, DoesNotRepeatOverCountersAndStreams) {
  std::set<uint64_t> seen;
  for (uint64_t stream = 0; stream < 100; ++stream) {
    for (uint64_t counter = 0; counter < 100; ++counter)
      seen.insert(RandomBits(7, stream, counter));
  }
  EXPECT_EQ(seen.size(), 10'000u);
}

TEST(Random, UniformFillsTheUnitInterval) {
  double sum = 0;
  int low = 0;
  constexpr int kDraws = 100'000;
  for (int i = 0; i < kDraws; ++i) {
    const double u = RandomUniform(1, 0, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    low += u < 0.1;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);  // 5 standard deviations
  EXPECT_NEAR(low, 0.1 * kDraws, 500);
}

}  // namespace
}  // namespace chorale
