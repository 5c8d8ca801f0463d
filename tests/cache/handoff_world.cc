#include "tests/cache/handoff_world.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "tests/cache/handoff_chains.h"

namespace chorale {

HandoffWorld::HandoffWorld(uint64_t seed, HandoffBug bug, bool tracing)
    : bug_(bug), tracing_(tracing), random_(MixBits(seed)) {
  senders_count_ = 2 + static_cast<int>(Random(2));
  for (int s = 0; s < senders_count_; ++s) StartSender(s);
  for (int r = 0; r < kReceivers; ++r) StartReceiver(r);
}

std::string HandoffWorld::Run() {
  OpenTransfer(0);
  const int steps = 12 + static_cast<int>(Random(28));
  for (int i = 0; i < steps && violation_.empty(); ++i) StepWithFaults();
  faults_ = false;
  if (violation_.empty()) RunWithoutFaults();
  return violation_;
}

uint64_t HandoffWorld::Random(uint64_t below) {
  random_ += 0x9e3779b97f4a7c15u;
  return (MixBits(random_) >> 32) * below >> 32;
}

void HandoffWorld::Note(const char* event, int a, int b, int c) {
  ++events_;
  hash_ = MixBits(hash_ ^ static_cast<uint64_t>(static_cast<unsigned char>(event[0])) ^
                  static_cast<uint64_t>(event[1]) << 8 ^ static_cast<uint64_t>(a) << 16 ^
                  static_cast<uint64_t>(b) << 32 ^ static_cast<uint64_t>(c) << 48);
  if (tracing_) {
    trace_.push_back(absl::StrFormat(
        "%3d s %-28s %3d %3d %3d", absl::ToInt64Seconds(now_ - absl::UnixEpoch()), event, a, b, c));
  }
}

void HandoffWorld::Fail(const std::string& rule) {
  if (violation_.empty()) violation_ = rule;
}

void HandoffWorld::StepWithFaults() {
  const uint64_t dice = Random(100);
  const int s = static_cast<int>(Random(static_cast<uint64_t>(senders_count_)));
  const int r = static_cast<int>(Random(kReceivers));
  Receiver& receiver = receivers_[r];
  if (dice < 46) {
    DeliverOne();
  } else if (dice < 60) {
    if (!receiver.copies.empty()) FinishCopy(r, Random(receiver.copies.size()));
  } else if (dice < 69) {
    OpenTransfer(r);
  } else if (dice < 78) {
    Tick(absl::Seconds(1 + static_cast<int64_t>(Random(6))), /*all=*/false);
  } else if (dice < 87) {
    Note("compute at sender", s, 0, 0);
    ComputeChain(senders_[s], static_cast<int>(Random(HandoffChains::kChains)),
                 1 + static_cast<int>(Random(HandoffChains::kLength)));
  } else if (dice < 92) {
    if (!receiver.demands.empty()) Cancel(r, Random(receiver.demands.size()));
  } else if (dice < 95) {
    const int attempt = static_cast<int>(Random(attempts_.size() + 1)) - 1;
    if (attempt < 0) return;
    Note("call breaks", attempt, attempts_[attempt].sender, 0);
    SenderReleases(attempts_[attempt].sender, attempt, attempts_[attempt].ticket);
  } else if (dice < 97) {
    Note("sender crashes", s, 0, 0);
    StartSender(s);
  } else if (dice < 99) {
    Note("receiver crashes", r, 0, 0);
    StartReceiver(r);
  } else {
    Note("compute at receiver", r, 0, 0);
    ComputeChain(receiver, static_cast<int>(Random(HandoffChains::kChains)), 1);
  }
  CheckAll();
}

void HandoffWorld::DeliverOne() {
  if (network_.empty()) return;
  const size_t place = Random(network_.size());
  Message message = network_[place];
  const uint64_t dice = Random(100);
  if (dice < 12) {
    Note("doubled", static_cast<int>(message.kind), message.attempt, message.index);
  } else {
    network_.erase(network_.begin() + static_cast<std::ptrdiff_t>(place));
  }
  if (dice >= 90) {
    Note("lost", static_cast<int>(message.kind), message.attempt, message.index);
    return;
  }
  if (dice >= 85) Mangle(message);
  Deliver(std::move(message));
}

void HandoffWorld::Deliver(Message message) {
  static constexpr const char* kNames[] = {"Pull arrives", "taken arrives", "Release arrives",
                                           "grant arrives", "end arrives"};
  Note(kNames[static_cast<int>(message.kind)], message.attempt, message.index, message.count);
  switch (message.kind) {
    case Kind::kPull:
    case Kind::kTaken:
    case Kind::kRelease:
      DeliverToSender(message);
      break;
    case Kind::kGrant:
    case Kind::kEnd:
      DeliverToReceiver(message);
      break;
  }
}

// What a receiver is told may be wrong in any way.
void HandoffWorld::Mangle(Message& message) {
  const uint64_t dice = Random(4);
  Note("mangled", static_cast<int>(message.kind), message.attempt, static_cast<int>(dice));
  if (message.kind == Kind::kEnd) {
    message.count += static_cast<int>(Random(6)) - 3;
  } else if (message.kind == Kind::kGrant) {
    if (dice == 0) message.index += static_cast<int>(Random(6)) - 3;
    if (dice == 1) message.key.bytes[1] ^= static_cast<uint8_t>(1 + Random(3));
    if (dice == 2) message.checksum ^= 1;
    if (dice == 3) message.bytes[Random(32)] ^= std::byte{4};
  }
}

// Time passes, and nodes look at their clocks: all, or those that are not busy.
void HandoffWorld::Tick(absl::Duration step, bool all) {
  now_ += step;
  Note("time passes", static_cast<int>(absl::ToInt64Seconds(step)), 0, 0);
  for (int s = 0; s < senders_count_; ++s) {
    if (all || Chance(60)) ExpireLeases(s);
  }
  for (int r = 0; r < kReceivers; ++r) {
    if (all || Chance(60)) RunTimers(r);
  }
}

void HandoffWorld::RunWithoutFaults() {
  const auto busy = [&] {
    return std::any_of(receivers_.begin(), receivers_.end(),
                       [](const Receiver& r) { return !r.demands.empty(); });
  };
  for (int round = 0; violation_.empty(); ++round) {
    while (!network_.empty() && violation_.empty()) {
      const size_t place = Random(network_.size());
      Message message = network_[place];
      network_.erase(network_.begin() + static_cast<std::ptrdiff_t>(place));
      Deliver(std::move(message));
      CheckAll();
    }
    for (int r = 0; r < kReceivers; ++r) {
      while (!receivers_[r].copies.empty() && violation_.empty()) {
        FinishCopy(r, 0);
        CheckAll();
      }
    }
    if (network_.empty() && !busy()) break;
    if (round == 40) return Fail("no progress: faults have stopped, and a transfer does not end");
    if (network_.empty()) Tick(absl::Seconds(4), /*all=*/true);
  }
  if (!violation_.empty()) return;
  Tick(absl::Seconds(11), /*all=*/true);
  CheckAll();
  for (int s = 0; s < senders_count_; ++s) {
    const Sender& sender = senders_[s];
    if (sender.handoff->transfers() != 0) Fail("leak: a transfer outlives its lease");
    if (sender.handoff->blocks_held() != 0) Fail("leak: a hold outlives its lease");
    if (sender.pool->blocks_held() != 0) Fail("leak: a sender's block is held for nobody");
  }
  for (const Receiver& receiver : receivers_) {
    if (receiver.handoff->transfers() != 0) Fail("leak: a receiver remembers a transfer");
    if (receiver.pool->blocks_held() != 0) Fail("leak: a receiver's block is held for nobody");
  }
}

// After every event.
void HandoffWorld::CheckAll() {
  for (int s = 0; s < senders_count_; ++s) CheckSender(senders_[s]);
  for (const Receiver& receiver : receivers_) CheckNode(receiver);
}

void HandoffWorld::CheckNode(const Node& node) {
  const HandoffChains& chains = TheHandoffChains();
  int held = 0;
  for (BlockId block = 0; block < kBlocks; ++block) {
    held += node.refs[block] > 0;
    if (!node.pool->published(block)) continue;
    const BlockKey& key = node.pool->key(block);
    if (node.memory[block] != chains.bytes[key.bytes[0] - 1][key.bytes[1] - 1]) {
      Fail("wrong bytes: a block can be found whose bytes are not its key's");
    }
  }
  const BlockPool& pool = *node.pool;
  if (pool.blocks_free() + pool.blocks_cached() + held != pool.blocks_total()) {
    Fail("leak: free, cached and truly held blocks are not the total");
  }
}

void HandoffWorld::CheckSender(const Sender& sender) {
  CheckNode(sender);
  const auto live = std::count_if(sender.holds.begin(), sender.holds.end(),
                                  [](const Hold& hold) { return hold.live; });
  if (live != sender.handoff->blocks_held()) {
    Fail("leak: the sender counts other holds than it has");
  }
}

void HandoffWorld::Release(Node& node, BlockId block) {
  if (node.refs[block] == 0) return Fail("double free: a block is released that is not held");
  --node.refs[block];
  node.pool->Release(block);
}

// Somebody computes a prompt: what is not cached takes the place of what is.
void HandoffWorld::ComputeChain(Node& node, int chain, int blocks) {
  const HandoffChains& chains = TheHandoffChains();
  const std::span<const BlockKey> keys(chains.keys[chain].data(), static_cast<size_t>(blocks));
  std::vector<BlockId> held = node.pool->AcquirePrefix(keys);
  const auto found = static_cast<int>(held.size());
  auto fresh = node.pool->Allocate(blocks - found);
  if (fresh.ok()) held.insert(held.end(), fresh->begin(), fresh->end());
  for (int i = 0; i < static_cast<int>(held.size()); ++i) {
    ++node.refs[held[i]];
    if (i < found) continue;
    node.memory[held[i]] = chains.bytes[chain][i];
    node.pool->Publish(held[i], keys[i], i == 0 ? BlockKey{} : keys[i - 1], i,
                       chains.checksums[chain][i]);
  }
  for (BlockId block : held) Release(node, block);
}

}  // namespace chorale
