#include "services/worker/transfer_rates.h"

#include <algorithm>

#include "absl/time/clock.h"

namespace chorale {
namespace {

constexpr double kNewest = 0.3;  // weight of the newest sample
constexpr double kLatencyUsDefault = 1'000;
constexpr double kBytesPerUsDefault = 1'000;  // 1 GB/s
constexpr double kBytesPerUsMin = 1;
// Below so many bytes a call tells of latency, above of bandwidth.
constexpr int64_t kSmallBytes = 256 << 10;
constexpr size_t kAddressesMax = 4096;
constexpr absl::Duration kAvoid = absl::Seconds(2);

double Smoothed(double old, double sample) { return kNewest * sample + (1 - kNewest) * old; }

}  // namespace

void TransferRates::Note(const std::string& address, int64_t bytes, absl::Duration took) {
  const double us = std::max(1.0, absl::ToDoubleMicroseconds(took));
  std::lock_guard lock(mutex_);
  Rate& rate = RateOf(address);
  if (bytes <= kSmallBytes) {
    rate.latency_us = Smoothed(rate.latency_us, us);
  } else {
    const double moving_us = std::max(1.0, us - rate.latency_us);
    rate.bytes_per_us = std::max(
        kBytesPerUsMin, Smoothed(rate.bytes_per_us, static_cast<double>(bytes) / moving_us));
  }
}

void TransferRates::NoteFailure(const std::string& address) {
  std::lock_guard lock(mutex_);
  RateOf(address).avoided_until = absl::Now() + kAvoid;
}

TransferRates::Rate& TransferRates::RateOf(const std::string& address) {
  if (rates_.size() >= kAddressesMax && !rates_.contains(address)) rates_.clear();
  return rates_.try_emplace(address, Rate{kLatencyUsDefault, kBytesPerUsDefault}).first->second;
}

absl::Duration TransferRates::Estimate(const std::string& address, int64_t bytes) const {
  std::lock_guard lock(mutex_);
  const auto it = rates_.find(address);
  const Rate rate = it == rates_.end() ? Rate{kLatencyUsDefault, kBytesPerUsDefault} : it->second;
  if (absl::Now() < rate.avoided_until) return absl::InfiniteDuration();
  return absl::Microseconds(rate.latency_us + static_cast<double>(bytes) / rate.bytes_per_us);
}

}  // namespace chorale
