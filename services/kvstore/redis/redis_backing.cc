#include "services/kvstore/redis/redis_backing.h"

#include <utility>

#include "base/status_macros.h"

namespace chorale {
namespace {

// A pull waits for so long; then the block is computed.
constexpr absl::Duration kGetTimeout = absl::Milliseconds(200);
constexpr absl::Duration kCountTimeout = absl::Milliseconds(20);

}  // namespace

absl::StatusOr<std::unique_ptr<RedisBacking>> RedisBacking::Open(const std::string& url) {
  RedisOptions options;
  ASSIGN_OR_RETURN(options.url, RedisUrl::Parse(url));
  return std::unique_ptr<RedisBacking>(new RedisBacking(std::move(options)));
}

BackingTier RedisBacking::tier() {
  return {
      .get = [this](const BlockKey& key) -> std::optional<BackingTier::Found> {
        const std::optional<RedisBlock> block =
            std::move(tier_.Get({&key, 1}, kGetTimeout).front());
        if (!block) return std::nullopt;
        const std::span<const std::byte> bytes = block->bytes();
        return BackingTier::Found{
            .meta = {.checksum = block->head.checksum, .index = block->head.index},
            .format_id = block->head.format,
            .bytes = {bytes.begin(), bytes.end()}};
      },
      .put =
          [this](const BlockKey& key, const BlockMeta& meta, uint64_t format_id,
                 std::span<const std::byte> bytes) {
            tier_.Put(key, {.format = format_id, .index = meta.index, .checksum = meta.checksum},
                      bytes);
          },
      .count_prefix =
          [this](std::span<const BlockKey> keys) { return tier_.CountPrefix(keys, kCountTimeout); },
      .stat = [this] { return Stat(); }};
}

TierStat RedisBacking::Stat() const {
  const RedisTierCounters counters = tier_.counters();
  const RedisCounters commands = redis_.counters();
  return {.tier = "redis",
          .blocks = -1,
          .bytes = -1,
          .state = RedisStateName(tier_.state()),
          .counters = {{"hits", counters.hits},
                       {"misses", counters.misses},
                       {"failed", counters.failed},
                       {"corrupt", counters.corrupt},
                       {"written", counters.written},
                       {"dropped", counters.dropped},
                       {"bytes_written", counters.bytes_written},
                       {"commands", commands.commands},
                       {"commands_skipped", commands.skipped},
                       {"commands_refused", commands.errors},
                       {"commands_timed_out", commands.timeouts},
                       {"commands_lost", commands.lost},
                       {"blocks_queued", counters.blocks_queued},
                       {"bytes_queued", counters.bytes_queued}}};
}

}  // namespace chorale
