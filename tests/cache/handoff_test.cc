#include "cache/handoff.h"

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/hash.h"
#include "cache/handoff_receiver.h"
#include "cache/handoff_sender.h"

namespace chorale {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using PullVerdict = HandoffSender::PullVerdict;
using TakenVerdict = HandoffSender::TakenVerdict;

const absl::Time kStart = absl::UnixEpoch();

HandoffTicket TicketOf(uint64_t number, uint64_t epoch) {
  return {.transfer = {.receiver = 7, .number = number}, .epoch = epoch};
}

class HandoffSenderTest : public testing::Test {
 protected:
  std::vector<HandoffBlock> released_;
  HandoffSender sender_{
      {.lease = absl::Seconds(10), .blocks_held_max = 3, .transfers_max = 2, .ended_max = 2},
      [this](HandoffBlock block) { released_.push_back(block); }};

  void Open(const HandoffTicket& ticket, std::vector<HandoffBlock> blocks) {
    ASSERT_EQ(*sender_.Pull(ticket, kStart), PullVerdict::kOpened);
    for (size_t i = 0; i < blocks.size(); ++i) {
      ASSERT_TRUE(sender_.Grant(ticket, static_cast<int>(i), blocks[i]).ok());
    }
  }
};

TEST_F(HandoffSenderTest, LetsGoOfABlockOnceWhenItIsTaken) {
  Open(TicketOf(1, 1), {40, 41});
  EXPECT_EQ(sender_.Taken(TicketOf(1, 1), 1, kStart), TakenVerdict::kReleased);
  EXPECT_EQ(sender_.Taken(TicketOf(1, 1), 1, kStart), TakenVerdict::kStale);
  EXPECT_EQ(sender_.Taken(TicketOf(1, 1), -5, kStart), TakenVerdict::kStale);
  EXPECT_THAT(released_, ElementsAre(41));
  EXPECT_EQ(sender_.blocks_held(), 1);
}

TEST_F(HandoffSenderTest, EndsWhenItIsFinishedAndTheLastBlockIsTaken) {
  Open(TicketOf(1, 1), {40});
  sender_.Finish(TicketOf(1, 1));
  EXPECT_EQ(sender_.transfers(), 1);
  sender_.Taken(TicketOf(1, 1), 0, kStart);
  EXPECT_EQ(sender_.transfers(), 0);
  EXPECT_EQ(*sender_.Pull(TicketOf(1, 1), kStart), PullVerdict::kStale);
}

TEST_F(HandoffSenderTest, AHigherEpochLetsGoOfTheLowerOnes) {
  Open(TicketOf(1, 1), {40, 41});
  Open(TicketOf(1, 2), {42});
  EXPECT_THAT(released_, ElementsAre(40, 41));
  EXPECT_EQ(*sender_.Pull(TicketOf(1, 1), kStart), PullVerdict::kStale);
  EXPECT_EQ(*sender_.Pull(TicketOf(1, 2), kStart), PullVerdict::kRepeated);
  EXPECT_EQ(sender_.Taken(TicketOf(1, 1), 0, kStart), TakenVerdict::kStale);
  sender_.Release(TicketOf(1, 1));
  EXPECT_EQ(sender_.blocks_held(), 1);
}

TEST_F(HandoffSenderTest, APullAfterItsReleaseOpensNothing) {
  sender_.Release(TicketOf(1, 1));
  EXPECT_EQ(*sender_.Pull(TicketOf(1, 1), kStart), PullVerdict::kStale);
  EXPECT_EQ(*sender_.Pull(TicketOf(1, 2), kStart), PullVerdict::kOpened);
}

TEST_F(HandoffSenderTest, AReleaseOfALaterAttemptThanIsOpenEndsBoth) {
  Open(TicketOf(1, 1), {40});
  sender_.Release(TicketOf(1, 2));
  EXPECT_THAT(released_, ElementsAre(40));
  EXPECT_EQ(*sender_.Pull(TicketOf(1, 2), kStart), PullVerdict::kStale);
}

TEST_F(HandoffSenderTest, ForgetsTheOldestEndsFirst) {
  for (uint64_t number : {1, 2, 3}) sender_.Release(TicketOf(number, 1));
  EXPECT_EQ(*sender_.Pull(TicketOf(3, 1), kStart), PullVerdict::kStale);
  EXPECT_EQ(*sender_.Pull(TicketOf(2, 1), kStart), PullVerdict::kStale);
  EXPECT_EQ(*sender_.Pull(TicketOf(1, 1), kStart), PullVerdict::kOpened);
}

TEST_F(HandoffSenderTest, ALeaseEndsSomeTimeAfterTheLastMessage) {
  Open(TicketOf(1, 1), {40, 41});
  sender_.Taken(TicketOf(1, 1), 0, kStart + absl::Seconds(6));
  EXPECT_EQ(sender_.Expire(kStart + absl::Seconds(15)), 0);
  EXPECT_EQ(sender_.Expire(kStart + absl::Seconds(16)), 1);
  EXPECT_THAT(released_, ElementsAre(40, 41));
  EXPECT_EQ(sender_.counters().leases_expired, 1);
  EXPECT_EQ(sender_.Taken(TicketOf(1, 1), 1, kStart), TakenVerdict::kStale);
}

TEST_F(HandoffSenderTest, RefusesWhatIsTooMuchAndKeepsNoReference) {
  Open(TicketOf(1, 1), {40, 41, 42});
  ASSERT_EQ(*sender_.Pull(TicketOf(2, 1), kStart), PullVerdict::kOpened);
  EXPECT_EQ(sender_.Grant(TicketOf(2, 1), 0, 43).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(released_, ElementsAre(43));
  EXPECT_EQ(sender_.Pull(TicketOf(3, 1), kStart).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(sender_.counters().refused, 2);
}

TEST_F(HandoffSenderTest, AGrantToAnEndedAttemptIsLetGoOf) {
  Open(TicketOf(1, 1), {});
  sender_.Release(TicketOf(1, 1));
  EXPECT_EQ(sender_.Grant(TicketOf(1, 1), 0, 40).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(released_, ElementsAre(40));
}

TEST(HandoffSender, LetsGoOfEverythingAtItsEnd) {
  std::vector<HandoffBlock> released;
  {
    HandoffSender sender({}, [&](HandoffBlock block) { released.push_back(block); });
    ASSERT_TRUE(sender.Pull(TicketOf(1, 1), kStart).ok());
    ASSERT_TRUE(sender.Grant(TicketOf(1, 1), 0, 40).ok());
    EXPECT_THAT(released, IsEmpty());
  }
  EXPECT_THAT(released, ElementsAre(40));
}

class HandoffReceiverTest : public testing::Test {
 protected:
  static BlockKey KeyOf(int n) {
    BlockKey key;
    key.bytes[0] = static_cast<uint8_t>(n);
    return key;
  }
  HandoffVerdict Accept(const HandoffTicket& ticket, int index) {
    return receiver_.Accept(ticket, index, KeyOf(index), Checksum64(bytes_), bytes_);
  }

  const std::array<std::byte, 4> bytes_{std::byte{1}, std::byte{2}};
  HandoffReceiver receiver_{7};
  HandoffTicket ticket_ =
      receiver_.Open({KeyOf(0), KeyOf(1), KeyOf(2)}, kStart + absl::Seconds(60));
};

TEST_F(HandoffReceiverTest, TakesBlocksInAnyOrderAndCountsLeadingOnes) {
  EXPECT_EQ(Accept(ticket_, 2), HandoffVerdict::kTaken);
  EXPECT_EQ(receiver_.leading(ticket_.transfer), 0);
  EXPECT_EQ(Accept(ticket_, 0), HandoffVerdict::kTaken);
  EXPECT_EQ(receiver_.leading(ticket_.transfer), 1);
  EXPECT_EQ(receiver_.state(ticket_.transfer), HandoffState::kOpen);
  EXPECT_EQ(Accept(ticket_, 1), HandoffVerdict::kTaken);
  EXPECT_EQ(receiver_.state(ticket_.transfer), HandoffState::kComplete);
}

TEST_F(HandoffReceiverTest, SaysWhyABlockIsNotTaken) {
  EXPECT_EQ(receiver_.Check(ticket_, 0, KeyOf(0)), HandoffVerdict::kWanted);
  EXPECT_EQ(Accept(ticket_, -1), HandoffVerdict::kUnwanted);
  EXPECT_EQ(Accept(ticket_, 3), HandoffVerdict::kUnwanted);
  EXPECT_EQ(receiver_.Check(ticket_, 0, KeyOf(1)), HandoffVerdict::kWrongKey);
  EXPECT_EQ(receiver_.Accept(ticket_, 0, KeyOf(0), Checksum64(bytes_) + 1, bytes_),
            HandoffVerdict::kBadChecksum);
  EXPECT_EQ(Accept(ticket_, 0), HandoffVerdict::kTaken);
  EXPECT_EQ(Accept(ticket_, 0), HandoffVerdict::kRepeated);
  EXPECT_EQ(receiver_.counters().blocks_rejected, 3);
  EXPECT_EQ(receiver_.counters().blocks_repeated, 1);
}

TEST_F(HandoffReceiverTest, IgnoresOtherIncarnationsTransfersAndEpochs) {
  HandoffTicket other = ticket_;
  ++other.transfer.receiver;
  EXPECT_EQ(Accept(other, 0), HandoffVerdict::kStale);
  receiver_.Close(other.transfer);
  other = ticket_;
  ++other.transfer.number;
  EXPECT_EQ(Accept(other, 0), HandoffVerdict::kStale);
  ASSERT_TRUE(receiver_.Restart(ticket_).ok());
  EXPECT_EQ(Accept(ticket_, 0), HandoffVerdict::kStale);
  EXPECT_EQ(receiver_.End(ticket_, 1), HandoffVerdict::kStale);
  EXPECT_EQ(receiver_.Restart(ticket_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(HandoffReceiverTest, ARestartKeepsWhatHasCome) {
  Accept(ticket_, 0);
  const HandoffTicket again = *receiver_.Restart(ticket_);
  EXPECT_EQ(again.epoch, 2u);
  EXPECT_EQ(receiver_.leading(again.transfer), 1);
  // Two were asked for, and one was there.
  EXPECT_EQ(receiver_.End(again, 3), HandoffVerdict::kUnwanted);
  EXPECT_EQ(receiver_.End(again, 1), HandoffVerdict::kTaken);
  EXPECT_EQ(receiver_.state(again.transfer), HandoffState::kOpen);
  EXPECT_EQ(Accept(again, 1), HandoffVerdict::kTaken);
  EXPECT_EQ(receiver_.state(again.transfer), HandoffState::kPartial);
}

TEST_F(HandoffReceiverTest, AnEndThatOvertakesItsGrantsWaitsForThem) {
  EXPECT_EQ(receiver_.End(ticket_, -1), HandoffVerdict::kUnwanted);
  EXPECT_EQ(receiver_.End(ticket_, 2), HandoffVerdict::kTaken);
  Accept(ticket_, 0);
  EXPECT_EQ(receiver_.state(ticket_.transfer), HandoffState::kOpen);
  Accept(ticket_, 1);
  EXPECT_EQ(receiver_.state(ticket_.transfer), HandoffState::kPartial);
}

TEST_F(HandoffReceiverTest, NothingIsWantedAfterCloseOrTheDeadline) {
  const HandoffTicket closed = receiver_.Open({KeyOf(0)}, absl::InfiniteFuture());
  receiver_.Close(closed.transfer);
  EXPECT_EQ(receiver_.Check(closed, 0, KeyOf(0)), HandoffVerdict::kStale);
  EXPECT_THAT(receiver_.Expire(kStart + absl::Seconds(59)), IsEmpty());
  EXPECT_THAT(receiver_.Expire(kStart + absl::Seconds(60)), ElementsAre(ticket_));
  EXPECT_EQ(Accept(ticket_, 0), HandoffVerdict::kStale);
  EXPECT_EQ(receiver_.transfers(), 0);
}

TEST_F(HandoffReceiverTest, NoTransferIsNamedTwice) {
  receiver_.Close(ticket_.transfer);
  EXPECT_NE(receiver_.Open({}, kStart).transfer, ticket_.transfer);
}

}  // namespace
}  // namespace chorale
