// The slots of Redis Cluster: which of 16,384 a key belongs to, and which server has which.
//
// Redis Cluster Specification, "Key distribution model" and "Hash tags".
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "net/redis/reply.h"
#include "net/redis/url.h"

namespace chorale {

inline constexpr int kRedisSlots = 16384;

// CRC16 of the key, or of what stands between its first { and the next }, if anything does.
int RedisSlotOf(std::string_view key);

// Slots [first, last] are at `master`.
struct RedisSlotRange {
  int first = 0;
  int last = 0;
  RedisAddress master;
};

// Reads the reply to CLUSTER SLOTS, which `asked` gave. DataLoss: it is not one.
absl::StatusOr<std::vector<RedisSlotRange>> ParseClusterSlots(const RedisReply& reply,
                                                              const RedisAddress& asked);

// "MOVED 3999 host:port" or "ASK 3999 host:port", an empty host being that of who said it.
struct RedisRedirect {
  bool ask = false;  // this time only
  int slot = 0;
  RedisAddress to;
};
// Nothing when the message is no redirect, or not a sound one.
std::optional<RedisRedirect> ParseRedisRedirect(std::string_view message,
                                                const RedisAddress& said_by);

}  // namespace chorale
