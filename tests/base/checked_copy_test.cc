#include "base/checked_copy.h"

#include <algorithm>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "base/hash.h"

namespace chorale {
namespace {

TEST(CheckedCopy, CopiesRunsOfAnySizeAndGivesTheChecksumOfTheWhole) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  CheckedCopy copy;
  for (int round = 0; round < 50; ++round) {
    std::vector<std::byte> from(random() % 300'000);
    for (std::byte& b : from) b = static_cast<std::byte>(random());
    std::vector<std::byte> to(from.size());
    for (size_t at = 0; at < from.size();) {
      const size_t size = std::min<size_t>(from.size() - at, random() % 150'000);
      copy.Append(to.data() + at, std::span(from).subspan(at, size));
      at += size;
    }
    EXPECT_EQ(to, from);
    EXPECT_EQ(copy.Finish(), Checksum64(from));
  }
}

}  // namespace
}  // namespace chorale
