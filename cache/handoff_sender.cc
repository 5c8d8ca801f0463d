#include "cache/handoff_sender.h"

#include <utility>

#include "base/check.h"

namespace chorale {

HandoffSender::HandoffSender(const HandoffSenderOptions& options,
                             std::function<void(HandoffBlock)> release)
    : options_(options), release_(std::move(release)) {
  CHECK(options.lease > absl::ZeroDuration()) << absl::FormatDuration(options.lease);
  CHECK_GT(options.blocks_held_max, 0);
  CHECK_GT(options.transfers_max, 0);
  CHECK_GE(options.ended_max, 0);
}

HandoffSender::~HandoffSender() {
  for (auto& [id, attempt] : open_) LetGo(attempt);
}

absl::StatusOr<HandoffSender::PullVerdict> HandoffSender::Pull(const HandoffTicket& ticket,
                                                               absl::Time now) {
  auto open = open_.find(ticket.transfer);
  const bool passed = open != open_.end() && ticket.epoch < open->second.epoch;
  if (passed || HasEnded(ticket)) {
    ++counters_.messages_stale;
    return PullVerdict::kStale;
  }
  if (open != open_.end() && ticket.epoch == open->second.epoch) {
    open->second.lease_end = now + options_.lease;
    return PullVerdict::kRepeated;
  }
  if (open != open_.end()) {
    LetGo(open->second);
  } else if (transfers() >= options_.transfers_max) {
    ++counters_.refused;
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s: %d transfers are open, at most %d may be; ask another sender, or again "
        "later",
        ticket.ToString(), transfers(), options_.transfers_max));
  }
  open_[ticket.transfer] = Attempt{.epoch = ticket.epoch, .lease_end = now + options_.lease};
  ++counters_.attempts;
  return PullVerdict::kOpened;
}

absl::Status HandoffSender::Grant(const HandoffTicket& ticket, int index, HandoffBlock block) {
  CHECK_GE(index, 0);
  const auto open = FindOpen(ticket);
  if (open == open_.end() || open->second.finished) {
    release_(block);
    return absl::FailedPreconditionError(
        absl::StrFormat("%s: it is not open, so block %d cannot be granted; stop sending",
                        ticket.ToString(), index));
  }
  if (blocks_free() <= 0) {
    release_(block);
    ++counters_.refused;
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s: %d blocks are held for transfers, at most %d may be; end it before block %d",
        ticket.ToString(), blocks_held_, options_.blocks_held_max, index));
  }
  CHECK(open->second.held.emplace(index, block).second)
      << ticket.ToString() << ": block " << index << " is granted twice";
  ++blocks_held_;
  ++counters_.blocks_granted;
  return absl::OkStatus();
}

void HandoffSender::Finish(const HandoffTicket& ticket) {
  const auto open = FindOpen(ticket);
  if (open == open_.end()) return;
  open->second.finished = true;
  if (open->second.held.empty()) Close(open);
}

HandoffSender::TakenVerdict HandoffSender::Taken(const HandoffTicket& ticket, int index,
                                                 absl::Time now) {
  const auto open = FindOpen(ticket);
  if (open == open_.end()) {
    ++counters_.messages_stale;
    return TakenVerdict::kStale;
  }
  Attempt& attempt = open->second;
  attempt.lease_end = now + options_.lease;
  const auto held = attempt.held.find(index);
  if (held == attempt.held.end()) {
    ++counters_.messages_stale;
    return TakenVerdict::kStale;
  }
  const HandoffBlock block = held->second;
  attempt.held.erase(held);
  --blocks_held_;
  ++counters_.blocks_taken;
  release_(block);
  if (attempt.finished && attempt.held.empty()) Close(open);
  return TakenVerdict::kReleased;
}

void HandoffSender::Release(const HandoffTicket& ticket) {
  const auto open = open_.find(ticket.transfer);
  if (open != open_.end() && open->second.epoch <= ticket.epoch) {
    LetGo(open->second);
    open_.erase(open);
    RememberEnd(ticket);
    return;
  }
  ++counters_.messages_stale;
  // Its pull may still be on its way.
  if (open == open_.end() && !HasEnded(ticket)) RememberEnd(ticket);
}

int HandoffSender::Expire(absl::Time now) {
  int expired = 0;
  for (auto open = open_.begin(); open != open_.end();) {
    const auto next = std::next(open);
    if (open->second.lease_end <= now) {
      Close(open);
      ++expired;
    }
    open = next;
  }
  counters_.leases_expired += expired;
  return expired;
}

bool HandoffSender::open(const HandoffTicket& ticket) const {
  const auto open = open_.find(ticket.transfer);
  return open != open_.end() && open->second.epoch == ticket.epoch;
}

bool HandoffSender::holds(const HandoffTicket& ticket, int index) const {
  const auto open = open_.find(ticket.transfer);
  return open != open_.end() && open->second.epoch == ticket.epoch &&
         open->second.held.contains(index);
}

HandoffSender::OpenMap::iterator HandoffSender::FindOpen(const HandoffTicket& ticket) {
  const auto open = open_.find(ticket.transfer);
  return open == open_.end() || open->second.epoch == ticket.epoch ? open : open_.end();
}

bool HandoffSender::HasEnded(const HandoffTicket& ticket) const {
  const auto ended = ended_.find(ticket.transfer);
  return ended != ended_.end() && ticket.epoch <= ended->second;
}

void HandoffSender::LetGo(Attempt& attempt) {
  const std::map<int, HandoffBlock> held = std::exchange(attempt.held, {});
  blocks_held_ -= static_cast<int64_t>(held.size());
  for (const auto& [index, block] : held) release_(block);
}

void HandoffSender::Close(OpenMap::iterator open) {
  LetGo(open->second);
  const HandoffTicket ticket{.transfer = open->first, .epoch = open->second.epoch};
  open_.erase(open);
  RememberEnd(ticket);
}

void HandoffSender::RememberEnd(const HandoffTicket& ticket) {
  ended_[ticket.transfer] = ticket.epoch;
  ended_order_.push_back(ticket);
  while (ended_order_.size() > static_cast<size_t>(options_.ended_max)) {
    const HandoffTicket& oldest = ended_order_.front();
    const auto ended = ended_.find(oldest.transfer);
    if (ended != ended_.end() && ended->second == oldest.epoch) ended_.erase(ended);
    ended_order_.pop_front();
  }
}

}  // namespace chorale
