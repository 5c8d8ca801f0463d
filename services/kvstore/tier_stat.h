// What a tier of the store tells about itself and its blocks.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/time/time.h"
#include "cache/block_key.h"

namespace chorale {

struct TierStat {
  std::string tier;    // "dram", "disk", "redis"
  int64_t blocks = 0;  // -1, and bytes too: nobody counts them
  int64_t bytes = 0;
  int64_t bytes_max = 0;
  int64_t holds = 0;                        // pins now
  std::string state = "ok";                 // or what is wrong with it
  std::map<std::string, int64_t> counters;  // they only grow, but for *_queued
};

struct BlockListing {
  BlockKey key;
  std::string tier;
  int64_t bytes = 0;
  int32_t index = 0;
  int32_t holds = 0;
  absl::Duration age;  // since it was last used
};

}  // namespace chorale
