#include "services/worker/region_cache.h"

#include <utility>

#include "absl/time/clock.h"
#include "process/log.h"

namespace chorale {
namespace {

constexpr size_t kPeersMax = 256;
constexpr absl::Duration kUnusedMax = absl::Seconds(30);

}  // namespace

std::shared_ptr<const MappedRegion> RegionCache::Find(const std::string& address) {
  std::lock_guard lock(mutex_);
  DropUnused();
  const auto it = peers_.find(address);
  if (it == peers_.end()) return nullptr;
  it->second.used = absl::Now();
  return it->second.mapped;
}

void RegionCache::Forget(const std::string& address) {
  std::lock_guard lock(mutex_);
  peers_.erase(address);
}

void RegionCache::DropUnused() {
  const absl::Time since = absl::Now() - kUnusedMax;
  absl::erase_if(peers_, [since](const auto& peer) { return peer.second.used < since; });
}

void RegionCache::Learn(const std::string& address, const std::string& region) {
  {
    std::lock_guard lock(mutex_);
    DropUnused();
    if (peers_.size() >= kPeersMax) peers_.clear();
    Peer& peer = peers_[address];
    if (peer.region == region) return;
    peer = {.region = region, .used = absl::Now()};
  }
  absl::StatusOr<std::unique_ptr<MappedRegion>> opened = MappedRegion::Open(region);
  if (!opened.ok()) {
    LogInfo("blocks of ", address, " come over the wire: ", opened.status().message());
    return;
  }
  LogInfo("blocks of ", address, " are read from shared memory, ", (*opened)->size() >> 20, " MiB");
  std::lock_guard lock(mutex_);
  Peer& peer = peers_[address];
  if (peer.region == region) peer.mapped = *std::move(opened);
}

}  // namespace chorale
