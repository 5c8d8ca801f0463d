// Prefill on one engine, decode on another: blocks handed over by hand.
#include <algorithm>
#include <cstring>

#include "tests/engine/engine_fixture.h"

namespace chorale {
namespace {

class Handoff : public EngineFixture {
 protected:
  Handoff() : prefill_(MakeEngine({.chunk_tokens_max = 16})), decode_(MakeEngine({})) {}

  struct Block {
    BlockKey key;
    uint64_t checksum = 0;
    std::vector<std::byte> bytes;
  };

  // The blocks of all but the last token of a prompt, from the first that is asked for.
  std::vector<Block> Prefill(const std::vector<TokenId>& prompt, const std::string& tenant = "") {
    std::vector<EngineEvent> events;
    PrefillRequest request{.id = ++prefill_id_,
                           .model = "m",
                           .tokens = {prompt.begin(), prompt.end() - 1},
                           .scope = {.tenant_salt = tenant}};
    EXPECT_TRUE(prefill_->Submit(std::move(request)).ok());
    while (prefill_->Step(now_, events)) {
    }
    const auto& last = std::get<PrefillEvent>(events.back());
    EXPECT_TRUE(last.done) << last.status;
    EXPECT_EQ(last.blocks_done, (static_cast<int>(prompt.size()) - 1 + 15) / 16);
    std::vector<Block> blocks;
    for (int i = 0; i < last.blocks_done; ++i) {
      const Engine::BlockView view = prefill_->ReadBlock(prefill_id_, i);
      blocks.push_back({view.key, view.checksum, {view.bytes.begin(), view.bytes.end()}});
    }
    prefill_->ReleasePrefill(prefill_id_);
    ExpectAllBlocksFree(*prefill_);
    return blocks;
  }

  // Submits a request whose prompt comes from elsewhere; returns the first block it asks for.
  int Ask(RequestId id, std::vector<TokenId> prompt) {
    GenerateRequest request = Greedy(id, std::move(prompt), 20);
    request.await_blocks = true;
    EXPECT_TRUE(decode_->Submit(std::move(request)).ok());
    std::vector<EngineEvent> events;
    EXPECT_FALSE(decode_->Step(now_, events));
    EXPECT_EQ(events.size(), 1u);
    const auto& need = std::get<NeedBlocksEvent>(events.at(0));
    epoch_ = need.epoch;
    EXPECT_EQ(need.keys.size(), static_cast<size_t>(need.blocks - need.first_block));
    return need.first_block;
  }

  absl::Status Deliver(RequestId id, int index, const Block& block) {
    const std::span<const std::byte> bytes(block.bytes);
    decode_->DeliverPiece(id, epoch_, index, bytes.first(bytes.size() / 3));
    decode_->DeliverPiece(id, epoch_, index, bytes.subspan(bytes.size() / 3));
    return decode_->CompleteBlock(id, epoch_, index, block.key, block.checksum);
  }

  Outcome Expected(const std::vector<TokenId>& prompt) {
    auto alone = MakeEngine({});
    return RunOne(*alone, Greedy(1, prompt, 20));
  }

