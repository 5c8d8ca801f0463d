#include "model/adapter/dora.h"

#include <cmath>

#include <gtest/gtest.h>

namespace chorale {
namespace {

TEST(Dora, GainGivesEveryRowOfItsPartTheLengthOfItsMagnitude) {
  kernels::ThreadPool pool(1);
  // Rows 1 and 2 of the base are [3, 0] and [1, 1]; the update adds 2 * [0, 2] and 2 * [1, 0].
  const std::vector<float> w = {9, 9, 3, 0, 1, 1}, a = {1, 0, 0, 1}, b = {0, 2, 1, 0};
  for (const kernels::Kernels* table : kernels::AvailableKernels()) {
    const auto pack = [&](const std::vector<float>& values, int rows) {
      const kernels::MatrixView view = {.data = values.data(), .rows = rows, .cols = 2};
      return table->pack({&view, 1}, kernels::DType::kF32, pool);
    };
    const kernels::PackedMatrix base = pack(w, 3);
    LowRank update;
    update.a = pack(a, 2);
    update.b = pack(b, 2);
    update.scale = 2;
    const std::vector<float> gain =
        DoraGain({base, 1, {}}, update, std::vector<float>{10, 1}, *table, pool);
    ASSERT_EQ(gain.size(), 2u);
    EXPECT_FLOAT_EQ(gain[0], 10 / 5.0f) << table->name;
    EXPECT_FLOAT_EQ(gain[1], 1 / std::sqrt(10.0f)) << table->name;
  }
}

TEST(Dora, TheGainLeavesWhereTheOutputStartedAsItIs) {
  const std::vector<float> gain = {2, 3}, bias = {1, 10}, kept = {5, 50, 0, 7, 70, 0};
  std::vector<float> y = {8, 64, -1, 8, 80, -1};
  ApplyGain(gain, {.bias = bias, .kept = kept.data()}, 2, y.data(), 3);
  EXPECT_EQ(y, (std::vector<float>{10, 72, -1, 8, 80, -1}));
  ApplyGain(gain, {}, 1, y.data(), 3);
  EXPECT_EQ(y, (std::vector<float>{20, 216, -1, 8, 80, -1}));
}

}  // namespace
}  // namespace chorale
