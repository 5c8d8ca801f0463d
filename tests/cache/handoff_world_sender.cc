#include <utility>

#include "tests/cache/handoff_chains.h"
#include "tests/cache/handoff_world.h"

namespace chorale {

// A new process: what the old one knew is gone, and its memory with it.
void HandoffWorld::StartSender(int s) {
  Sender& sender = senders_[s];
  sender.handoff.reset();
  for (const Hold& hold : sender.holds) {
    if (hold.live) Fail("leak: a sender that ends keeps a hold");
  }
  for (int refs : sender.refs) {
    if (refs != 0) Fail("leak: a sender that ends keeps a block");
  }
  sender.holds.clear();
  for (Attempt& attempt : attempts_) {
    if (attempt.sender == s) attempt.released = false;
  }
  sender.pool.emplace(kBlocks);
  sender.memory.fill({});
  HandoffSenderOptions options{
      .lease = absl::Seconds(10), .blocks_held_max = 6, .transfers_max = 3, .ended_max = 64};
  if (bug_ == HandoffBug::kForgetsWhatEnded) options.ended_max = 0;
  sender.handoff =
      std::make_unique<HandoffSender>(options, [this, s](HandoffBlock hold) { LetGo(s, hold); });
  ComputeChain(sender, static_cast<int>(Random(HandoffChains::kChains)), HandoffChains::kLength);
}

// The release function of sender `s`: was it right to let go of this hold, just now?
void HandoffWorld::LetGo(int s, HandoffBlock number) {
  Sender& sender = senders_[s];
  Hold& hold = sender.holds[static_cast<size_t>(number)];
  if (bug_ == HandoffBug::kLeaksAtHigherEpoch && cause_ == Cause::kPull) return;
  if (!hold.live) return Fail("double free: a hold is let go of twice");
  hold.live = false;
  const Attempt& held = attempts_[hold.attempt];
  switch (cause_) {
    case Cause::kNone:
      break;
    case Cause::kTaken:
      if (hold.attempt != cause_attempt_ || hold.index != cause_index_) {
        Fail("a hold is let go of by a Taken that was not meant for it");
      }
      break;
    case Cause::kRelease:
    case Cause::kPull:
      if (held.transfer != attempts_[cause_attempt_].transfer || hold.attempt > cause_attempt_) {
        Fail("a hold is let go of by a message of a former attempt or of another transfer");
      }
      break;
    case Cause::kExpire:
      if (now_ - held.heard < absl::Seconds(10)) Fail("a lease ends before its time");
      break;
  }
  Release(sender, hold.block);
}

void HandoffWorld::DeliverToSender(Message& message) {
  Sender& sender = senders_[message.sender];
  Attempt& attempt = attempts_[message.attempt];
  if (message.kind == Kind::kPull) return ServePull(message);
  if (bug_ == HandoffBug::kSenderIgnoresEpochs) {
    for (const Hold& hold : sender.holds) {
      const HandoffTicket& open = attempts_[hold.attempt].ticket;
      if (hold.live && open.transfer == message.ticket.transfer) message.ticket = open;
    }
  }
  if (message.kind == Kind::kRelease) {
    return SenderReleases(message.sender, message.attempt, message.ticket);
  }
  cause_ = Cause::kTaken;
  cause_attempt_ = message.attempt;
  cause_index_ = message.index;
  const auto verdict = sender.handoff->Taken(message.ticket, message.index, now_);
  attempt.heard = now_;
  cause_ = Cause::kNone;
  if (verdict == HandoffSender::TakenVerdict::kReleased ||
      bug_ != HandoffBug::kTakenTwiceFreesTwice) {
    return;
  }
  for (size_t hold = 0; hold < sender.holds.size(); ++hold) {
    if (sender.holds[hold].attempt == message.attempt &&
        sender.holds[hold].index == message.index) {
      return LetGo(message.sender, static_cast<HandoffBlock>(hold));
    }
  }
}

void HandoffWorld::ServePull(const Message& pull) {
  Sender& sender = senders_[pull.sender];
  Attempt& attempt = attempts_[pull.attempt];
  cause_ = Cause::kPull;
  cause_attempt_ = pull.attempt;
  const auto verdict = sender.handoff->Pull(pull.ticket, now_);
  cause_ = Cause::kNone;
  if (!verdict.ok()) {
    Message end{.kind = Kind::kEnd,
                .sender = pull.sender,
                .receiver = pull.receiver,
                .attempt = pull.attempt,
                .ticket = pull.ticket};
    network_.push_back(end);
    return;
  }
  if (*verdict == HandoffSender::PullVerdict::kStale) return;
  attempt.heard = now_;
  if (*verdict == HandoffSender::PullVerdict::kRepeated) return;
  if (attempt.released) Fail("a Pull opens an attempt that was released");
  for (const Hold& hold : sender.holds) {
    if (hold.live && attempts_[hold.attempt].transfer == attempt.transfer) {
      Fail("leak: a new attempt opens while the former holds blocks");
    }
  }
  GrantBlocks(pull);
}

void HandoffWorld::GrantBlocks(const Message& pull) {
  Sender& sender = senders_[pull.sender];
  HandoffSender& handoff = *sender.handoff;
  const auto& keys = TheHandoffChains().keys[pull.chain];
  const std::vector<BlockId> blocks =
      sender.pool->AcquirePrefix({keys.data() + pull.index, static_cast<size_t>(pull.count)});
  for (BlockId block : blocks) ++sender.refs[block];
  const bool with_bytes = Chance(30);
  int granted = 0;
  for (int i = 0; i < static_cast<int>(blocks.size()); ++i) {
    const BlockId block = blocks[i];
    const int index = pull.index + i;
    if (bug_ == HandoffBug::kGrantsWithoutReference) Release(sender, block);
    Message grant{.kind = Kind::kGrant,
                  .sender = pull.sender,
                  .receiver = pull.receiver,
                  .attempt = pull.attempt,
                  .ticket = pull.ticket,
                  .index = index,
                  .key = sender.pool->key(block),
                  .checksum = sender.pool->checksum(block),
                  .block = block,
                  .has_bytes = with_bytes};
    sender.holds.push_back({block, pull.attempt, index, true});
    const auto hold = static_cast<HandoffBlock>(sender.holds.size()) - 1;
    if (!handoff.Grant(pull.ticket, index, hold).ok()) {
      // What was refused was let go of; the others follow.
      for (size_t rest = static_cast<size_t>(i) + 1; rest < blocks.size(); ++rest) {
        Release(sender, blocks[rest]);
      }
      break;
    }
    ++granted;
    if (with_bytes) {
      grant.bytes = sender.memory[block];
      cause_ = Cause::kTaken;
      cause_attempt_ = pull.attempt;
      cause_index_ = index;
      if (handoff.Taken(pull.ticket, index, now_) != HandoffSender::TakenVerdict::kReleased) {
        Fail("a block that was copied out is not let go of");
      }
      cause_ = Cause::kNone;
    }
    network_.push_back(grant);
  }
  handoff.Finish(pull.ticket);
  network_.push_back({.kind = Kind::kEnd,
                      .sender = pull.sender,
                      .receiver = pull.receiver,
                      .attempt = pull.attempt,
                      .ticket = pull.ticket,
                      .count = granted});
}

void HandoffWorld::SenderReleases(int s, int attempt, HandoffTicket ticket) {
  cause_ = Cause::kRelease;
  cause_attempt_ = attempt;
  senders_[s].handoff->Release(ticket);
  cause_ = Cause::kNone;
  attempts_[attempt].released = true;
}

void HandoffWorld::ExpireLeases(int s) {
  if (bug_ == HandoffBug::kNeverExpires) return;
  cause_ = Cause::kExpire;
  senders_[s].handoff->Expire(now_);
  cause_ = Cause::kNone;
  for (const Hold& hold : senders_[s].holds) {
    if (hold.live && now_ - attempts_[hold.attempt].heard >= absl::Seconds(10)) {
      Fail("leak: a lease outlives its time");
    }
  }
}

}  // namespace chorale