  std::unique_ptr<Engine> prefill_;
  std::unique_ptr<Engine> decode_;
  RequestId prefill_id_ = 0;
  uint64_t epoch_ = 0;  // of the delivery that was asked for last
};

TEST_F(Handoff, GivesTheTokensOfOneEngine) {
  for (int size : {2, 16, 17, 18, 33, 100}) {
    SCOPED_TRACE(size);
    const std::vector<TokenId> prompt = Prompt(size, size);
    const std::vector<Block> blocks = Prefill(prompt);
    EXPECT_EQ(Ask(size, prompt), 0);
    for (int i = static_cast<int>(blocks.size()) - 1; i >= 0; --i) {
      EXPECT_TRUE(Deliver(size, i, blocks[i]).ok());
    }
    decode_->EndDelivery(size);
    const Outcome outcome = Run(*decode_)[size];
    EXPECT_EQ(outcome.tokens, Expected(prompt).tokens);
    EXPECT_EQ(outcome.usage.transferred_tokens, size - 1);
    EXPECT_EQ(outcome.usage.computed_tokens, 0);
    ExpectAllBlocksFree(*decode_);
  }
}

TEST_F(Handoff, AsksOnlyForWhatItDoesNotHave) {
  const std::vector<TokenId> prompt = Prompt(50);
  RunOne(*decode_, Greedy(1, {prompt.begin(), prompt.begin() + 40}, 4));
  EXPECT_EQ(Ask(2, prompt), 2);
  const std::vector<Block> blocks = Prefill(prompt);
  for (int i = 2; i < 4; ++i) EXPECT_TRUE(Deliver(2, i, blocks[i]).ok());
  decode_->EndDelivery(2);
  const Outcome outcome = Run(*decode_)[2];
  EXPECT_EQ(outcome.tokens, Expected(prompt).tokens);
  EXPECT_EQ(outcome.usage.cached_tokens, 32);
  EXPECT_EQ(outcome.usage.transferred_tokens, 17);
}

TEST_F(Handoff, ComputesWhatDoesNotArrive) {
  const std::vector<TokenId> prompt = Prompt(70);
  const std::vector<Block> blocks = Prefill(prompt);
  Ask(1, prompt);
  for (int i : {0, 1, 3}) EXPECT_TRUE(Deliver(1, i, blocks[i]).ok());
  decode_->EndDelivery(1);
  const Outcome outcome = Run(*decode_)[1];
  EXPECT_EQ(outcome.tokens, Expected(prompt).tokens);
  EXPECT_EQ(outcome.usage.transferred_tokens, 32);
  EXPECT_EQ(outcome.usage.computed_tokens, 37);
}

TEST_F(Handoff, RefusesBlocksThatAreNotWhatTheySay) {
  const std::vector<TokenId> prompt = Prompt(40);
  std::vector<Block> blocks = Prefill(prompt);
  const std::vector<Block> of_other_tenant = Prefill(prompt, "tenant");
  Ask(1, prompt);
  Block flipped = blocks[0];
  flipped.bytes[100] ^= std::byte{1};
  EXPECT_EQ(Deliver(1, 0, flipped).code(), absl::StatusCode::kDataLoss);
  Block cut = blocks[0];
  cut.bytes.pop_back();
  EXPECT_EQ(Deliver(1, 0, cut).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Deliver(1, 0, of_other_tenant[0]).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Deliver(1, 0, blocks[1]).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(decode_->stats().blocks_rejected, 4);
  EXPECT_TRUE(Deliver(1, 99, blocks[0]).ok()) << "what is not wanted is ignored";
  EXPECT_TRUE(Deliver(1, -1, blocks[0]).ok());
  EXPECT_TRUE(Deliver(7, 0, blocks[0]).ok());
  decode_->EndDelivery(1);
  decode_->EndDelivery(1);
  EXPECT_EQ(Run(*decode_)[1].tokens, Expected(prompt).tokens);
}

TEST_F(Handoff, TheOpenBlockCarriesNothingOfFormerTenants) {
  auto small = MakeEngine({.blocks = 2});
  RunOne(*small, Greedy(1, Prompt(15, 9), 10));  // fills both blocks
  PrefillRequest request{.id = 2, .model = "m", .tokens = Prompt(3), .reuse_prefix = false};
  ASSERT_TRUE(small->Submit(std::move(request)).ok());
  std::vector<EngineEvent> events;
  while (small->Step(now_, events)) {
  }
  const kernels::KvShape shape = model_->kv_shape();
  const Engine::BlockView view = small->ReadBlock(2, 0);
  for (int token = 3; token < kernels::kBlockTokens; ++token) {
    float value = 1;
    const int64_t at = shape.v_tile_offset(1, 0) + 4 * shape.v_index(token, 0);
    std::memcpy(&value, view.bytes.data() + at, sizeof(value));
    EXPECT_EQ(value, 0) << token;
  }
}

TEST_F(Handoff, ReportsBlocksAsTheyAreWritten) {
  PrefillRequest request{.id = 1, .model = "m", .tokens = Prompt(40)};
  ASSERT_TRUE(prefill_->Submit(std::move(request)).ok());
  std::vector<int> done;
  std::vector<EngineEvent> events;
  while (prefill_->Step(now_, events)) {
  }
  for (const EngineEvent& event : events) done.push_back(std::get<PrefillEvent>(event).blocks_done);
  EXPECT_EQ(done, (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(prefill_->stats().blocks_held, 3);
  prefill_->Cancel(1, absl::CancelledError("gone"));
  ExpectAllBlocksFree(*prefill_);
}

}  // namespace
}  // namespace chorale
