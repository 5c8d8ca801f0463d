// What a block looks like as a value in Redis, all numbers little endian:
//
//   0 "CHKV" | 4 version u32 | 8 format u64 | 16 index i32 | 20 zero u32 | 24 bytes u64
//   32 checksum of the bytes u64 | 40 key, 16 bytes | 56 checksum of bytes 0..55 u64 | 64 the bytes
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "cache/block_key.h"

namespace chorale {

inline constexpr size_t kRedisBlockHeadBytes = 64;

struct RedisBlockHead {
  uint64_t format = 0;    // whatever tells the caller that bytes mean the same
  int32_t index = 0;      // of the block, from the start of its prompt
  uint64_t checksum = 0;  // Checksum64 of the bytes
};

std::string RedisKeyOfBlock(const BlockKey& key);

std::string EncodeRedisBlock(const BlockKey& key, const RedisBlockHead& head,
                             std::span<const std::byte> bytes);
// DataLoss unless every bit of `value` is as it was written, under this key.
absl::StatusOr<RedisBlockHead> DecodeRedisBlock(const BlockKey& key, std::string_view value);

}  // namespace chorale
