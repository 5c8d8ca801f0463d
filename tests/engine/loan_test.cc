// Blocks that others read: loans, their leases, and blocks whose bytes have changed.
#include <cstring>

#include "base/hash.h"
#include "tests/engine/engine_fixture.h"

namespace chorale {
namespace {

constexpr absl::Duration kLease = absl::Seconds(5);

class Loans : public EngineFixture {
 protected:
  Loans() : memory_(kBlocks * model_->kv_shape().block_bytes()) {
    engine_ = MakeEngine(
        {.blocks = kBlocks, .lease = kLease, .memory = std::span(memory_.data(), memory_.bytes())});
    outcome_ = RunOne(*engine_, Greedy(1, Prompt(50), 20));
    keys_ = MakeBlockKeys(std::span<const TokenId>(prompt_).first(48), model_->digest(), {});
  }

  // Lends the leading blocks of `keys`; how many there are.
  int Lend(RequestId loan, std::span<const BlockKey> keys) {
    int count = 0;
    for (const BlockKey& key : keys) {
      const auto place = engine_->Lend(loan, key);
      EXPECT_TRUE(place.ok()) << place.status();
      if (!*place) break;
      EXPECT_EQ(**place, count);
      ++count;
    }
    return count;
  }

  // Steps once; what was told.
  std::vector<EngineEvent> Events() {
    std::vector<EngineEvent> events;
    engine_->Step(now_, events);
    return events;
  }

