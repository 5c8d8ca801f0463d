// The blocks of the world of tests/cache/handoff_world.h: their keys, bytes and checksums.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "cache/block_key.h"

namespace chorale {

// By chain, then by index in it.
struct HandoffChains {
  static constexpr int kChains = 3;
  static constexpr int kLength = 3;
  std::array<std::array<BlockKey, kLength>, kChains> keys;
  std::array<std::array<std::array<std::byte, 32>, kLength>, kChains> bytes;
  std::array<std::array<uint64_t, kLength>, kChains> checksums;
};
const HandoffChains& TheHandoffChains();

}  // namespace chorale
