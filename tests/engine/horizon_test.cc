// Sequences that no longer see all of their history: tokens against a plain forward pass, by every
// way that K/V comes about, and the blocks that are given back.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "tests/engine/engine_fixture.h"
#include "tests/model/plain_forward.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/window_model.h"

namespace chorale {
namespace {

constexpr double kLogprobMax = 1e-3;  // off the judge's
constexpr int kOutputs = 24;

class HorizonTest : public EngineFixture {
 protected:
  void Load(const std::string& kind) {
    WriteWindowModel(WindowKindNamed(kind), folder_.path());
    auto model =
        Transformer::Load(folder_.path(), {.kernels = *kernels::FindKernels("reference")}, pool_);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }

  static GenerateRequest Ask(RequestId id, std::vector<TokenId> prompt, int outputs = kOutputs) {
    GenerateRequest request = Greedy(id, std::move(prompt), outputs);
    request.sampling.logprobs = 1;
    return request;
  }

  // Judges each token and its probability by what precedes it.
  void ExpectPlain(const std::vector<TokenId>& prompt, const Outcome& outcome, int index = 0) {
    ASSERT_TRUE(outcome.tokens.contains(index));
    const std::vector<TokenId>& outputs = outcome.tokens.at(index);
    std::vector<TokenId> all = prompt;
    all.insert(all.end(), outputs.begin(), outputs.end());
    const bool by_length = model_->config().short_context() > 0;
    std::vector<std::vector<double>> logits;
    if (!by_length) logits = PlainLogits(folder_.path(), all);
    for (size_t i = 0; i < outputs.size(); ++i) {
      const size_t seen = prompt.size() + i;
      if (by_length) logits = PlainLogits(folder_.path(), std::span(all).first(seen));
      const std::vector<double>& row = logits[seen - 1];
      const double highest = *std::max_element(row.begin(), row.end());
      double sum = 0;
      for (double logit : row) sum += std::exp(logit - highest);
      ASSERT_NEAR(row[outputs[i]], highest, kLogprobMax) << "output " << i << " is not the best";
      ASSERT_NEAR(outcome.logprobs.at(index)[i], row[outputs[i]] - highest - std::log(sum),
                  kLogprobMax)
          << "output " << i;
    }
  }

