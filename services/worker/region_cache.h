// RegionCache: the shared memory of peers on this host, mapped once for each, for as long as it is
// used now and then: a mapping keeps the memory of a peer that has died.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "rpc/blocks/shared_region.h"

namespace chorale {

// Thread safe.
class RegionCache {
 public:
  // The region of the peer at `address`, null when none is mapped.
  std::shared_ptr<const MappedRegion> Find(const std::string& address);
  // The peer says that its region is called `region`: maps it unless that was tried already. May
  // take a while; not for the engine's thread.
  void Learn(const std::string& address, const std::string& region);
  // The peer does not answer.
  void Forget(const std::string& address);

 private:
  struct Peer {
    std::string region;                          // that was last tried
    std::shared_ptr<const MappedRegion> mapped;  // null: it could not be mapped
    absl::Time used;
  };
  void DropUnused();

  std::mutex mutex_;
  absl::flat_hash_map<std::string, Peer> peers_;  // under mutex_
};

}  // namespace chorale
