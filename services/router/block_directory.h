// BlockDirectory: which worker has which K/V blocks, as the workers themselves tell (Blocks.Watch).
// With Redis it passes on what it hears, and knows of the workers of other routers too.
//
// It holds one view of each worker. A view that is not whole (an event was lost) is told of in the
// log and begun anew from a snapshot; meanwhile it may name blocks that have gone, which costs the
// one who pulls them a miss and nothing else.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "cache/block_events.h"
#include "cache/block_holder.h"
#include "cache/prefix_index.h"
#include "chorale/v1/blocks.pb.h"
#include "rpc/channels.h"
#include "services/router/redis_directory.h"

namespace chorale {

// Thread safe.
class BlockDirectory {
 public:
  // `redis_url` empty: what other routers know is not known here. InvalidArgument: it is no URL.
  static absl::StatusOr<std::unique_ptr<BlockDirectory>> Create(std::shared_ptr<Channels> channels,
                                                                const std::string& redis_url);
  ~BlockDirectory();

  // Watches the workers at these addresses from now on and forgets all others. At most
  // PrefixIndex::kHoldersMax; what is beyond is not watched.
  void SetHolders(const std::vector<std::string>& addresses);

  // Who has leading blocks of a chain, the most first, at most `count` of them.
  // Redis is asked when the workers watched here have not all of it, and not for long.
  std::vector<BlockHolder> Find(std::span<const BlockKey> keys, int count) const;

  struct Stats {
    int holders = 0;
    int holders_whole = 0;  // whose view is proven to be complete
    int64_t blocks = 0;
    int64_t bytes = 0;  // memory of the index
    int64_t views_broken = 0;
    std::string redis_state;  // empty: there is none
    RedisDirectoryCounters redis;
    RedisCounters redis_commands;
  };
  Stats stats() const;

 private:
  class Watch;
  explicit BlockDirectory(std::shared_ptr<Channels> channels);
  struct Holder {
    int number = 0;  // in the index
    std::unique_ptr<HolderView> view;
    uint64_t feed = 0;
    bool from_snapshot = false;    // the next watch is to begin so
    std::shared_ptr<Watch> watch;  // null: to be begun
  };

  std::vector<BlockHolder> FindHere(std::span<const BlockKey> keys, int count) const;
  void Run();
  void RenewLeases();
  void Announce(const std::string& address, const Holder& holder, const BlockEventBatch& batch);
  void BeginAllAnew();
  void Begin(const std::string& address, Holder& holder);
  // False: the watch has to begin anew.
  bool Apply(const std::string& address, const Watch* watch, const v1::BlockEvents& events);
  void Ended(const std::string& address, std::shared_ptr<Watch> watch);

  const std::shared_ptr<Channels> channels_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable all_ended_;
  PrefixIndex index_;                       // under mutex_
  std::map<std::string, Holder> holders_;   // by address; under mutex_
  int watches_live_ = 0;                    // under mutex_
  int64_t views_broken_ = 0;                // under mutex_
  bool stopping_ = false;                   // under mutex_
  std::unique_ptr<Redis> redis_;            // null: there is none
  std::unique_ptr<RedisDirectory> shared_;  // likewise
  std::thread thread_;                      // begins watches, renews leases
};

}  // namespace chorale
