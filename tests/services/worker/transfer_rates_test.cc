#include "services/worker/transfer_rates.h"

#include <gtest/gtest.h>

namespace chorale {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr int kMany = 50;  // samples, after which the first belief is forgotten

double Ms(absl::Duration d) { return absl::ToDoubleMilliseconds(d); }

TEST(TransferRates, BelievesAnUnknownAddressToBeGood) {
  const TransferRates rates;
  EXPECT_NEAR(Ms(rates.Estimate("a", 0)), 1, 0.01);
  EXPECT_NEAR(Ms(rates.Estimate("a", 100'000'000)), 101, 0.01) << "1 GB/s";
}

TEST(TransferRates, TellsLatencyBySmallCallsAlone) {
  TransferRates rates;
  for (int i = 0; i < kMany; ++i) rates.Note("a", 1000, absl::Milliseconds(20));
  EXPECT_NEAR(Ms(rates.Estimate("a", 0)), 20, 0.01);
  EXPECT_NEAR(Ms(rates.Estimate("a", 100'000'000)), 120, 0.01) << "the bandwidth is as it was";
}

TEST(TransferRates, TellsBandwidthByLargeCallsWithoutTheirLatency) {
  TransferRates rates;
  for (int i = 0; i < kMany; ++i) rates.Note("a", 1000, absl::Milliseconds(20));
  // 80 of these 100 ms were spent moving.
  for (int i = 0; i < kMany; ++i) rates.Note("a", 80 * kMiB, absl::Milliseconds(100));
  EXPECT_NEAR(Ms(rates.Estimate("a", 0)), 20, 0.01);
  EXPECT_NEAR(Ms(rates.Estimate("a", 40 * kMiB)), 60, 0.1);
}

TEST(TransferRates, IsMovedButNotThrownByTheNewestSample) {
  TransferRates rates;
  for (int i = 0; i < kMany; ++i) rates.Note("a", 1000, absl::Milliseconds(10));
  rates.Note("a", 1000, absl::Milliseconds(110));
  EXPECT_NEAR(Ms(rates.Estimate("a", 0)), 40, 0.01) << "3 of 10 parts are the newest's";
}

TEST(TransferRates, KnowsEachAddressByItself) {
  TransferRates rates;
  for (int i = 0; i < kMany; ++i) rates.Note("slow", 1000, absl::Seconds(1));
  EXPECT_NEAR(Ms(rates.Estimate("slow", 0)), 1000, 1);
  EXPECT_NEAR(Ms(rates.Estimate("other", 0)), 1, 0.01);
}

TEST(TransferRates, AvoidsTheAddressThatFailedAndNoOther) {
  TransferRates rates;
  rates.Note("a", 1000, absl::Milliseconds(1));
  rates.NoteFailure("a");
  rates.NoteFailure("never heard of");
  EXPECT_EQ(rates.Estimate("a", 0), absl::InfiniteDuration());
  EXPECT_EQ(rates.Estimate("never heard of", 0), absl::InfiniteDuration());
  EXPECT_NEAR(Ms(rates.Estimate("b", 0)), 1, 0.01);
}

TEST(TransferRates, StaysFiniteWhateverItIsTold) {
  TransferRates rates;
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, 100 * kMiB}) {
    rates.Note("no time", bytes, absl::ZeroDuration());
    rates.Note("no time", bytes, -absl::Seconds(1));
    for (int i = 0; i < kMany; ++i) rates.Note("a year", bytes, absl::Hours(24 * 365));
  }
  EXPECT_GT(rates.Estimate("no time", kMiB), absl::ZeroDuration());
  EXPECT_LT(rates.Estimate("no time", kMiB), absl::Milliseconds(100));
  EXPECT_GT(rates.Estimate("a year", kMiB), absl::Hours(24));
  EXPECT_LT(rates.Estimate("a year", kMiB), absl::Hours(24 * 366));
}

// Routers name addresses: what they name must not grow without end.
TEST(TransferRates, ForgetsWhenThereAreTooManyAddresses) {
  TransferRates rates;
  for (int i = 0; i < kMany; ++i) rates.Note("first", 1000, absl::Seconds(1));
  for (int i = 0; i < 3000; ++i) rates.Note(std::to_string(i), 1000, absl::Seconds(1));
  EXPECT_GT(Ms(rates.Estimate("first", 0)), 900) << "thousands have room";
  for (int i = 3000; i < 6000; ++i) rates.Note(std::to_string(i), 1000, absl::Seconds(1));
  EXPECT_NEAR(Ms(rates.Estimate("first", 0)), 1, 0.01);
  EXPECT_GT(Ms(rates.Estimate("5999", 0)), 100) << "the newest is known";
}

}  // namespace
}  // namespace chorale
