// Bits of K/V blocks, flipped where the blocks lie: in the memory of a process, on disk, in Redis.
//
// A block is found by its bytes, which are its sender's own: nothing here knows how a tier lays its
// blocks out. Each function CHECKs that they are there exactly once.
#pragma once

#include <cstdint>
#include <string>

#include <sys/types.h>

#include "cache/block_key.h"
#include "chorale/v1/blocks.pb.h"
#include "tests/net/redis/redis_fixture.h"

namespace chorale {

// The bytes of a block as `address` serves them; empty: it has no such block.
std::string CopyBlock(const std::string& address, const v1::KvFormat& format, const BlockKey& key);

// In the memory that a process of ours shares with others.
void FlipInMemory(pid_t pid, const std::string& block, uint64_t seed);
void FlipInFile(const std::string& path, const std::string& block, uint64_t seed);
void FlipInRedis(const RedisProcess& redis, const std::string& key, const std::string& block,
                 uint64_t seed);

}  // namespace chorale
