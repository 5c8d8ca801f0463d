#include <algorithm>
#include <utility>

#include "base/hash.h"
#include "tests/cache/handoff_chains.h"
#include "tests/cache/handoff_world.h"

namespace chorale {

void HandoffWorld::StartReceiver(int r) {
  Receiver& receiver = receivers_[r];
  receiver.demands.clear();
  receiver.copies.clear();
  receiver.refs.fill(0);
  receiver.memory.fill({});
  receiver.pool.emplace(kBlocks);
  if (bug_ != HandoffBug::kSameIncarnation || receiver.incarnation == 0) {
    receiver.incarnation = Random(uint64_t{1} << 32) << 1 | 1;
  }
  receiver.handoff = std::make_unique<HandoffReceiver>(receiver.incarnation);
}

void HandoffWorld::OpenTransfer(int r) {
  Receiver& receiver = receivers_[r];
  const int chain = static_cast<int>(Random(HandoffChains::kChains));
  const int count = 1 + static_cast<int>(Random(HandoffChains::kLength));
  auto blocks = receiver.pool->Allocate(count);
  if (!blocks.ok()) return;
  for (BlockId block : *blocks) {
    ++receiver.refs[block];
    receiver.memory[block].fill(std::byte{0xee});
  }
  const auto& keys = TheHandoffChains().keys[chain];
  const absl::Time deadline = Chance(50)
                                  ? absl::InfiniteFuture()
                                  : now_ + absl::Seconds(5 + static_cast<int64_t>(Random(20)));
  Note("transfer opens", r, chain, count);
  const HandoffTicket ticket =
      receiver.handoff->Open({keys.begin(), keys.begin() + count}, deadline);
  receiver.demands.push_back({.transfer = transfers_++,
                              .attempt = 0,
                              .chain = chain,
                              .blocks_wanted = count,
                              .ticket = ticket,
                              .blocks = *std::move(blocks),
                              .deadline = deadline,
                              .heard = now_});
  SendPull(r, receiver.demands.back(),
           static_cast<int>(Random(static_cast<uint64_t>(senders_count_))));
}

// Begins the attempt that `demand.ticket` names.
void HandoffWorld::SendPull(int r, Demand& demand, int sender) {
  const int first = receivers_[r].handoff->leading(demand.ticket.transfer);
  demand.attempt = static_cast<int>(attempts_.size());
  demand.heard = now_;
  attempts_.push_back({.ticket = demand.ticket, .transfer = demand.transfer, .sender = sender});
  network_.push_back({.kind = Kind::kPull,
                      .sender = sender,
                      .receiver = r,
                      .attempt = demand.attempt,
                      .ticket = demand.ticket,
                      .index = first,
                      .chain = demand.chain,
                      .count = demand.blocks_wanted - first});
}

void HandoffWorld::SendToSender(Kind kind, int r, int attempt, const HandoffTicket& ticket,
                                int index) {
  network_.push_back({.kind = kind,
                      .sender = attempts_[attempt].sender,
                      .receiver = r,
                      .attempt = attempt,
                      .ticket = ticket,
                      .index = index});
}

void HandoffWorld::RestartTransfer(int r, Demand& demand) {
  Note("attempt begins again", r, demand.attempt, 0);
  if (bug_ != HandoffBug::kRetryKeepsEpoch) {
    SendToSender(Kind::kRelease, r, demand.attempt, demand.ticket, 0);
    const auto ticket = receivers_[r].handoff->Restart(demand.ticket);
    if (!ticket.ok()) return Fail(std::string(ticket.status().message()));
    demand.ticket = *ticket;
  }
  SendPull(r, demand, static_cast<int>(Random(static_cast<uint64_t>(senders_count_))));
}

HandoffWorld::Demand* HandoffWorld::FindDemand(int r, const TransferId& transfer) {
  for (Demand& demand : receivers_[r].demands) {
    if (demand.ticket.transfer == transfer) return &demand;
  }
  return nullptr;
}

HandoffTicket HandoffWorld::TicketOf(const Message& message, const Demand& demand) const {
  return bug_ == HandoffBug::kReceiverIgnoresEpochs ? demand.ticket : message.ticket;
}

void HandoffWorld::DeliverToReceiver(Message& message) {
  const int r = message.receiver;
  Receiver& receiver = receivers_[r];
  Demand* demand = FindDemand(r, message.ticket.transfer);
  if (message.kind == Kind::kGrant) {
    if (bug_ == HandoffBug::kIgnoresKey && demand != nullptr && message.index >= 0 &&
        message.index < demand->blocks_wanted) {
      message.key = receiver.handoff->keys(demand->ticket.transfer)[message.index];
    }
    return DeliverGrant(message);
  }
  const HandoffTicket ticket = demand == nullptr ? message.ticket : TicketOf(message, *demand);
  const HandoffVerdict verdict = receiver.handoff->End(ticket, message.count);
  if (verdict != HandoffVerdict::kTaken) return;
  if (demand == nullptr) return Fail("a transfer that is over is told its end");
  if (message.attempt != demand->attempt) Fail("an attempt is ended by another's End");
  demand->heard = now_;
  if (bug_ == HandoffBug::kEndMeansAll) {
    const HandoffChains& chains = TheHandoffChains();
    for (int i = 0; i < demand->blocks_wanted; ++i) {
      if (receiver.memory[demand->blocks[i]] != chains.bytes[demand->chain][i]) {
        Fail("wrong bytes: a block is used that has not come");
      }
    }
  }
  CloseIfOver(r, static_cast<size_t>(demand - receiver.demands.data()));
}

void HandoffWorld::DeliverGrant(const Message& grant) {
  const int r = grant.receiver;
  Receiver& receiver = receivers_[r];
  Demand* demand = FindDemand(r, grant.ticket.transfer);
  const HandoffTicket ticket = demand == nullptr ? grant.ticket : TicketOf(grant, *demand);
  const HandoffVerdict verdict = receiver.handoff->Check(ticket, grant.index, grant.key);
  if (verdict == HandoffVerdict::kRepeated) {
    SendToSender(Kind::kTaken, r, grant.attempt, grant.ticket, grant.index);
  }
  const bool writes =
      verdict == HandoffVerdict::kWanted ||
      (bug_ == HandoffBug::kWritesBeforeCheck && verdict == HandoffVerdict::kRepeated);
  if (!writes) return;
  if (demand == nullptr) return Fail("a block of a transfer that is over is wanted");
  const BlockId target = demand->blocks[grant.index];
  const Bytes& source = grant.has_bytes ? grant.bytes : senders_[grant.sender].memory[grant.block];
  if (grant.has_bytes) {
    receiver.memory[target] = source;
    if (verdict == HandoffVerdict::kWanted) AcceptGrant(grant, *demand, target);
    return;
  }
  if (bug_ == HandoffBug::kChecksSendersMemory) {
    if (receiver.handoff->Accept(ticket, grant.index, grant.key, grant.checksum, source) !=
        HandoffVerdict::kTaken) {
      return;
    }
  }
  std::copy_n(source.begin(), source.size() / 2, receiver.memory[target].begin());
  receiver.copies.push_back({grant, target});
}

void HandoffWorld::FinishCopy(int r, size_t number) {
  Receiver& receiver = receivers_[r];
  const Copy copy = receiver.copies[number];
  receiver.copies.erase(receiver.copies.begin() + static_cast<std::ptrdiff_t>(number));
  const Message& grant = copy.grant;
  Note("copy ends", r, grant.attempt, grant.index);
  Demand* demand = FindDemand(r, grant.ticket.transfer);
  const HandoffTicket ticket = demand == nullptr ? grant.ticket : TicketOf(grant, *demand);
  const bool wanted =
      receiver.handoff->Check(ticket, grant.index, grant.key) == HandoffVerdict::kWanted;
  const bool early = bug_ == HandoffBug::kChecksSendersMemory && demand != nullptr &&
                     demand->ticket == grant.ticket;
  if (!wanted && !early && bug_ != HandoffBug::kWritesAfterCancel) return;
  const Bytes& source = senders_[grant.sender].memory[grant.block];
  const auto half = static_cast<std::ptrdiff_t>(source.size() / 2);
  std::copy(source.begin() + half, source.end(), receiver.memory[copy.target].begin() + half);
  if (early) {
    SendToSender(Kind::kTaken, r, grant.attempt, grant.ticket, grant.index);
    CloseIfOver(r, static_cast<size_t>(demand - receiver.demands.data()));
  } else if (wanted) {
    AcceptGrant(grant, *demand, copy.target);
  }
}

void HandoffWorld::AcceptGrant(const Message& grant, Demand& demand, BlockId target) {
  Receiver& receiver = receivers_[grant.receiver];
  const Bytes& bytes = receiver.memory[target];
  const uint64_t checksum = bug_ == HandoffBug::kNoChecksum ? Checksum64(bytes) : grant.checksum;
  const HandoffVerdict verdict =
      receiver.handoff->Accept(TicketOf(grant, demand), grant.index, grant.key, checksum, bytes);
  if (verdict != HandoffVerdict::kTaken) return;
  ++blocks_taken_;
  demand.heard = now_;
  if (grant.attempt != demand.attempt) Fail("a block is taken for another attempt's grant");
  if (bytes != TheHandoffChains().bytes[demand.chain][grant.index]) {
    Fail("wrong bytes: a block is taken whose bytes are not its key's");
  }
  SendToSender(Kind::kTaken, grant.receiver, grant.attempt, grant.ticket, grant.index);
  CloseIfOver(grant.receiver, static_cast<size_t>(&demand - receiver.demands.data()));
}

// Publishes what has come when nothing more will, or asks another sender for the rest.
void HandoffWorld::CloseIfOver(int r, size_t number) {
  Receiver& receiver = receivers_[r];
  Demand& demand = receiver.demands[number];
  const TransferId transfer = demand.ticket.transfer;
  const HandoffState state = receiver.handoff->state(transfer);
  if (state == HandoffState::kOpen) return;
  if (state == HandoffState::kPartial && faults_ && Chance(50)) {
    return RestartTransfer(r, demand);
  }
  const HandoffChains& chains = TheHandoffChains();
  const int leading = receiver.handoff->leading(transfer);
  Note("transfer ends", r, demand.attempt, leading);
  for (int i = 0; i < leading; ++i) {
    if (receiver.memory[demand.blocks[i]] != chains.bytes[demand.chain][i]) {
      Fail("wrong bytes: a block is used whose bytes are not its key's");
    }
    receiver.pool->Publish(demand.blocks[i], chains.keys[demand.chain][i],
                           i == 0 ? BlockKey{} : chains.keys[demand.chain][i - 1], i,
                           chains.checksums[demand.chain][i]);
  }
  receiver.handoff->Close(transfer);
  GiveBack(r, number);
}

void HandoffWorld::Cancel(int r, size_t number) {
  Note("cancelled", r, receivers_[r].demands[number].attempt, 0);
  receivers_[r].handoff->Close(receivers_[r].demands[number].ticket.transfer);
  if (bug_ == HandoffBug::kKeepsBlocksAtCancel) receivers_[r].demands[number].blocks.clear();
  GiveBack(r, number);
}

void HandoffWorld::GiveBack(int r, size_t number) {
  Receiver& receiver = receivers_[r];
  const Demand demand = std::move(receiver.demands[number]);
  receiver.demands.erase(receiver.demands.begin() + static_cast<std::ptrdiff_t>(number));
  for (BlockId block : demand.blocks) Release(receiver, block);
  SendToSender(Kind::kRelease, r, demand.attempt, demand.ticket, 0);
}

void HandoffWorld::RunTimers(int r) {
  Receiver& receiver = receivers_[r];
  for (const HandoffTicket& ticket : receiver.handoff->Expire(now_)) {
    const Demand* demand = FindDemand(r, ticket.transfer);
    if (demand == nullptr || demand->ticket != ticket) return Fail("a transfer ends twice");
    if (demand->deadline > now_) Fail("a transfer ends before its deadline");
    Note("deadline is over", r, demand->attempt, 0);
    GiveBack(r, static_cast<size_t>(demand - receiver.demands.data()));
  }
  for (Demand& demand : receiver.demands) {
    if (demand.deadline <= now_) Fail("a transfer outlives its deadline");
    if (now_ - demand.heard >= absl::Seconds(4)) RestartTransfer(r, demand);
  }
}

}  // namespace chorale
