// TransferRates: how fast blocks came from each address of late, so that pulling can be compared with
// computing.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"

namespace chorale {

// Thread safe.
class TransferRates {
 public:
  // `bytes` came within `took`, the call's own delay included.
  void Note(const std::string& address, int64_t bytes, absl::Duration took);
  // A call to it failed: it is avoided for a while.
  void NoteFailure(const std::string& address);
  // How long so many bytes would take; for ever while the address is avoided. One that nothing is
  // known of is believed to be good.
  absl::Duration Estimate(const std::string& address, int64_t bytes) const;

 private:
  struct Rate {
    double latency_us = 0;   // of a call, however short
    double bytes_per_us = 0;
    absl::Time avoided_until = absl::InfinitePast();
  };
  Rate& RateOf(const std::string& address);

  mutable std::mutex mutex_;
  absl::flat_hash_map<std::string, Rate> rates_;  // under mutex_
};

}  // namespace chorale
