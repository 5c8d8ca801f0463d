// BackingTier: what lies behind a BlockStore's memory and disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "cache/block_key.h"
#include "cache/block_table.h"
#include "services/kvstore/tier_stat.h"

namespace chorale {

// A tier in another process. Absent functions mean that there is none.
struct BackingTier {
  // Numbers of formats are the store's own; elsewhere a format goes by FormatTable::IdOf.
  struct Found {
    BlockMeta meta;  // without bytes and format
    uint64_t format_id = 0;
    std::vector<std::byte> bytes;
  };
  // May take as long as the tier's own deadline; its bytes are verified here again.
  std::function<std::optional<Found>(const BlockKey&)> get;
  // Never waits.
  std::function<void(const BlockKey&, const BlockMeta&, uint64_t format_id,
                     std::span<const std::byte>)>
      put;
  // How many of `keys`, from the first on, it has. As fast as `get`.
  std::function<int(std::span<const BlockKey>)> count_prefix;
  std::function<TierStat()> stat;
};

}  // namespace chorale
