// The hand-off under every fault, a million times, and with rules broken on purpose. A run that
// fails is told by its seed; CHORALE_SEED=<seed> runs that one alone and prints its trace.

#include <bit>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/cache/handoff_world.h"

namespace chorale {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(NDEBUG)
constexpr int kInterleavings = 50'000;  // slow builds look for other bugs
#else
constexpr int kInterleavings = 1'000'000;
#endif

// A set of hashes, open-addressed; half full when all that are expected have come.
class HashSet {
 public:
  explicit HashSet(size_t expected) : slots_(std::bit_ceil(2 * expected)) {}
  // False: it was there.
  bool Insert(uint64_t hash) {
    hash |= hash == 0;
    size_t place = hash & (slots_.size() - 1);
    for (; slots_[place] != 0; place = (place + 1) & (slots_.size() - 1)) {
      if (slots_[place] == hash) return false;
    }
    slots_[place] = hash;
    return true;
  }

 private:
  std::vector<uint64_t> slots_;
};

std::string TraceOf(uint64_t seed, HandoffBug bug) {
  HandoffWorld world(seed, bug, /*tracing=*/true);
  const std::string violation = world.Run();
  std::string trace = "CHORALE_SEED=" + std::to_string(seed) + "\n";
  for (const std::string& line : world.trace()) trace += line + "\n";
  return trace + (violation.empty() ? "nothing is wrong" : violation) + "\n";
}

TEST(HandoffModel, NoInterleavingLeaksFreesTwiceReadsWrongBytesOrStandsStill) {
  if (const char* seed = std::getenv("CHORALE_SEED")) {
    const uint64_t number = std::strtoull(seed, nullptr, 10);
    std::cout << TraceOf(number, HandoffBug::kNone);
    EXPECT_EQ(HandoffWorld(number, HandoffBug::kNone, false).Run(), "");
    return;
  }
  HashSet traces(kInterleavings);
  int distinct = 0;
  int64_t events = 0, blocks_taken = 0;
  uint64_t seed = 0;
  while (distinct < kInterleavings) {
    HandoffWorld world(++seed, HandoffBug::kNone, /*tracing=*/false);
    const std::string violation = world.Run();
    ASSERT_EQ(violation, "") << TraceOf(seed, HandoffBug::kNone);
    distinct += traces.Insert(world.trace_hash());
    events += world.events();
    blocks_taken += world.blocks_taken();
    ASSERT_LT(seed, 2u * kInterleavings) << "too few interleavings differ: " << distinct;
  }
  std::cout << distinct << " distinct interleavings, seeds 1 to " << seed << ", " << events
            << " events, " << blocks_taken << " blocks taken\n";
}

struct SeededBug {
  HandoffBug bug;
  const char* name;
};
constexpr SeededBug kSeededBugs[] = {
    {HandoffBug::kSenderIgnoresEpochs, "the sender ignores epochs"},
    {HandoffBug::kTakenTwiceFreesTwice, "a doubled Taken frees twice"},
    {HandoffBug::kForgetsWhatEnded, "a late Pull opens a released attempt"},
    {HandoffBug::kLeaksAtHigherEpoch, "a higher epoch leaves the lower one's holds"},
    {HandoffBug::kGrantsWithoutReference, "a grant without a reference"},
    {HandoffBug::kNeverExpires, "leases never expire"},
    {HandoffBug::kReceiverIgnoresEpochs, "the receiver ignores epochs"},
    {HandoffBug::kNoChecksum, "the checksum is not verified"},
    {HandoffBug::kChecksSendersMemory, "the sender's memory is verified, then copied"},
    {HandoffBug::kWritesBeforeCheck, "a taken block is written again"},
    {HandoffBug::kWritesAfterCancel, "a copy goes on after cancellation"},
    {HandoffBug::kKeepsBlocksAtCancel, "cancellation keeps the receiver's blocks"},
    {HandoffBug::kSameIncarnation, "a restarted receiver keeps its incarnation"},
    {HandoffBug::kIgnoresKey, "the key is not compared"},
    {HandoffBug::kEndMeansAll, "End is read as: all were granted"},
    {HandoffBug::kRetryKeepsEpoch, "a retry keeps the epoch"},
};

TEST(HandoffModel, EverySeededBugIsCaught) {
  for (const SeededBug& seeded : kSeededBugs) {
    std::string violation;
    uint64_t seed = 0;
    while (violation.empty() && seed < 200'000) {
      violation = HandoffWorld(++seed, seeded.bug, /*tracing=*/false).Run();
    }
    EXPECT_NE(violation, "") << seeded.name << " is not caught";
    std::cout << seeded.name << ": run " << seed << ", " << violation << "\n";
  }
}

TEST(HandoffModel, ASeedIsAlwaysTheSameRun) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    HandoffWorld once(seed, HandoffBug::kNone, false), again(seed, HandoffBug::kNone, true);
    EXPECT_EQ(once.Run(), again.Run());
    EXPECT_EQ(once.trace_hash(), again.trace_hash());
  }
}

}  // namespace
}  // namespace chorale
