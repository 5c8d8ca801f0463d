// BlockFetcher: brings the blocks that a request awaits, from wherever that is cheapest.
//
//   NeedBlocks --> pull from the holder (a peer, or the stores) that saves the most, then the next
//              --> let a prefill worker write the rest, when it is long and there is one
//              --> EndDelivery: what is still missing is computed here
//
// A pull is worth it when it takes less time than computing the same tokens, both by what was
// measured of late. Nothing that goes wrong on the way fails the request: it is computed then.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "cache/block_holder.h"
#include "cache/block_key.h"
#include "rpc/channels.h"
#include "services/worker/region_cache.h"
#include "services/worker/store_client.h"
#include "services/worker/transfer_rates.h"
#include "services/worker/worker.h"

namespace chorale {

struct BlockFetcherOptions {
  int local_prefill_tokens = 32;   // a missing tail up to this long is prefilled here
  int channels = 2;                // connections that a large pull is spread over, 1 to 4
};

// What is known of a request whose blocks are wanted.
struct FetchSources {
  std::vector<BlockHolder> holders;  // may have leading blocks
  std::string prefill_address;       // may write the prompt; empty: nobody
  // What it is asked to write: the prompt without its last token.
  std::string model;
  std::vector<TokenId> tokens;
  KeyScope scope;
  bool reuse_prefix = true;
  absl::Time deadline;
};

// Thread safe. Outlives every fetch, and so do the channels and the stores.
class BlockFetcher {
 public:
  // `stores` may be null.
  BlockFetcher(const BlockFetcherOptions& options, Worker& worker, Channels& channels,
               StoreClient* stores);

  // Whether there is anybody to fetch from.
  bool CanFetch(const FetchSources& sources) const;
  // Starts a fetch for the request of `need`; called on the engine's thread. It ends with
  // EndDelivery, unless the request ends before. Returns what cancels it, safe from any thread.
  std::function<void()> Start(const NeedBlocksEvent& need, FetchSources sources);

  struct Stats {
    int64_t pulls = 0;             // calls to peers and stores
    int64_t pulls_failed = 0;
    int64_t blocks_pulled = 0;
    int64_t blocks_shared = 0;     // of these, read from shared memory
    int64_t pulls_declined = 0;    // computing was thought to be faster
  };
  Stats stats() const;

 private:
  class Fetch;

  bool MayAskStores(const FetchSources& sources) const;

  const BlockFetcherOptions options_;
  Worker& worker_;
  Channels& channels_;
  StoreClient* const stores_;
  TransferRates rates_;
  // Frames that come after the end still look here.
  const std::shared_ptr<RegionCache> regions_ = std::make_shared<RegionCache>();
  mutable std::mutex mutex_;
  Stats stats_;  // under mutex_
};

}  // namespace chorale
