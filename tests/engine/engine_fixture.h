// What the tests of the engine share: a tiny model under the reference kernels, and a loop.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/engine.h"
#include "model/checkpoint/random_checkpoint.h"
#include "tests/testing/tiny_model.h"

namespace chorale {

// All that one request gave.
struct Outcome {
  std::map<int, std::vector<TokenId>> tokens;  // by index
  std::map<int, std::string> text;
  std::map<int, FinishReason> reasons;
  std::map<int, absl::Status> statuses;
  std::map<int, std::vector<float>> logprobs;
  bool done = false;
  Usage usage;
  Timing timing;
};

class EngineFixture : public testing::Test {
 protected:
  EngineFixture() : pool_(1) {
    auto model = MakeRandomTransformer(TinyConfig(), kernels::DType::kF32, 1,
                                       {.kernels = *kernels::FindKernels("reference")}, pool_);
    EXPECT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    auto tokenizer = Tokenizer::Parse(ByteTokenizerJson());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  // An engine that serves the base as model "m".
  std::unique_ptr<Engine> MakeEngine(const EngineOptions& options) {
    auto engine = std::make_unique<Engine>(options, model_, pool_, tokenizer_.get());
    engine->SetModel(*MakeModel("m", Mode::kStandard, {model_}, {model_}, {model_}));
    return engine;
  }

  static std::vector<TokenId> Prompt(int tokens, int salt = 0) {
    std::vector<TokenId> prompt(tokens);
    for (int i = 0; i < tokens; ++i) prompt[i] = (17 * i + 31 * salt + 5) % kTinyVocab;
    return prompt;
  }
  static GenerateRequest Greedy(RequestId id, std::vector<TokenId> prompt, int max_tokens) {
    GenerateRequest request{.id = id, .model = "m", .prompt = std::move(prompt)};
    request.sampling.temperature = 0;
    request.sampling.max_tokens = max_tokens;
    request.sampling.ignore_eos = true;
    return request;
  }

  static void Take(const EngineEvent& event, std::map<RequestId, Outcome>& outcomes) {
    if (const auto* token = std::get_if<TokenEvent>(&event)) {
      Outcome& outcome = outcomes[token->id];
      outcome.tokens[token->index].push_back(token->token);
      outcome.text[token->index] += token->text;
      if (token->logprob) outcome.logprobs[token->index].push_back(*token->logprob);
    } else if (const auto* finish = std::get_if<FinishEvent>(&event)) {
      Outcome& outcome = outcomes[finish->id];
      EXPECT_FALSE(outcome.done) << "an event after the end";
      outcome.text[finish->index] += finish->text;
      outcome.reasons[finish->index] = finish->reason;
      outcome.statuses[finish->index] = finish->status;
      outcome.done = finish->request_done;
      outcome.usage = finish->usage;
      outcome.timing = finish->timing;
    }
  }

  // Steps until there is nothing to do.
  std::map<RequestId, Outcome> Run(Engine& engine) {
    std::map<RequestId, Outcome> outcomes;
    std::vector<EngineEvent> events;
    while (engine.Step(now_, events)) {
    }
    for (const EngineEvent& event : events) Take(event, outcomes);
    return outcomes;
  }

  Outcome RunOne(Engine& engine, GenerateRequest request) {
    const RequestId id = request.id;
    const absl::Status status = engine.Submit(std::move(request));
    EXPECT_TRUE(status.ok()) << status;
    return Run(engine)[id];
  }

  static void ExpectAllBlocksFree(const Engine& engine) {
    const EngineStats stats = engine.stats();
    EXPECT_EQ(stats.blocks_held, 0);
    EXPECT_EQ(stats.blocks_free, stats.blocks_total);
  }

  kernels::ThreadPool pool_;
  std::shared_ptr<const Transformer> model_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  absl::Time now_ = absl::UnixEpoch();
};

}  // namespace chorale
