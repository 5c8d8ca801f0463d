// BlockFeed: which blocks a process has, told to everybody who watches (Blocks.Watch).
//
// A watcher that reads too slowly is cut off and comes back where it was, or to a snapshot.
#pragma once

#include <mutex>
#include <span>
#include <vector>

#include "cache/block_events.h"
#include "chorale/v1/blocks.pb.h"
#include "rpc/server_stream.h"

namespace chorale {

// Thread safe.
class BlockFeed {
 public:
  BlockFeed();

  void Append(std::span<const BlockEvent> events);
  // Serves one Blocks.Watch.
  grpc::ServerWriteReactor<v1::BlockEvents>* Watch(grpc::CallbackServerContext* context,
                                                   const v1::WatchBlocksRequest& request);
  // Ends every watch, now and from now on: the process goes.
  void Close();

  // Fills in `sequence` and `digest`.
  void Describe(v1::StatBlocksReply& reply) const;
  int watchers() const;

 private:
  using Stream = ServerStream<v1::BlockEvents>;
  struct Watcher {
    std::shared_ptr<Stream> stream;
    int64_t bytes_max = 0;  // that may wait: a snapshot may, however large, and then events
  };

  void Send(Stream& stream, const BlockEventBatch& batch) const;
  void Drop(const std::shared_ptr<Stream>& stream);

  const uint64_t id_;  // of this feed
  mutable std::mutex mutex_;
  BlockEventLog log_;              // under mutex_
  std::vector<Watcher> watchers_;  // under mutex_
  bool closed_ = false;            // under mutex_
};

}  // namespace chorale
