// Hand-off: key/value blocks go from one owner to another over a network that may do anything.
//
//   receiver                                   sender
//   Open ------------- kPull keys -----------> Pull: opens an attempt
//   Check, copy, <---- kGrant index, key, ---- Grant: holds the block until
//   Accept                  checksum, where
//          ----------- kTaken index ---------> Taken: ... the receiver has it, or
//   End    <---------- kEnd count ------------ Finish
//   Close ------------ kRelease -------------> Release: ... wants no more, or Expire: ... is silent
//
// Each side owns its blocks and writes into nobody else's. A message may be lost, doubled, delayed,
// overtaken, or come after its attempt was cancelled or its process died. What makes that harmless:
//
//   - A transfer has an id that is never used again, each attempt at it a higher epoch. A sender
//     ignores epochs below the one it serves and lets go of the old one when a higher one comes; a
//     receiver ignores every epoch but its own.
//   - A sender remembers for a while which attempts have ended, so that a pull which arrives after
//     its release does not open it again; and when it does not remember, the lease ends it.
//   - A hold is let go of exactly once: by the first of taken, release, a higher epoch and the end
//     of the lease.
//   - A receiver takes a block when the copy that it made has the checksum that was sent with the
//     key it asked for. So a sender may lose its lease, or crash, in the midst of a copy.
//
// Where one call carries an attempt (proto/chorale/v1/blocks.proto), its begin is kPull, its end is
// kEnd or kRelease, and the epoch stays with the receiver. A transport that loses messages sends
// them all.
#pragma once

#include <compare>
#include <cstdint>
#include <string>

#include "absl/strings/str_format.h"

namespace chorale {

// Names a transfer. `receiver` is drawn at random whenever the receiver's process starts.
struct TransferId {
  uint64_t receiver = 0;
  uint64_t number = 0;

  auto operator<=>(const TransferId&) const = default;

  template <typename H>
  friend H AbslHashValue(H h, const TransferId& id) {
    return H::combine(std::move(h), id.receiver, id.number);
  }
};

// Names an attempt at a transfer. Epochs count from 1.
struct HandoffTicket {
  TransferId transfer;
  uint64_t epoch = 0;

  auto operator<=>(const HandoffTicket&) const = default;
  std::string ToString() const {
    return absl::StrFormat("transfer %016x-%d attempt %d", transfer.receiver, transfer.number,
                           epoch);
  }
};

}  // namespace chorale
