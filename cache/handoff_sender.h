// HandoffSender: which blocks are held for whom, and until when (cache/handoff.h).
//
//   Pull --> open --Finish--> finished --last Taken--> ended
//             |                  |                       ^
//             +------------------+--Release, Expire------+
//
// It has one reference on every block that is held, handed over by Grant, and lets go of each
// exactly once, through `release`. Memory is bounded, whatever comes in. A sender that copies a
// block out at once calls Grant, then Taken; one that lets others read its memory waits for kTaken.
// Time is handed in. Deterministic; not thread safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache/handoff.h"

namespace chorale {

// The owner's name of a block: its BlockId, the offset of its slot, ...
using HandoffBlock = int64_t;

struct HandoffSenderOptions {
  absl::Duration lease = absl::Seconds(10);  // after the last message of the attempt
  int64_t blocks_held_max = 1024;            // by all attempts
  int transfers_max = 256;                   // open at once
  int ended_max = 4096;                      // attempts remembered after their end
};

// They only grow.
struct HandoffSenderCounters {
  int64_t attempts = 0;  // opened
  int64_t blocks_granted = 0;
  int64_t blocks_taken = 0;
  int64_t leases_expired = 0;
  int64_t messages_stale = 0;  // of attempts or blocks that were over, or unknown
  int64_t refused = 0;         // pulls and grants, for want of room
};

class HandoffSender {
 public:
  enum class PullVerdict {
    kOpened,    // grant its blocks, then Finish
    kRepeated,  // it is open already; nothing to do
    kStale,     // it is over, or a later attempt was seen; nothing to do
  };
  enum class TakenVerdict {
    kReleased,  // the block was let go of
    kStale,     // it was not held for this attempt, or not any more
  };

  // `release` lets go of one reference; it must not call back into this object.
  HandoffSender(const HandoffSenderOptions& options, std::function<void(HandoffBlock)> release);
  // Lets go of all blocks.
  ~HandoffSender();
  HandoffSender(const HandoffSender&) = delete;
  HandoffSender& operator=(const HandoffSender&) = delete;

  // kPull came. ResourceExhausted: too many transfers are open.
  absl::StatusOr<PullVerdict> Pull(const HandoffTicket& ticket, absl::Time now);
  // Holds `block` for the attempt, as its `index`-th, which it may have once only. The caller's
  // reference is taken over in any case: it is let go of at once with FailedPrecondition, when the
  // attempt is not open or finished, and with ResourceExhausted, when too many blocks are held.
  absl::Status Grant(const HandoffTicket& ticket, int index, HandoffBlock block);
  // Nothing more will be granted; the attempt ends when the last block is taken.
  void Finish(const HandoffTicket& ticket);
  // kTaken came, or the block was copied out.
  TakenVerdict Taken(const HandoffTicket& ticket, int index, absl::Time now);
  // kRelease came, or the call that brought the attempt's kPull ended. Lets go of what this attempt
  // and earlier ones hold.
  void Release(const HandoffTicket& ticket);
  // Ends the attempts whose leases are over; how many they were.
  int Expire(absl::Time now);

  // Whether the attempt is open, and whether its `index`-th block is held.
  bool open(const HandoffTicket& ticket) const;
  bool holds(const HandoffTicket& ticket, int index) const;
  int64_t blocks_held() const { return blocks_held_; }
  // How many more Grant would take.
  int64_t blocks_free() const { return options_.blocks_held_max - blocks_held_; }
  int transfers() const { return static_cast<int>(open_.size()); }
  const HandoffSenderCounters& counters() const { return counters_; }

 private:
  struct Attempt {
    uint64_t epoch = 0;
    absl::Time lease_end;
    bool finished = false;
    std::map<int, HandoffBlock> held;  // by index
  };
  using OpenMap = std::map<TransferId, Attempt>;

  OpenMap::iterator FindOpen(const HandoffTicket& ticket);
  bool HasEnded(const HandoffTicket& ticket) const;
  void LetGo(Attempt& attempt);
  void Close(OpenMap::iterator open);
  void RememberEnd(const HandoffTicket& ticket);

  const HandoffSenderOptions options_;
  const std::function<void(HandoffBlock)> release_;
  OpenMap open_;  // ordered, so that what is let go of first does not depend on hashing
  absl::flat_hash_map<TransferId, uint64_t> ended_;  // highest epoch that is over
  std::deque<HandoffTicket> ended_order_;            // oldest first; some are superseded
  int64_t blocks_held_ = 0;
  HandoffSenderCounters counters_;
};

}  // namespace chorale
