#include "cache/handoff_receiver.h"

#include <utility>

#include "absl/status/status.h"
#include "base/check.h"
#include "base/hash.h"

namespace chorale {

HandoffTicket HandoffReceiver::Open(std::vector<BlockKey> keys, absl::Time deadline) {
  Transfer transfer{.deadline = deadline};
  transfer.taken.resize(keys.size());
  transfer.keys = std::move(keys);
  const HandoffTicket ticket{.transfer = {.receiver = incarnation_, .number = number_next_++},
                             .epoch = transfer.epoch};
  open_.emplace_hint(open_.end(), ticket.transfer.number, std::move(transfer));
  ++counters_.transfers;
  ++counters_.attempts;
  return ticket;
}

absl::StatusOr<HandoffTicket> HandoffReceiver::Restart(const HandoffTicket& ticket) {
  if (Find(ticket) == nullptr) {
    return absl::NotFoundError(
        absl::StrFormat("%s: it is not the current attempt of an open transfer; open a new one",
                        ticket.ToString()));
  }
  Transfer& transfer = open_.at(ticket.transfer.number);
  ++transfer.epoch;
  transfer.first = transfer.leading;
  transfer.granted = -1;
  ++counters_.attempts;
  return HandoffTicket{.transfer = ticket.transfer, .epoch = transfer.epoch};
}

HandoffVerdict HandoffReceiver::Check(const HandoffTicket& ticket, int index,
                                      const BlockKey& key) const {
  const Transfer* transfer = Find(ticket);
  if (transfer == nullptr) return HandoffVerdict::kStale;
  if (index < 0 || static_cast<size_t>(index) >= transfer->keys.size()) {
    return HandoffVerdict::kUnwanted;
  }
  if (transfer->keys[static_cast<size_t>(index)] != key) return HandoffVerdict::kWrongKey;
  if (transfer->taken[static_cast<size_t>(index)]) return HandoffVerdict::kRepeated;
  return HandoffVerdict::kWanted;
}

HandoffVerdict HandoffReceiver::Accept(const HandoffTicket& ticket, int index, const BlockKey& key,
                                       uint64_t checksum, std::span<const std::byte> bytes) {
  return Accept(ticket, index, key, checksum, Checksum64(bytes));
}

HandoffVerdict HandoffReceiver::Accept(const HandoffTicket& ticket, int index, const BlockKey& key,
                                       uint64_t checksum, uint64_t checksum_here) {
  const HandoffVerdict verdict = Check(ticket, index, key);
  if (verdict != HandoffVerdict::kWanted) return Counted(verdict);
  if (checksum_here != checksum) return Counted(HandoffVerdict::kBadChecksum);
  Transfer& transfer = open_.at(ticket.transfer.number);
  transfer.taken[static_cast<size_t>(index)] = true;
  while (static_cast<size_t>(transfer.leading) < transfer.keys.size() &&
         transfer.taken[static_cast<size_t>(transfer.leading)]) {
    ++transfer.leading;
  }
  return Counted(HandoffVerdict::kTaken);
}

HandoffVerdict HandoffReceiver::End(const HandoffTicket& ticket, int granted) {
  if (Find(ticket) == nullptr) return Counted(HandoffVerdict::kStale);
  Transfer& transfer = open_.at(ticket.transfer.number);
  if (granted < 0 || static_cast<size_t>(granted) > transfer.keys.size() - transfer.first) {
    return Counted(HandoffVerdict::kUnwanted);
  }
  transfer.granted = granted;
  return HandoffVerdict::kTaken;
}

void HandoffReceiver::Close(const TransferId& transfer) {
  if (transfer.receiver == incarnation_) open_.erase(transfer.number);
}

std::vector<HandoffTicket> HandoffReceiver::Expire(absl::Time now) {
  std::vector<HandoffTicket> expired;
  for (auto open = open_.begin(); open != open_.end();) {
    if (open->second.deadline > now) {
      ++open;
      continue;
    }
    expired.push_back({.transfer = {.receiver = incarnation_, .number = open->first},
                       .epoch = open->second.epoch});
    open = open_.erase(open);
  }
  counters_.transfers_expired += static_cast<int64_t>(expired.size());
  return expired;
}

HandoffState HandoffReceiver::state(const TransferId& id) const {
  const Transfer& transfer = Known(id);
  if (static_cast<size_t>(transfer.leading) == transfer.keys.size()) return HandoffState::kComplete;
  const bool all_in =
      transfer.granted >= 0 && transfer.leading >= transfer.first + transfer.granted;
  return all_in ? HandoffState::kPartial : HandoffState::kOpen;
}

const HandoffReceiver::Transfer* HandoffReceiver::Find(const HandoffTicket& ticket) const {
  if (ticket.transfer.receiver != incarnation_) return nullptr;
  const auto open = open_.find(ticket.transfer.number);
  return open == open_.end() || open->second.epoch != ticket.epoch ? nullptr : &open->second;
}

const HandoffReceiver::Transfer& HandoffReceiver::Known(const TransferId& transfer) const {
  CHECK_EQ(transfer.receiver, incarnation_);
  const auto open = open_.find(transfer.number);
  CHECK(open != open_.end()) << "transfer " << transfer.number << " is not open";
  return open->second;
}

HandoffVerdict HandoffReceiver::Counted(HandoffVerdict verdict) {
  switch (verdict) {
    case HandoffVerdict::kWanted:
      break;
    case HandoffVerdict::kTaken:
      ++counters_.blocks_taken;
      break;
    case HandoffVerdict::kStale:
      ++counters_.messages_stale;
      break;
    case HandoffVerdict::kRepeated:
      ++counters_.blocks_repeated;
      break;
    case HandoffVerdict::kUnwanted:
    case HandoffVerdict::kWrongKey:
    case HandoffVerdict::kBadChecksum:
      ++counters_.blocks_rejected;
      break;
  }
  return verdict;
}

}  // namespace chorale
