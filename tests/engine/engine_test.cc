#include "engine/engine.h"

#include <cmath>
#include <limits>

#include "model/forward.h"
#include "tests/engine/engine_fixture.h"

namespace chorale {
namespace {

class EngineTest : public EngineFixture {
 protected:
  GenerateRequest RandomRequest(std::mt19937& random, RequestId id, int prompt_max) {
    const auto draw = [&](int n) { return static_cast<int>(random() % n); };
    const auto unit = [&] { return draw(1000) / 1000.0; };
    GenerateRequest r{.id = id, .model = "m"};
    const int size = 1 + draw(prompt_max);
    const int shared = draw(2) * draw(size + 1);
    for (int i = 0; i < size; ++i) r.prompt.push_back(i < shared ? i % 50 : draw(kTinyVocab));
    r.n = draw(6) == 0 ? 3 : 1;
    SamplingParams& s = r.sampling;
    s.seed = random();
    s.max_tokens = draw(40);
    s.temperature = draw(2) * (0.3 + 1.5 * unit());
    if (draw(3) == 0) s.top_k = 1 + draw(50);
    if (draw(3) == 0) s.top_p = 0.2 + 0.8 * unit();
    if (draw(3) == 0) s.min_p = 0.2 * unit();
    if (draw(3) == 0) s.repetition_penalty = 0.8 + unit();
    if (draw(3) == 0) s.presence_penalty = unit();
    if (draw(3) == 0) s.frequency_penalty = unit();
    if (draw(4) == 0) s.stop = {"th"};
    if (draw(4) == 0) s.stop_tokens = {3, 4};
    if (draw(4) == 0) s.logprobs = 2;
    r.scope.tenant_salt = draw(2) ? "a" : "";
    return r;
  }
};

TEST_F(EngineTest, GreedyTokensEqualAPlainLoopOfForwardPasses) {
  auto engine = MakeEngine({.blocks = 16});
  const std::vector<TokenId> prompt = Prompt(21);
  const Outcome outcome = RunOne(*engine, Greedy(1, prompt, 30));

  std::vector<TokenId> tokens = prompt;
  kernels::Buffer memory(model_->kv_shape().block_bytes() * 8);
  const std::vector<BlockId> blocks = {3, 1, 0, 2, 7, 5, 6, 4};
  std::vector<float> logits;
  for (int i = 0; i < 30; ++i) {
    const BatchSequence all{.tokens = tokens, .blocks = blocks, .wants_logits = true};
    logits.clear();
    ForwardPass(pool_).Run(*model_, {&all, 1}, {memory.data(), model_->kv_shape()}, logits);
    tokens.push_back(model_->kernels().argmax(logits.data(), static_cast<int>(logits.size())));
  }
  EXPECT_EQ(outcome.tokens.at(0), std::vector<TokenId>(tokens.begin() + 21, tokens.end()));
  EXPECT_EQ(outcome.reasons.at(0), FinishReason::kLength);
  EXPECT_EQ(outcome.usage.prompt_tokens, 21);
  EXPECT_EQ(outcome.usage.completion_tokens, 30);
  ExpectAllBlocksFree(*engine);
}

// The invariant of the engine: what else runs, and how it is cut, changes nothing.
TEST_F(EngineTest, TokensEqualThoseOfTheRequestRunningAlone) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  std::vector<GenerateRequest> requests;
  std::map<RequestId, Outcome> alone;
  for (RequestId id = 1; id <= 60; ++id) {
    requests.push_back(RandomRequest(random, id, 90));
    GenerateRequest copy = requests.back();
    copy.reuse_prefix = false;
    auto engine = MakeEngine({.blocks = 100, .step_tokens_max = 512, .chunk_tokens_max = 512});
    alone[id] = RunOne(*engine, std::move(copy));
    ASSERT_TRUE(alone[id].done);
  }
  struct Setting {
    int blocks, chunk, sequences;
    bool reuse;
  };
  int preemptions = 0;
  int cached = 0;
  for (const Setting& s :
       {Setting{200, 1, 1, true}, Setting{200, 7, 32, false}, Setting{200, 512, 32, true},
        Setting{14, 7, 32, true}, Setting{14, 16, 8, false}}) {
    SCOPED_TRACE(testing::Message() << s.blocks << " blocks, chunk " << s.chunk << ", "
                                    << s.sequences << " sequences, reuse " << s.reuse);
    auto engine = MakeEngine({.blocks = s.blocks,
                              .step_tokens_max = 40,
                              .chunk_tokens_max = s.chunk,
                              .sequences_max = s.sequences});
    std::map<RequestId, Outcome> outcomes;
    std::set<RequestId> cancelled;
    std::vector<EngineEvent> events;
    size_t next = 0;
    while (next < requests.size() || engine->Step(now_, events)) {
      for (int burst = random() % 3; burst > 0 && next < requests.size(); --burst) {
        GenerateRequest r = requests[next++];
        r.reuse_prefix = s.reuse;
        ASSERT_TRUE(engine->Submit(std::move(r)).ok());
      }
      if (random() % 20 == 0 && next > 0) {
        const RequestId id = requests[random() % next].id;
        engine->Cancel(id, absl::CancelledError("by the test"));
        cancelled.insert(id);
      }
      engine->Step(now_, events);
    }
    for (const EngineEvent& event : events) Take(event, outcomes);
    for (const GenerateRequest& r : requests) {
      SCOPED_TRACE(testing::Message() << "request " << r.id);
      const Outcome& outcome = outcomes[r.id];
      EXPECT_TRUE(outcome.done);
      if (outcome.reasons != alone[r.id].reasons) {
        EXPECT_TRUE(cancelled.contains(r.id));
        continue;
      }
      EXPECT_EQ(outcome.tokens, alone[r.id].tokens);
      EXPECT_EQ(outcome.text, alone[r.id].text);
      EXPECT_EQ(outcome.logprobs, alone[r.id].logprobs);
      cached += outcome.usage.cached_tokens;
    }
    preemptions += engine->stats().preemptions;
    ExpectAllBlocksFree(*engine);
  }
  EXPECT_GT(preemptions, 0) << "the small pools were meant to run out";
  EXPECT_GT(cached, 0) << "prefixes were meant to be found";
}

TEST_F(EngineTest, SequencesOfOneRequestDrawTheirOwnTokens) {
  auto engine = MakeEngine({});
  GenerateRequest request = Greedy(1, Prompt(40), 20);
  request.sampling.temperature = 1;
  request.n = 3;
  const Outcome outcome = RunOne(*engine, std::move(request));
  ASSERT_EQ(outcome.tokens.size(), 3u);
  EXPECT_NE(outcome.tokens.at(0), outcome.tokens.at(1));
  EXPECT_NE(outcome.tokens.at(1), outcome.tokens.at(2));
  EXPECT_EQ(outcome.usage.completion_tokens, 60);
  EXPECT_EQ(outcome.usage.prompt_tokens, 40);
}

TEST_F(EngineTest, ASecondPromptFindsTheFirstOnesBlocksOfItsTenantOnly) {
  auto engine = MakeEngine({});
  const auto run = [&](RequestId id, const std::string& tenant) {
    GenerateRequest request = Greedy(id, Prompt(40), 4);
    request.scope.tenant_salt = tenant;
    return RunOne(*engine, std::move(request)).usage.cached_tokens;
  };
  EXPECT_EQ(engine->CachedTokens(Prompt(40), model_->digest(), {"a"}), 0);
  EXPECT_EQ(run(1, "a"), 0);
  EXPECT_EQ(engine->CachedTokens(Prompt(40), model_->digest(), {"a"}), 32);
  EXPECT_EQ(run(2, "a"), 32);
  EXPECT_EQ(run(3, "b"), 0);
}

TEST_F(EngineTest, TheLastPromptTokenIsAlwaysComputed) {
  auto engine = MakeEngine({});
  const Outcome first = RunOne(*engine, Greedy(1, Prompt(32), 4));
  const Outcome again = RunOne(*engine, Greedy(2, Prompt(32), 4));
  EXPECT_EQ(again.usage.cached_tokens, 16);
  EXPECT_EQ(again.tokens, first.tokens);
}

TEST_F(EngineTest, StopsAtEndTokensAndStopTokens) {
  auto engine = MakeEngine({});
  GenerateRequest request = Greedy(1, Prompt(10), 50);
  request.sampling.ignore_eos = false;
  request.sampling.logit_bias = {{7, 100}};  // the model's end token
  Outcome outcome = RunOne(*engine, request);
  EXPECT_EQ(outcome.tokens.at(0), std::vector<TokenId>{7});
  EXPECT_EQ(outcome.text.at(0), "");
  EXPECT_EQ(outcome.reasons.at(0), FinishReason::kStop);
  request.id = 2;
  request.sampling.logit_bias = {{9, 100}};
  request.sampling.stop_tokens = {9};
  outcome = RunOne(*engine, request);
  EXPECT_EQ(outcome.tokens.at(0), std::vector<TokenId>{9});
  EXPECT_EQ(outcome.reasons.at(0), FinishReason::kStop);
}

TEST_F(EngineTest, NoTokensWantedEndsAtOnce) {
  auto engine = MakeEngine({});
  const Outcome outcome = RunOne(*engine, Greedy(1, Prompt(10), 0));
  EXPECT_TRUE(outcome.done);
  EXPECT_EQ(outcome.reasons.at(0), FinishReason::kLength);
  EXPECT_EQ(outcome.usage.prompt_tokens, 10);
}

TEST_F(EngineTest, OutputEndsAtTheEndOfTheContext) {
  auto engine = MakeEngine({.blocks = 200});
  const Outcome outcome = RunOne(*engine, Greedy(1, Prompt(kTinyContext - 3), 50));
  EXPECT_EQ(outcome.tokens.at(0).size(), 3u);
  EXPECT_EQ(outcome.reasons.at(0), FinishReason::kLength);
}

TEST_F(EngineTest, ACancelledRequestFreesItsBlocksBeforeTheNextStep) {
  auto engine = MakeEngine({});
  ASSERT_TRUE(engine->Submit(Greedy(1, Prompt(100), 50)).ok());
  std::vector<EngineEvent> events;
  engine->Step(now_, events);
  EXPECT_GT(engine->stats().blocks_held, 0);
  engine->Cancel(1, absl::CancelledError("gone"));
  ExpectAllBlocksFree(*engine);
  EXPECT_FALSE(engine->Step(now_, events));
  std::map<RequestId, Outcome> outcomes;
  for (const EngineEvent& event : events) Take(event, outcomes);
  EXPECT_EQ(outcomes[1].reasons.at(0), FinishReason::kCancelled);
  EXPECT_EQ(outcomes[1].statuses.at(0).message(), "gone");
  engine->Cancel(1, absl::CancelledError("again"));  // may cross the end
}

TEST_F(EngineTest, AnExpiredRequestEndsWithItsDeadline) {
  auto engine = MakeEngine({});
  GenerateRequest request = Greedy(1, Prompt(10), 1000);
  request.deadline = now_ + absl::Seconds(1);
  ASSERT_TRUE(engine->Submit(std::move(request)).ok());
  std::vector<EngineEvent> events;
  EXPECT_TRUE(engine->Step(now_, events));
  EXPECT_FALSE(engine->Step(now_ + absl::Seconds(1), events));
  std::map<RequestId, Outcome> outcomes;
  for (const EngineEvent& event : events) Take(event, outcomes);
  EXPECT_EQ(outcomes[1].reasons.at(0), FinishReason::kError);
  EXPECT_EQ(outcomes[1].statuses.at(0).code(), absl::StatusCode::kDeadlineExceeded);
  ExpectAllBlocksFree(*engine);
}

TEST_F(EngineTest, TellsWhenThingsHappened) {
  auto engine = MakeEngine({.chunk_tokens_max = 16});
  ASSERT_TRUE(engine->Submit(Greedy(1, Prompt(40), 2)).ok());
  std::vector<EngineEvent> events;
  for (int second = 0; engine->Step(now_ + absl::Seconds(second), events); ++second) {
  }
  std::map<RequestId, Outcome> outcomes;
  for (const EngineEvent& event : events) Take(event, outcomes);
  const Timing& timing = outcomes[1].timing;
  EXPECT_EQ(timing.first_step, now_);
  EXPECT_EQ(timing.admitted, now_);
  EXPECT_EQ(timing.prompt_ready, now_ + absl::Seconds(2));  // 39 tokens in chunks of 16
  EXPECT_EQ(timing.first_token, now_ + absl::Seconds(3));
}

TEST_F(EngineTest, LongPromptsShareStepsWithDecodingSequences) {
  auto engine = MakeEngine({.step_tokens_max = 20, .chunk_tokens_max = 16});
  ASSERT_TRUE(engine->Submit(Greedy(1, Prompt(4), 100)).ok());
  std::vector<EngineEvent> events;
  engine->Step(now_, events);
  ASSERT_TRUE(engine->Submit(Greedy(2, Prompt(200, 1), 4)).ok());
  for (int i = 0; i < 8; ++i) {
    events.clear();
    engine->Step(now_, events);
    EXPECT_EQ(engine->stats().prefilling, 1);
    ASSERT_EQ(events.size(), 1u) << "the first request gets its token in every step";
    EXPECT_EQ(std::get<TokenEvent>(events[0]).id, 1u);
  }
}

TEST_F(EngineTest, RefusesWhatItCannotDoAndNamesTheField) {
  auto engine = MakeEngine({.blocks = 16, .waiting_max = 2});
  const auto refusal = [&](auto change) {
    GenerateRequest request = Greedy(99, Prompt(5), 4);
    change(request);
    const absl::Status status = engine->Submit(std::move(request));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  using testing::HasSubstr;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(refusal([](auto& r) { r.prompt.clear(); }), HasSubstr("'prompt': empty"));
  EXPECT_THAT(refusal([](auto& r) { r.prompt[2] = kTinyVocab; }),
              HasSubstr("token 260 at position 2"));
  EXPECT_THAT(refusal([](auto& r) { r.prompt = Prompt(5000); }), HasSubstr("5000 tokens"));
  EXPECT_THAT(refusal([](auto& r) { r.prompt = Prompt(256); }), HasSubstr("shorten"));
  EXPECT_THAT(refusal([](auto& r) { r.n = 0; }), HasSubstr("'n': 0"));
  EXPECT_THAT(refusal([](auto& r) { r.sampling.temperature = -1; }),
              HasSubstr("'temperature': -1"));
  EXPECT_THAT(refusal([&](auto& r) { r.sampling.temperature = nan; }), HasSubstr("'temperature'"));
  EXPECT_THAT(refusal([&](auto& r) { r.sampling.top_p = nan; }), HasSubstr("'top_p'"));
  EXPECT_THAT(refusal([](auto& r) { r.sampling.top_p = 0; }), HasSubstr("'top_p': 0"));
  EXPECT_THAT(refusal([](auto& r) { r.sampling.top_k = -1; }), HasSubstr("'top_k': -1"));
  EXPECT_THAT(refusal([](auto& r) { r.sampling.min_p = 2; }), HasSubstr("'min_p': 2"));
  EXPECT_THAT(refusal([](auto& r) { r.sampling.presence_penalty = 3; }),
              HasSubstr("'presence_penalty': 3"));
  EXPECT_THAT(refusal([](auto& r) { r.sampling.repetition_penalty = 0; }),
              HasSubstr("'repetition_penalty': 0"));
  EXPECT_THAT(refusal([](auto& r) {
                r.sampling.logit_bias = {{-1, 1.0}};
              }),
              HasSubstr("'logit_bias': token -1"));
  EXPECT_THAT(refusal([](auto& r) { r.sampling.logprobs = 21; }), HasSubstr("'logprobs': 21"));
  EXPECT_THAT(refusal([](auto& r) { r.sampling.max_tokens = -1; }), HasSubstr("'max_tokens': -1"));
  EXPECT_THAT(refusal([](auto& r) { r.sampling.stop = {""}; }), HasSubstr("'stop'"));

  ASSERT_TRUE(engine->Submit(Greedy(1, Prompt(5), 4)).ok());
  EXPECT_EQ(engine->Submit(Greedy(1, Prompt(5), 4)).code(), absl::StatusCode::kAlreadyExists);
  ASSERT_TRUE(engine->Submit(Greedy(2, Prompt(5), 4)).ok());
  EXPECT_EQ(engine->Submit(Greedy(3, Prompt(5), 4)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Run(*engine).size(), 2u);
}

}  // namespace
}  // namespace chorale
