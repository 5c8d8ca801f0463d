#include "model/rope.h"

#include <cmath>

#include <gtest/gtest.h>

namespace chorale {
namespace {

constexpr double kPi = 3.14159265358979323846;

ModelConfig Config(int head_dim, double theta, RopeScaling scaling = {}) {
  ModelConfig config;
  config.head_dim = head_dim;
  config.rope_theta = theta;
  config.rope_scaling = scaling;
  return config;
}

// The unscaled frequency of pair i.
double Plain(int i, int head_dim, double theta) {
  return std::exp(-std::log(theta) * (2.0 * i / head_dim));
}

TEST(RopeTest, TurnsPairsByPowersOfTheta) {
  const Rope rope(Config(64, 500000));
  ASSERT_EQ(rope.FrequenciesAt({}).size(), 32u);
  EXPECT_EQ(rope.FrequenciesAt({})[0], 1);
  for (int i = 0; i < 32; ++i) {
    EXPECT_NEAR(rope.FrequenciesAt({})[i], Plain(i, 64, 500000), 1e-15) << i;
  }
  EXPECT_EQ(rope.amplitude(), 1);
}

TEST(RopeTest, StretchesAllAlikeWhenLinear) {
  const Rope rope(Config(16, 10000, {.kind = RopeScaling::Kind::kLinear, .factor = 4}));
  for (int i = 0; i < 8; ++i) {
    EXPECT_NEAR(rope.FrequenciesAt({})[i], Plain(i, 16, 10000) / 4, 1e-15) << i;
  }
  EXPECT_EQ(rope.amplitude(), 1);
}

// Llama 3.1: wavelengths under 8192 / 4 stay, those over 8192 / 1 are stretched eightfold.
TEST(RopeTest, StretchesLongWavesWhenLlama3) {
  const Rope rope(Config(128, 500000,
                         {.kind = RopeScaling::Kind::kLlama3,
                          .factor = 8,
                          .low_freq_factor = 1,
                          .high_freq_factor = 4,
                          .original_positions = 8192}));
  int kept = 0, blended = 0, stretched = 0;
  for (int i = 0; i < 64; ++i) {
    const double plain = Plain(i, 128, 500000);
    const double turns = 8192 * plain / (2 * kPi);  // within the original context
    double expected = plain;
    if (turns < 1) {
      expected = plain / 8;
      ++stretched;
    } else if (turns <= 4) {
      const double smooth = (turns - 1) / 3;
      expected = plain * (smooth + (1 - smooth) / 8);
      ++blended;
    } else {
      ++kept;
    }
    EXPECT_NEAR(rope.FrequenciesAt({})[i], expected, 1e-14) << i;
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(blended, 0);
  EXPECT_GT(stretched, 0);
}

// Qwen's settings: factor 4 over 32768 positions.
TEST(RopeTest, RampsOverDimensionsWhenYarn) {
  const RopeScaling yarn{
      .kind = RopeScaling::Kind::kYarn, .factor = 4, .original_positions = 32768};
  const Rope rope(Config(128, 1e6, yarn));
  // The dimension that turns n times within the context solves 32768 / 1e6^(2 d / 128) = 2 pi n.
  const auto dimension = [](double n) {
    return 64 * std::log(32768 / (2 * kPi * n)) / std::log(1e6);
  };
  const double low = std::floor(dimension(32));
  const double high = std::ceil(dimension(1));
  ASSERT_GT(low, 0);
  ASSERT_LT(high, 63);
  for (int i = 0; i < 64; ++i) {
    const double plain = Plain(i, 128, 1e6);
    const double ramp = i <= low ? 0 : i >= high ? 1 : (i - low) / (high - low);
    EXPECT_NEAR(rope.FrequenciesAt({})[i], plain * (1 - ramp) + plain / 4 * ramp, 1e-15) << i;
  }
  EXPECT_NEAR(rope.amplitude(), 1 + 0.1 * std::log(4.0), 1e-15);
}

TEST(RopeTest, TakesTheAmplitudeThatIsWritten) {
  const Rope rope(Config(8, 10000,
                         {.kind = RopeScaling::Kind::kYarn,
                          .factor = 4,
                          .original_positions = 64,
                          .attention_factor = 1.5}));
  EXPECT_EQ(rope.amplitude(), 1.5);
}

TEST(RopeTest, FillsRowsOfAnyPositions) {
  kernels::ThreadPool pool(2);
  const RopeScaling yarn{.kind = RopeScaling::Kind::kYarn,
                         .factor = 2,
                         .original_positions = 64,
                         .attention_factor = 1.25};
  const Rope rope(Config(8, 10000, yarn));
  std::vector<Rope::Place> places;
  for (int i = 0; i < 40; ++i) places.push_back({i * i * 911 % 100'003});
  std::vector<float> cos(places.size() * 4), sin(places.size() * 4);
  rope.Fill(places, cos.data(), sin.data(), pool);
  for (size_t row = 0; row < places.size(); ++row) {
    for (int d = 0; d < 4; ++d) {
      const double angle = places[row].position * rope.FrequenciesAt({})[d];
      EXPECT_FLOAT_EQ(cos[row * 4 + d], static_cast<float>(1.25 * std::cos(angle)));
      EXPECT_FLOAT_EQ(sin[row * 4 + d], static_cast<float>(1.25 * std::sin(angle)));
    }
  }
}

// Within the original context nothing changes; behind it the base grows with the position.
TEST(RopeTest, StretchesWithThePositionWhenDynamic) {
  const Rope rope(Config(
      16, 10000, {.kind = RopeScaling::Kind::kDynamic, .factor = 2, .original_positions = 64}));
  for (int position : {0, 1, 63}) {
    for (int i = 0; i < 8; ++i) {
      EXPECT_NEAR(rope.FrequenciesAt({position})[i], Plain(i, 16, 10000), 1e-15);
    }
  }
  for (int position : {64, 65, 127, 1000}) {
    const double theta = 10000 * std::pow(2.0 * (position + 1) / 64 - 1, 16.0 / 14);
    for (int i = 0; i < 8; ++i) {
      EXPECT_NEAR(rope.FrequenciesAt({position})[i], Plain(i, 16, theta), 1e-15) << position;
    }
  }
  EXPECT_EQ(rope.amplitude(), 1);
}

TEST(RopeTest, HasTwoSetsOfFrequenciesWhenLongRope) {
  const Rope rope(Config(8, 10000,
                         {.kind = RopeScaling::Kind::kLongRope,
                          .factor = 4,
                          .original_positions = 64,
                          .attention_factor = 1.2,
                          .short_divisors = {1, 1, 1.5, 2},
                          .long_divisors = {1, 2, 4, 8}}));
  const double kShort[] = {1, 1, 1.5, 2};
  const double kLong[] = {1, 2, 4, 8};
  for (int i = 0; i < 4; ++i) {
    for (int position : {0, 63, 64, 200}) {
      EXPECT_NEAR(rope.FrequenciesAt({position, false})[i], Plain(i, 8, 10000) / kShort[i], 1e-15);
      EXPECT_NEAR(rope.FrequenciesAt({position, true})[i], Plain(i, 8, 10000) / kLong[i], 1e-15);
    }
  }
  EXPECT_EQ(rope.amplitude(), 1.2);
}

}  // namespace
}  // namespace chorale
