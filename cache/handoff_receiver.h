// HandoffReceiver: which blocks are awaited, and which have come (cache/handoff.h).
//
//   Open --> open --all came--> complete          Restart begins a new attempt at what is missing;
//             | ^                                  Close and Expire forget the transfer, in any
//             state,
//       End,  | | Restart                          and every later message of it is stale.
//   all sent  v |
//            partial
//
// It believes nothing: not the order, the index, the key, the checksum or the count it is told. The
// blocks that are filled are the caller's, before and after. Before each piece that the caller
// writes into one of them it calls Check, and writes only at kWanted: so a block that was taken is
// never written again, and one that was given back after a cancellation never is either.
// Time is handed in. Not thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache/block_key.h"
#include "cache/handoff.h"

namespace chorale {

enum class HandoffVerdict {
  kWanted,       // Check: write it
  kTaken,        // Accept: it is in; tell the sender
  kStale,        // of a transfer or an attempt that is over, or never was
  kUnwanted,     // an index that was not asked for
  kRepeated,     // it came already; tell the sender
  kWrongKey,     // another key than was asked for
  kBadChecksum,  // the copy is not what the sender's checksum was of
};

// Where a transfer stands.
enum class HandoffState {
  kOpen,      // more may come
  kPartial,   // the sender had no more, and what it had is in: Restart elsewhere, or Close
  kComplete,  // everything is in: Close
};

// They only grow.
struct HandoffReceiverCounters {
  int64_t transfers = 0;
  int64_t attempts = 0;
  int64_t blocks_taken = 0;
  int64_t blocks_repeated = 0;
  int64_t blocks_rejected = 0;  // unwanted, of a wrong key, or with a bad checksum
  int64_t messages_stale = 0;
  int64_t transfers_expired = 0;
};

class HandoffReceiver {
 public:
  // `incarnation` is drawn at random by the process at its start, and never used again.
  explicit HandoffReceiver(uint64_t incarnation) : incarnation_(incarnation) {}

  // Begins a transfer of the blocks of `keys`; send a kPull of all.
  HandoffTicket Open(std::vector<BlockKey> keys, absl::Time deadline);
  // Begins a new attempt, at the same sender or another, after silence or a partial one; send a
  // kPull of the keys from leading() on, and to the old sender a kRelease. Blocks that have come
  // stay. NotFound: `ticket` is not the transfer's current attempt.
  absl::StatusOr<HandoffTicket> Restart(const HandoffTicket& ticket);

  // What to do with a granted block, or the next piece of one: kWanted, or why not.
  HandoffVerdict Check(const HandoffTicket& ticket, int index, const BlockKey& key) const;
  // The block was written: `bytes` are the caller's own, which nobody else can change. kTaken, or
  // why not; then the bytes mean nothing, and at kRepeated those that came before are intact.
  HandoffVerdict Accept(const HandoffTicket& ticket, int index, const BlockKey& key,
                        uint64_t checksum, std::span<const std::byte> bytes);
  // The same for a caller that has the checksum of its bytes already.
  HandoffVerdict Accept(const HandoffTicket& ticket, int index, const BlockKey& key,
                        uint64_t checksum, uint64_t checksum_here);
  // kEnd came: in this attempt `granted` blocks were granted, from the first that was pulled on.
  // kTaken, or kStale or kUnwanted with nothing changed.
  HandoffVerdict End(const HandoffTicket& ticket, int granted);

  // Forgets the transfer, done, given up or unknown; send a kRelease.
  void Close(const TransferId& transfer);
  // Forgets the transfers whose deadline is over, and says which attempts: the caller gives back
  // their blocks and sends a kRelease each.
  std::vector<HandoffTicket> Expire(absl::Time now);

  // Whether messages of this attempt are awaited.
  bool current(const HandoffTicket& ticket) const { return Find(ticket) != nullptr; }
  // These CHECK that the transfer is open.
  HandoffState state(const TransferId& transfer) const;
  // How many leading blocks are in.
  int leading(const TransferId& transfer) const { return Known(transfer).leading; }
  std::span<const BlockKey> keys(const TransferId& transfer) const { return Known(transfer).keys; }

  int transfers() const { return static_cast<int>(open_.size()); }
  const HandoffReceiverCounters& counters() const { return counters_; }

 private:
  struct Transfer {
    uint64_t epoch = 1;
    absl::Time deadline;
    std::vector<BlockKey> keys;
    std::vector<bool> taken;
    int leading = 0;
    int first = 0;     // leading when the attempt began
    int granted = -1;  // from `first` on; -1: not told yet
  };
  const Transfer* Find(const HandoffTicket& ticket) const;
  const Transfer& Known(const TransferId& transfer) const;
  HandoffVerdict Counted(HandoffVerdict verdict);

  const uint64_t incarnation_;
  uint64_t number_next_ = 1;
  std::map<uint64_t, Transfer> open_;  // by number
  HandoffReceiverCounters counters_;
};

}  // namespace chorale