  static constexpr int kBlocks = 20;
  kernels::Buffer memory_;
  const std::vector<TokenId> prompt_ = Prompt(50);
  std::unique_ptr<Engine> engine_;
  Outcome outcome_;
  std::vector<BlockKey> keys_;
};

TEST_F(Loans, HoldBlocksUntilTheyAreReturned) {
  EXPECT_EQ(Lend(100, keys_), 3);
  EXPECT_EQ(engine_->stats().blocks_on_loan, 3);
  EXPECT_EQ(engine_->stats().blocks_held, 3);
  const std::optional<Engine::BlockView> block = engine_->ReadLent(100, 1);
  ASSERT_TRUE(block);
  EXPECT_EQ(block->key, keys_[1]);
  EXPECT_EQ(block->checksum, Checksum64(block->bytes));
  EXPECT_EQ(static_cast<const std::byte*>(memory_.data()) + block->offset, block->bytes.data());
  engine_->FinishLoan(100);
  for (int place : {1, 1, 0, 7, -1}) engine_->ReturnLent(100, place);
  EXPECT_FALSE(engine_->ReadLent(100, 1));
  EXPECT_TRUE(engine_->ReadLent(100, 2));
  EXPECT_EQ(engine_->stats().blocks_on_loan, 1);
  engine_->ReturnLent(100, 2);
  EXPECT_EQ(engine_->stats().loans, 0);
  const std::vector<EngineEvent> events = Events();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_FALSE(std::get<LoanEndedEvent>(events[0]).expired);
  ExpectAllBlocksFree(*engine_);
}

TEST_F(Loans, EndWithTheLeaseOfASilentReader) {
  EXPECT_EQ(Lend(100, keys_), 3);
  now_ += kLease / 2;
  Events();
  engine_->ReturnLent(100, 0);  // not silent
  now_ += kLease * 0.75;
  EXPECT_TRUE(Events().empty());
  now_ += kLease / 2;
  const std::vector<EngineEvent> events = Events();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_TRUE(std::get<LoanEndedEvent>(events[0]).expired);
  EXPECT_EQ(engine_->stats().leases_expired, 1);
  EXPECT_FALSE(engine_->ReadLent(100, 1));
  engine_->ReturnLent(100, 1);  // too late, and harmless
  engine_->EndLoan(100);
  ExpectAllBlocksFree(*engine_);
}

TEST_F(Loans, AreEmptyForUnknownKeysAndNeverTakeMoreThanHalfOfThePool) {
  EXPECT_EQ(Lend(100, std::vector<BlockKey>{BlockKey{}}), 0);
  for (int i = 0; i < kBlocks / 2; ++i) EXPECT_EQ(Lend(200 + i, std::span(keys_).first(1)), 1);
  EXPECT_EQ(engine_->Lend(100, keys_[1]).status().code(), absl::StatusCode::kResourceExhausted);
  for (int i = 0; i < kBlocks / 2; ++i) {
    engine_->EndLoan(200 + i);
    engine_->EndLoan(200 + i);
  }
  engine_->EndLoan(555);
  ExpectAllBlocksFree(*engine_);
}

TEST_F(Loans, ABlockFoundBadWhileItIsLentKeepsItsChecksum) {
  EXPECT_EQ(Lend(100, keys_), 3);
  const uint64_t checksum = engine_->ReadLent(100, 1)->checksum;
  memory_.data()[engine_->ReadLent(100, 1)->offset] ^= std::byte{1};
  EXPECT_EQ(engine_->VerifyBlocks(0, kBlocks).bad, 1);
  EXPECT_EQ(engine_->ReadLent(100, 1)->checksum, checksum) << "its reader finds it too";
  engine_->EndLoan(100);
  ExpectAllBlocksFree(*engine_);
}

TEST_F(Loans, BytesThatArePinnedAreNotWrittenAgainWhenTheLeaseEnds) {
  EXPECT_EQ(Lend(100, keys_), 3);
  const int64_t offset = engine_->ReadLent(100, 1)->offset;
  const std::span<const std::byte> bytes = engine_->ReadLent(100, 1)->bytes;
  const uint64_t checksum = Checksum64(bytes);
  engine_->PinBytes(offset);
  now_ += 2 * kLease;
  EXPECT_TRUE(std::get<LoanEndedEvent>(Events().at(0)).expired);
  EXPECT_EQ(engine_->stats().blocks_held, 1);
  for (int id = 2; id < 8; ++id) RunOne(*engine_, Greedy(id, Prompt(200, id), 20));
  EXPECT_EQ(Checksum64(bytes), checksum);
  engine_->UnpinBytes(offset);
  ExpectAllBlocksFree(*engine_);
}

TEST_F(Loans, OfAPrefillRequestThatHasEndedAreRefused) {
  EXPECT_EQ(engine_->LendWritten(100, 77, 0).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(Loans, OutliveThePrefillRequestThatWroteTheBlocksAndItsIdleTimes) {
  ASSERT_TRUE(engine_->Submit(PrefillRequest{.id = 2, .model = "m", .tokens = Prompt(40, 3)}).ok());
  std::vector<EngineEvent> events;
  while (engine_->Step(now_, events)) {
  }
  EXPECT_EQ(*engine_->LendWritten(100, 2, 0), 0);
  engine_->ReturnLent(100, 0);
  now_ += 2 * kLease;  // nothing is lent meanwhile: the next blocks are computed
  EXPECT_TRUE(Events().empty());
  EXPECT_EQ(*engine_->LendWritten(100, 2, 2), 1) << "the open block";
  const BlockKey key = engine_->ReadBlock(2, 2).key;
  engine_->ReleasePrefill(2);
  EXPECT_EQ(engine_->ReadLent(100, 1)->key, key);
  EXPECT_EQ(engine_->stats().blocks_held, 1);
  engine_->EndLoan(100);
  ExpectAllBlocksFree(*engine_);
}

TEST_F(Loans, ABlockWhoseBytesChangedIsComputedAgain) {
  const int64_t at = engine_->FindBlock(keys_[1])->offset;
  memory_.data()[at + 77] ^= std::byte{4};
  const Outcome again = RunOne(*engine_, Greedy(2, Prompt(50), 20));
  EXPECT_EQ(again.tokens, outcome_.tokens);
  EXPECT_EQ(again.usage.cached_tokens, 16) << "the block before it";
  EXPECT_EQ(engine_->stats().blocks_corrupt, 1);
  EXPECT_EQ(RunOne(*engine_, Greedy(3, Prompt(50), 20)).usage.cached_tokens, 48);
  ExpectAllBlocksFree(*engine_);
}

TEST_F(Loans, VerifyFindsBadBlocksAndEvictDropsByPrefix) {
  const size_t blocks = engine_->ListBlocks().size();
  const Engine::Verified verified = engine_->VerifyBlocks(0, kBlocks);
  EXPECT_EQ(static_cast<size_t>(verified.read), blocks);
  EXPECT_EQ(verified.bad, 0);
  memory_.data()[engine_->FindBlock(keys_[2])->offset] ^= std::byte{1};
  EXPECT_EQ(engine_->VerifyBlocks(0, 1 << 30).bad, 1);
  EXPECT_EQ(engine_->MatchPrefix(keys_), 2);
  EXPECT_EQ(engine_->EvictBlocks(keys_[0].ToHex()), 1);
  EXPECT_EQ(engine_->MatchPrefix(keys_), 0);
  EXPECT_EQ(engine_->EvictBlocks(""), static_cast<int>(blocks) - 2);
  ExpectAllBlocksFree(*engine_);
}

TEST_F(Loans, EventsAddUpToWhatIsThere) {
  engine_->RecordBlockEvents();
  RunOne(*engine_, Greedy(2, Prompt(200, 9), 4));  // some of the old must go
  std::map<BlockKey, int> present;
  for (const BlockEvent& event : engine_->TakeBlockEvents()) {
    present[event.key] += event.removed ? -1 : 1;
  }
  std::erase_if(present, [](const auto& entry) { return entry.second == 0; });
  EXPECT_EQ(present.size(), engine_->ListBlocks().size());
  for (const PublishedBlock& block : engine_->ListBlocks()) EXPECT_EQ(present[block.key], 1);
}

TEST_F(Loans, LayersAreToldWhileTheBatchRuns) {
  std::vector<LayersEvent> told;
  std::vector<std::byte> early;
  engine_->OnLayers([&](const LayersEvent& event) {
    told.push_back(event);
    const auto bytes = engine_->ReadLayers(event.id, event.first_block, event.layers);
    early.assign(bytes.begin(), bytes.end());
  });
  ASSERT_TRUE(engine_->Submit(PrefillRequest{.id = 2, .model = "m", .tokens = Prompt(40, 3)}).ok());
  std::vector<EngineEvent> events;
  while (engine_->Step(now_, events)) {
  }
  ASSERT_EQ(told.size(), 1u) << "two layers: the end of the batch tells of the second";
  EXPECT_EQ(told[0].blocks, 3);
  EXPECT_EQ(told[0].layers, 1);
  const Engine::BlockView whole = engine_->ReadBlock(2, 0);
  ASSERT_EQ(early.size(), whole.bytes.size() / 2);
  EXPECT_EQ(std::memcmp(early.data(), whole.bytes.data(), early.size()), 0);
  engine_->ReleasePrefill(2);
}

TEST_F(Loans, PublicBlocksAreSharedByTenantsAndPrivateOnesAreNot) {
  const auto ask = [this](RequestId id, const std::string& tenant, int public_tokens) {
    GenerateRequest request = Greedy(id, Prompt(50, 5), 4);
    request.scope = {.tenant_salt = tenant, .public_tokens = public_tokens};
    return RunOne(*engine_, std::move(request)).usage.cached_tokens;
  };
  EXPECT_EQ(ask(2, "a", 40), 0);
  EXPECT_EQ(ask(3, "b", 40), 32) << "two whole blocks are public";
  EXPECT_EQ(ask(4, "b", 40), 48);
  EXPECT_EQ(ask(5, "b", 0), 0) << "what is not marked is not looked for among what is";
}

}  // namespace
}  // namespace chorale
