#include "services/worker/region_cache.h"

#include <utility>

#include "services/common/log.h"

namespace chorale {
namespace {

constexpr size_t kPeersMax = 256;

}  // namespace

std::shared_ptr<const MappedRegion> RegionCache::Find(const std::string& address) const {
  std::lock_guard lock(mutex_);
  const auto it = peers_.find(address);
  return it == peers_.end() ? nullptr : it->second.mapped;
}

void RegionCache::Learn(const std::string& address, const std::string& region) {
  {
    std::lock_guard lock(mutex_);
    if (peers_.size() >= kPeersMax) peers_.clear();
    Peer& peer = peers_[address];
    if (peer.region == region) return;
    peer = {.region = region};
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
