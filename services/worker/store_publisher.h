// StorePublisher: blocks that this worker has written, into the block store.
//
// Blocks that became findable here are queued by key; one thread copies them, some megabytes at a
// time, and pushes them to the nodes that are to keep them, leaving out the first ones that a node
// says it has. It is never waited for: when the queue is full or a store is away, blocks are left
// out, which costs a later hit and nothing else.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "chorale/v1/blocks.grpc.pb.h"
#include "services/worker/store_client.h"
#include "services/worker/worker.h"

namespace chorale {

class StorePublisher {
 public:
  // All outlive the publisher. Begins when the worker is loaded, at the first Offer.
  StorePublisher(Worker& worker, StoreClient& stores, Channels& channels);
  ~StorePublisher();

  // Queues the blocks that were added.
  void Offer(std::span<const BlockEvent> events);

  struct Stats {
    int64_t blocks_pushed = 0;
    int64_t blocks_present = 0;  // a store had them already
    // The queue was full, they had gone, or the store did not take them.
    int64_t blocks_dropped = 0;
    int64_t queued = 0;
  };
  Stats stats() const;

 private:
  struct Offered {
    BlockKey key;
    int index = 0;
  };
  struct Copied;

  void Run();
  void Publish(const std::vector<Offered>& offered);
  void PushTo(const std::string& node, const std::vector<const Copied*>& blocks);
  std::vector<Copied> CopyOut(const std::vector<Offered>& offered);

  Worker& worker_;
  StoreClient& stores_;
  Channels& channels_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Offered> queue_;  // under mutex_
  Stats stats_;                // under mutex_
  bool stopping_ = false;      // under mutex_
  std::thread thread_;
};

}  // namespace chorale