  TempFolder folder_;
};

const char* const kKinds[] = {"every layer",           "one block", "one token",
                              "layers by type",        "longrope",  "dynamic",
                              "longrope with a window"};

TEST_F(HorizonTest, TokensEqualAPlainForwardPassInChunksAndOnFoundPrefixes) {
  for (const char* kind : kKinds) {
    Load(kind);
    for (int chunk : {5, 512}) {
      auto engine = MakeEngine({.blocks = 60, .chunk_tokens_max = chunk});
      RequestId id = 0;
      for (int size : {1, 17, 40, 41, 57, 59, 60, 61, 90}) {
        for (bool again : {false, true}) {
          SCOPED_TRACE(absl::StrCat(kind, " chunk ", chunk, " size ", size, " again ", again));
          const Outcome outcome = RunOne(*engine, Ask(++id, Prompt(size)));
          ExpectPlain(Prompt(size), outcome);
          if (again) EXPECT_EQ(outcome.usage.cached_tokens, (size - 1) / 16 * 16);
        }
      }
      ExpectAllBlocksFree(*engine);
    }
  }
}

TEST_F(HorizonTest, TokensEqualAPlainForwardPassWhenBlocksRunOut) {
  for (const char* kind : kKinds) {
    SCOPED_TRACE(kind);
    Load(kind);
    auto engine = MakeEngine({.blocks = 14, .chunk_tokens_max = 16});
    std::map<RequestId, std::vector<TokenId>> prompts;
    for (RequestId id = 1; id <= 8; ++id) {
      prompts[id] = Prompt(20 + 9 * static_cast<int>(id), static_cast<int>(id % 3));
      GenerateRequest request = Ask(id, prompts[id], 60);
      request.n = id == 3 ? 2 : 1;
      ASSERT_TRUE(engine->Submit(std::move(request)).ok());
    }
    const std::map<RequestId, Outcome> outcomes = Run(*engine);
    for (const auto& [id, prompt] : prompts) ExpectPlain(prompt, outcomes.at(id));
    ExpectPlain(prompts.at(3), outcomes.at(3), 1);
    if (kind != std::string("one token")) EXPECT_GT(engine->stats().preemptions, 0);
    ExpectAllBlocksFree(*engine);
  }
}

TEST_F(HorizonTest, TokensEqualAPlainForwardPassAfterAHandOff) {
  for (const char* kind : kKinds) {
    Load(kind);
    auto prefill = MakeEngine({.chunk_tokens_max = 16});
    auto decode = MakeEngine({});
    RequestId id = 0;
    for (int size : {18, 41, 60, 61, 62, 100}) {
      for (bool all_arrive : {true, false}) {
        SCOPED_TRACE(absl::StrCat(kind, " size ", size, " all ", all_arrive));
        const std::vector<TokenId> prompt = Prompt(size, size + all_arrive);
        ASSERT_TRUE(prefill
                        ->Submit(PrefillRequest{
                            .id = ++id, .model = "m", .tokens = {prompt.begin(), prompt.end() - 1}})
                        .ok());
        std::vector<EngineEvent> events;
        while (prefill->Step(now_, events)) {
        }
        GenerateRequest request = Ask(id, prompt);
        request.await_blocks = true;
        ASSERT_TRUE(decode->Submit(std::move(request)).ok());
        events.clear();
        decode->Step(now_, events);
        const NeedBlocksEvent need = std::get<NeedBlocksEvent>(events.at(0));
        for (int i = need.first_block; i < need.blocks; ++i) {
          if (!all_arrive && i == need.blocks - 1) continue;
          const Engine::BlockView view = prefill->ReadBlock(id, i);
          EXPECT_EQ(view.key, need.keys[i - need.first_block]);
          decode->DeliverPiece(id, need.epoch, i, view.bytes);
          EXPECT_TRUE(decode->CompleteBlock(id, need.epoch, i, view.key, view.checksum).ok());
        }
        prefill->ReleasePrefill(id);
        decode->EndDelivery(id);
        ExpectPlain(prompt, Run(*decode)[id]);
        ExpectAllBlocksFree(*decode);
        ExpectAllBlocksFree(*prefill);
      }
    }
  }
}

TEST_F(HorizonTest, HoldsAWindowAndAChunkHoweverLongTheSequence) {
  Load("every layer");
  const int held_max = 3 + 1 + 1 + 1;  // a window of 40 tokens, a chunk of 16
  auto engine = MakeEngine({.blocks = held_max, .chunk_tokens_max = 16});
  EXPECT_EQ(engine->tokens_max(), 256);
  ASSERT_TRUE(engine->Submit(Ask(1, Prompt(150), 90)).ok());
  int held = 0;
  std::vector<EngineEvent> events;
  while (engine->Step(now_, events)) held = std::max(held, engine->stats().blocks_held);
  EXPECT_GT(held, 3);
  EXPECT_LE(held, held_max);
  EXPECT_EQ(engine->stats().preemptions, 0);
  std::map<RequestId, Outcome> outcomes;
  for (const EngineEvent& event : events) Take(event, outcomes);
  ExpectPlain(Prompt(150), outcomes[1]);
}

TEST_F(HorizonTest, KeepsEverythingWhereSomeLayerSeesEverything) {
  Load("layers by type");
  auto engine = MakeEngine({.blocks = 8, .chunk_tokens_max = 16});
  EXPECT_EQ(engine->tokens_max(), 8 * 16);
  const absl::Status status = engine->Submit(Ask(1, Prompt(150), 10));
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
}

TEST_F(HorizonTest, ComputesAPromptThatTheBlocksCouldNotTakeIn) {
  Load("every layer");
  auto engine = MakeEngine({.blocks = 6, .chunk_tokens_max = 16});
  GenerateRequest request = Ask(1, Prompt(150));
  request.await_blocks = true;
  ExpectPlain(Prompt(150), RunOne(*engine, std::move(request)));
}

TEST_F(HorizonTest, FindsAPrefixByTheBlocksThatItSees) {
  Load("every layer");
  auto engine = MakeEngine({.blocks = 40, .chunk_tokens_max = 16});
  RunOne(*engine, Ask(1, Prompt(150), 1));
  // The window of the row behind the 9 full blocks begins in block 6.
  int evicted = 0;
  for (const PublishedBlock& block : engine->ListBlocks()) {
    if (block.index < 6) evicted += engine->EvictBlocks(block.key.ToHex());
  }
  EXPECT_EQ(evicted, 6);
  Outcome outcome = RunOne(*engine, Ask(2, Prompt(150)));
  EXPECT_EQ(outcome.usage.cached_tokens, 9 * 16);
  ExpectPlain(Prompt(150), outcome);
  // Without block 6 nothing that is left helps but what does not see it, which is nothing here.
  for (const PublishedBlock& block : engine->ListBlocks()) {
    if (block.index == 6) engine->EvictBlocks(block.key.ToHex());
  }
  outcome = RunOne(*engine, Ask(3, Prompt(150)));
  EXPECT_EQ(outcome.usage.cached_tokens, 0);
  ExpectPlain(Prompt(150), outcome);
  ExpectAllBlocksFree(*engine);
}

TEST_F(HorizonTest, ComputesAgainWhenABlockOfTheWindowIsBad) {
  Load("every layer");
  kernels::Buffer memory(40 * model_->kv_shape().block_bytes());
  auto engine = MakeEngine(
      {.blocks = 40, .chunk_tokens_max = 16, .memory = std::span(memory.data(), memory.bytes())});
  RunOne(*engine, Ask(1, Prompt(150), 1));
  for (const PublishedBlock& block : engine->ListBlocks()) {
    if (block.index != 7) continue;
    memory.data()[block.block * model_->kv_shape().block_bytes() + 5] ^= std::byte{4};
  }
  const Outcome outcome = RunOne(*engine, Ask(2, Prompt(150)));
  EXPECT_EQ(outcome.usage.cached_tokens, 7 * 16);
  ExpectPlain(Prompt(150), outcome);
  EXPECT_EQ(engine->stats().blocks_corrupt, 1);
  ExpectAllBlocksFree(*engine);
}

TEST_F(HorizonTest, ComputesASequenceAgainThatOutgrowsItsShortContext) {
  Load("longrope");
  auto engine = MakeEngine({});
  // 50 + 24 tokens pass the short context of 60.
  Outcome outcome = RunOne(*engine, Ask(1, Prompt(50)));
  ExpectPlain(Prompt(50), outcome);
  EXPECT_EQ(engine->stats().preemptions, 1);
  EXPECT_EQ(outcome.usage.computed_tokens, 49 + 60);
  // What short sequences left is not read by long ones, nor the other way round.
  outcome = RunOne(*engine, Ask(2, Prompt(50), 1));
  EXPECT_EQ(outcome.usage.cached_tokens, 48);
  outcome = RunOne(*engine, Ask(3, Prompt(100), 1));
  EXPECT_EQ(outcome.usage.cached_tokens, 48) << "what request 1 had written anew";
  ExpectPlain(Prompt(100), outcome);
  ExpectAllBlocksFree(*engine);
}

}  // namespace
}  // namespace chorale
