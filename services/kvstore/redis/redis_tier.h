// RedisTier: blocks of keys and values kept in Redis, behind DRAM and disk.
//
//   Put -> queue, bounded by bytes -> writer thread -> SET   (dropped when full or Redis is unwell)
//   Get -> GET, in the caller's thread, within its timeout -> every bit checked -> block or miss
//
// A block that does not match its checksums is counted, deleted and a miss. Nothing here can fail a
// request: what Redis cannot do is a miss or a drop, and counted. Thread safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "cache/block_key.h"
#include "net/redis/redis.h"
#include "services/kvstore/redis/redis_value.h"

namespace chorale {

// A block that Get found: its value in Redis, head and all, so that its bytes need no copy.
struct RedisBlock {
  RedisBlockHead head;
  std::string value;

  std::span<const std::byte> bytes() const {
    return std::as_bytes(std::span(value)).subspan(kRedisBlockHeadBytes);
  }
};

// All but the last two only grow.
struct RedisTierCounters {
  int64_t hits = 0;
  int64_t misses = 0;   // Redis says that it has no such block
  int64_t failed = 0;   // gets that Redis did not answer
  int64_t corrupt = 0;  // found, and found wrong
  int64_t written = 0;  // blocks
  int64_t dropped = 0;  // blocks that were put and not written
  int64_t bytes_written = 0;
  int64_t blocks_queued = 0;  // now
  int64_t bytes_queued = 0;   // now
};

class RedisTier {
 public:
  struct Options {
    absl::Duration ttl = absl::ZeroDuration();  // of a block since it was put; zero: for ever
    int64_t queue_bytes_max = 64 << 20;
    int64_t batch_bytes = 4 << 20;            // written before their replies are waited for
    int64_t bytes_per_second_min = 20 << 20;  // a Redis that takes less is given up for that batch
  };
  // `redis` must outlive the tier.
  RedisTier(Redis& redis, const Options& options);
  // Blocks that are not written yet are dropped.
  ~RedisTier();

  // Copies the block and returns. False: it was dropped.
  bool Put(const BlockKey& key, const RedisBlockHead& head, std::span<const std::byte> bytes);
  // The blocks that are there and came within `timeout`, each at its key's place.
  std::vector<std::optional<RedisBlock>> Get(std::span<const BlockKey> keys,
                                             absl::Duration timeout);
  // How many of `keys`, from the first on, are there.
  int CountPrefix(std::span<const BlockKey> keys, absl::Duration timeout);
  // Waits until the queue is empty and what was in it is written or dropped.
  bool Drain(absl::Duration timeout);

  RedisState state() const { return redis_.state(); }
  RedisTierCounters counters() const;

 private:
  struct Write {
    RedisCommand command;
    int64_t bytes = 0;  // of the value; 0: a deletion
  };
  bool Enqueue(Write write);
  void Run();
  void WriteBatch(std::deque<Write> batch);

  Redis& redis_;
  const Options options_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable drained_;
  std::deque<Write> queue_;     // under mutex_
  int64_t queue_bytes_ = 0;     // under mutex_
  bool writing_ = false;        // a batch is on its way; under mutex_
  bool stopping_ = false;       // under mutex_
  RedisTierCounters counters_;  // under mutex_
  std::thread writer_;
};

}  // namespace chorale
