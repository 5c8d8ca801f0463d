// A small world in which the hand-off is tried out: senders and receivers with pools and bytes of
// their own, and a network and a clock that a seed drives (cache/handoff.h).
//
// Faults come first: messages are lost, doubled, mangled and overtaken, either side crashes, calls
// break, transfers are cancelled, leases run out, and senders evict blocks and write others in
// their place, also while they are being copied. Then the faults stop, and everything must come to
// an end. The world knows the truth, as which attempt a message was really sent for, and compares
// it after every event with what the code under test does. A Bug makes a side break one rule.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/random.h"
#include "cache/block_pool.h"
#include "cache/handoff_receiver.h"
#include "cache/handoff_sender.h"

namespace chorale {

enum class HandoffBug {
  kNone,
  // Of the sender.
  kSenderIgnoresEpochs,  // Taken and Release act on whatever attempt is open
  kTakenTwiceFreesTwice,
  kForgetsWhatEnded,  // a late Pull opens an attempt again
  kLeaksAtHigherEpoch,
  kGrantsWithoutReference,
  kNeverExpires,
  // Of the receiver.
  kReceiverIgnoresEpochs,
  kNoChecksum,
  kChecksSendersMemory,  // and copies afterwards
  kWritesBeforeCheck,
  kWritesAfterCancel,
  kKeepsBlocksAtCancel,
  kSameIncarnation,  // after a restart
  kIgnoresKey,
  kEndMeansAll,  // whatever number of granted blocks it names
  kRetryKeepsEpoch,
};

class HandoffWorld {
 public:
  HandoffWorld(uint64_t seed, HandoffBug bug, bool tracing);

  // Runs to the end, once. What rule was broken, or "".
  std::string Run();
  // A hash of all that happened, in its order.
  uint64_t trace_hash() const { return hash_; }
  // A line for each event, when tracing.
  const std::vector<std::string>& trace() const { return trace_; }
  int events() const { return events_; }
  int blocks_taken() const { return blocks_taken_; }

 private:
  static constexpr int kBlocks = 5;  // of a pool
  static constexpr int kSendersMax = 3;
  static constexpr int kReceivers = 2;
  using Bytes = std::array<std::byte, 32>;

  // A pool, its bytes, and how often each block is truly held.
  struct Node {
    std::optional<BlockPool> pool;
    std::array<Bytes, kBlocks> memory{};
    std::array<int, kBlocks> refs{};
  };
  struct Hold {
    BlockId block;
    int attempt;
    int index;
    bool live;
  };
  struct Sender : Node {
    std::vector<Hold> holds;  // the HandoffBlock is an index into it
    std::unique_ptr<HandoffSender> handoff;
  };
  // The truth about an attempt; a higher number was begun later.
  struct Attempt {
    HandoffTicket ticket;
    int transfer;
    int sender;
    bool released = false;  // the sender, in its present life, was told that it is over
    absl::Time heard;       // by the sender
  };
  // What a receiver wants.
  struct Demand {
    int transfer, attempt, chain, blocks_wanted;
    HandoffTicket ticket;
    std::vector<BlockId> blocks;
    absl::Time deadline, heard;
  };
  struct Copy;
  struct Receiver : Node {
    std::unique_ptr<HandoffReceiver> handoff;
    uint64_t incarnation = 0;
    std::vector<Demand> demands;
    std::vector<Copy> copies;
  };
  enum class Kind : uint8_t { kPull, kTaken, kRelease, kGrant, kEnd };
  struct Message {
    Kind kind;
    int sender, receiver, attempt;
    HandoffTicket ticket;
    int index = 0;  // kPull: of the first block
    int chain = 0;  // kPull
    int count = 0;  // kPull: of blocks; kEnd: granted
    BlockKey key;
    uint64_t checksum = 0;
    BlockId block = 0;       // where it lies at the sender
    bool has_bytes = false;  // they travel with the message
    Bytes bytes{};
  };
  // A block of which half is copied.
  struct Copy {
    Message grant;
    BlockId target;
  };
  enum class Cause { kNone, kPull, kTaken, kRelease, kExpire };

  // handoff_world.cc: the course of things.
  uint64_t Random(uint64_t below);
  bool Chance(int percent) { return Random(100) < static_cast<uint64_t>(percent); }
  void Note(const char* event, int a, int b, int c);
  void Fail(const std::string& rule);
  void StepWithFaults();
  void DeliverOne();
  void Deliver(Message message);
  void Mangle(Message& message);
  void Tick(absl::Duration step, bool all);
  void RunWithoutFaults();
  void CheckAll();
  void CheckNode(const Node& node);
  void CheckSender(const Sender& sender);

  // handoff_world_sender.cc
  void StartSender(int s);
  void LetGo(int s, HandoffBlock hold);
  void ComputeChain(Node& node, int chain, int blocks);
  void DeliverToSender(Message& message);
  void ServePull(const Message& pull);
  void GrantBlocks(const Message& pull);
  void SenderReleases(int s, int attempt, HandoffTicket ticket);
  void ExpireLeases(int s);

  // handoff_world_receiver.cc
  void StartReceiver(int r);
  void OpenTransfer(int r);
  void SendPull(int r, Demand& demand, int sender);
  void SendToSender(Kind kind, int r, int attempt, const HandoffTicket& ticket, int index);
  void RestartTransfer(int r, Demand& demand);
  void DeliverToReceiver(Message& message);
  void DeliverGrant(const Message& grant);
  void FinishCopy(int r, size_t copy);
  void AcceptGrant(const Message& grant, Demand& demand, BlockId target);
  void CloseIfOver(int r, size_t demand);
  void Cancel(int r, size_t demand);
  void GiveBack(int r, size_t demand);
  void RunTimers(int r);
  Demand* FindDemand(int r, const TransferId& transfer);
  HandoffTicket TicketOf(const Message& message, const Demand& demand) const;

  void Release(Node& node, BlockId block);

  const HandoffBug bug_;
  const bool tracing_;
  uint64_t random_;
  uint64_t hash_ = 0;
  std::vector<std::string> trace_;
  std::string violation_;
  int events_ = 0;
  int blocks_taken_ = 0;
  bool faults_ = true;
  absl::Time now_ = absl::UnixEpoch();
  int senders_count_;
  std::array<Sender, kSendersMax> senders_;
  std::array<Receiver, kReceivers> receivers_;
  std::vector<Attempt> attempts_;
  int transfers_ = 0;
  std::vector<Message> network_;
  Cause cause_ = Cause::kNone;  // why a sender lets go just now, and whose message made it
  int cause_attempt_ = 0;
  int cause_index_ = 0;
};

}  // namespace chorale
