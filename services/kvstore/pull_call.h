// One Blocks.Pull from a store: the blocks of a chain, in order, up to the first that is not here.
//
// A call reads a few blocks ahead of what it sends, so that the disk works while the wire does.
// Every block it sends is held: as bytes, until gRPC, which sends them from where they lie, has let
// go of them; by reference, where the receiver has mapped the store's memory, until the receiver
// says that it has taken it. A receiver that lets nothing go on for the lease loses the call and
// all it holds.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <grpcpp/support/byte_buffer.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "rpc/blocks/kv_frame.h"
#include "services/common/block_call.h"
#include "services/kvstore/block_store.h"
#include "services/kvstore/work_pool.h"

namespace chorale {

// Its work is done on the pool. Thread safe.
class PullCall : public std::enable_shared_from_this<PullCall> {
 public:
  struct Request {
    std::vector<BlockKey> keys;
    std::string format_text;  // that the blocks must have
    uint32_t format = 0;      // its number; 0: no block has it
    std::string region;       // the store's, empty when it has none
    bool by_reference = false;
  };
  // All outlive the call.
  PullCall(BlockStore& store, WorkPool& pool, std::shared_ptr<BlockStream> stream, Request request);

  void Start();
  // The receiver has taken so many blocks, of those sent by reference.
  void Acknowledge(int blocks_taken);
  // Ends the call when its receiver was silent for `lease`. False: the call is over.
  bool CheckLease(absl::Time now, absl::Duration lease);

 private:
  struct Ahead {
    bool known = false;
    std::optional<BlockStore::Handle> block;  // null: a miss
  };

  void PostPump();
  void Pump();
  bool ReadOneAhead();
  bool SendOne();
  absl::Status Send(BlockStore::Handle block);
  void End(const absl::Status& status);

  BlockStore& store_;
  WorkPool& pool_;
  const std::shared_ptr<BlockStream> stream_;
  const Request request_;
  FrameWriter writer_;  // of the pump

  std::mutex mutex_;
  // All below under mutex_.
  bool pumping_ = false;  // on the pool, or posted to it
  bool again_ = false;    // something changed meanwhile
  bool ended_ = false;
  std::deque<Ahead> ahead_;  // of the keys from sent_ on
  size_t sent_ = 0;
  size_t taken_ = 0;
  bool all_sent_ = false;
  std::deque<BlockStore::Handle> lent_;  // by reference, from taken_ on
  int64_t lent_bytes_ = 0;
  absl::Time progress_at_;
};

}  // namespace chorale
