// Redis as the tier behind a BlockStore: blocks outlive the node, and all nodes share them.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "net/redis/redis.h"
#include "services/kvstore/block_store.h"
#include "services/kvstore/redis/redis_tier.h"

namespace chorale {

// Thread safe. Outlives the store that uses its tier.
class RedisBacking {
 public:
  // `url` as --redis has it; returns at once, whether Redis is there or not. InvalidArgument: no
  // such url.
  static absl::StatusOr<std::unique_ptr<RedisBacking>> Open(const std::string& url);

  // Its functions refer to this.
  BackingTier tier();

 private:
  explicit RedisBacking(RedisOptions options) : redis_(std::move(options)), tier_(redis_, {}) {}
  TierStat Stat() const;

  Redis redis_;
  RedisTier tier_;
};

}  // namespace chorale
