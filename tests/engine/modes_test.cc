// The four modes in one engine: what each computes, what they share, and models that come and go.
#include <algorithm>

#include "model/model_loader.h"
#include "tests/engine/engine_fixture.h"
#include "tests/model/mode_run.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_family.h"

namespace chorale {
namespace {

using testing::HasSubstr;

class ModesTest : public EngineFixture {
 protected:
  ModesTest() {
    WriteTinyFamily(folder_.path());
    const absl::StatusOr<CatalogSpec> spec = ReadCatalog(folder_.path());
    EXPECT_TRUE(spec.ok()) << spec.status();
    const Transformer::Options options{.kernels = *kernels::FindKernels("reference")};
    auto loader = ModelLoader::Open(spec->base, options, pool_, nullptr);
    EXPECT_TRUE(loader.ok()) << loader.status();
    loader_ = *std::move(loader);
    auto models = loader_->Load(spec->models, pool_);
    EXPECT_TRUE(models.ok()) << models.status();
    for (const auto& model : *models) models_[model->name] = model;
  }

  std::unique_ptr<Engine> FamilyEngine(const EngineOptions& options) {
    auto engine =
        std::make_unique<Engine>(options, loader_->base().transformer, pool_, tokenizer_.get());
    for (const auto& [name, model] : models_) engine->SetModel(model);
    return engine;
  }

  static GenerateRequest Ask(RequestId id, const std::string& model, std::vector<TokenId> prompt,
                             int max_tokens) {
    GenerateRequest request = Greedy(id, std::move(prompt), max_tokens);
    request.model = model;
    return request;
  }

  // A model of this name and mode from the folder `module` of the family.
  std::shared_ptr<const Model> Load(const std::string& name, Mode mode, const std::string& adapter,
                                    const std::string& weights = "") {
    const auto in = [&](const std::string& path) {
      return path.empty() ? "" : folder_.path() + "/" + path;
    };
    ModelSpec spec{.name = name, .mode = mode};
    spec.module = {.name = name, .weights = in(weights), .adapter = in(adapter)};
    auto loaded = loader_->Load({spec}, pool_);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded->front();
  }

  // The bytes of the first blocks of `tokens` as `model`'s prompt writer has them in this engine.
  std::vector<std::vector<std::byte>> Blocks(Engine& engine, const std::string& model,
                                             const std::vector<TokenId>& tokens, int* computed) {
    constexpr RequestId kId = 9999;
    EXPECT_TRUE(engine.Submit(PrefillRequest{.id = kId, .model = model, .tokens = tokens}).ok());
    std::vector<EngineEvent> events;
    while (engine.Step(now_, events)) {
    }
    const auto& last = std::get<PrefillEvent>(events.back());
    EXPECT_TRUE(last.done);
    *computed = last.usage.computed_tokens;
    std::vector<std::vector<std::byte>> blocks;
    for (size_t i = 0; i < tokens.size() / kernels::kBlockTokens; ++i) {
      const std::span<const std::byte> bytes = engine.ReadBlock(kId, static_cast<int>(i)).bytes;
      blocks.emplace_back(bytes.begin(), bytes.end());
    }
    engine.ReleasePrefill(kId);
    return blocks;
  }

  std::vector<TokenId> ByDefinition(const Model& model, const std::vector<TokenId>& prompt,
                                    int count) {
    return RunByDefinition(model, prompt, count, pool_).tokens;
  }

  TempFolder folder_;
  std::optional<ModelLoader> loader_;
  std::map<std::string, std::shared_ptr<const Model>> models_;
};

TEST_F(ModesTest, EveryModelComputesWhatItsModeSays) {
  for (const auto& [name, model] : models_) {
    for (int size : {1, 2, 16, 17, 37}) {
      auto engine = FamilyEngine({.blocks = 16});
      const Outcome outcome = RunOne(*engine, Ask(1, name, Prompt(size), 12));
      EXPECT_EQ(outcome.tokens.at(0), ByDefinition(*model, Prompt(size), 12))
          << name << " " << size;
      ExpectAllBlocksFree(*engine);
    }
  }
}

TEST_F(ModesTest, ModelsOfAllModesDoNotDisturbEachOther) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto draw = [&](int n) { return static_cast<int>(random() % n); };
  const std::vector<std::string> names = TinyFamilyModels();
  std::vector<GenerateRequest> requests;
  std::map<RequestId, Outcome> alone;
  for (RequestId id = 1; id <= 80; ++id) {
    GenerateRequest request = Ask(id, names[draw(static_cast<int>(names.size()))],
                                  Prompt(1 + draw(80), draw(3)), draw(40));
    request.sampling.temperature = draw(2);
    request.sampling.seed = random();
    request.n = draw(6) == 0 ? 3 : 1;
    request.scope.tenant_salt = draw(2) ? "a" : "";
    requests.push_back(request);
    request.reuse_prefix = false;
    alone[id] = RunOne(*FamilyEngine({.blocks = 64}), request);
  }
  for (int chunk : {1, 7, 512}) {
    for (int sequences : {1, 32}) {
      auto engine = FamilyEngine({.blocks = 40,
                                  .step_tokens_max = 64,
                                  .chunk_tokens_max = chunk,
                                  .sequences_max = sequences});
      for (const GenerateRequest& request : requests) ASSERT_TRUE(engine->Submit(request).ok());
      const std::map<RequestId, Outcome> got = Run(*engine);
      for (const GenerateRequest& request : requests) {
        EXPECT_EQ(got.at(request.id).tokens, alone.at(request.id).tokens)
            << request.model << " chunk " << chunk << " sequences " << sequences;
      }
      if (sequences > 1) EXPECT_GT(engine->stats().preemptions, 0);
      ExpectAllBlocksFree(*engine);
    }
  }
}

TEST_F(ModesTest, IcarusModelsWriteTheSameBlocksAndReadEachOthers) {
  auto engine = FamilyEngine({.blocks = 64});
  const std::vector<TokenId> prompt = Prompt(100);
  const Outcome first = RunOne(*engine, Ask(1, "icarus-r", prompt, 60));
  // The second model goes on after all that the first was asked and said, and some more.
  std::vector<TokenId> next = prompt;
  next.insert(next.end(), first.tokens.at(0).begin(), first.tokens.at(0).end());
  int computed = 0;
  // The last token of an output is never written: nothing came after it.
  const std::vector<TokenId> shared(next.begin(), next.end() - 1);
  const auto of_first = Blocks(*engine, "icarus-r", shared, &computed);
  EXPECT_EQ(computed, 159 % 16);
  auto fresh = FamilyEngine({.blocks = 64});
  EXPECT_EQ(Blocks(*fresh, "icarus-s", shared, &computed), of_first);
  EXPECT_EQ(computed, 159);

  for (TokenId token : Prompt(20, 7)) next.push_back(token);
  const Outcome second = RunOne(*engine, Ask(2, "icarus-s", next, 5));
  EXPECT_EQ(second.usage.cached_tokens, 144);
  EXPECT_EQ(second.usage.computed_tokens, 179 - 144);
  EXPECT_EQ(second.tokens.at(0), ByDefinition(*models_["icarus-s"], next, 5));
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.models.at("icarus-s").prompt_tokens_reused_shared, 144);
  EXPECT_EQ(stats.models.at("icarus-s").prompt_tokens_reused_own, 0);
  EXPECT_EQ(stats.kv_bytes_shared, 9 * loader_->base().transformer->kv_shape().block_bytes());
}

TEST_F(ModesTest, PrefillShareModelsShareThePromptAndNotTheOutput) {
  models_["share-b"] = Load("share-b", Mode::kPrefillShare, "b");
  models_["share-y"] = Load("share-y", Mode::kPrefillShare, "", "y");
  auto engine = FamilyEngine({.blocks = 64});
  const std::vector<TokenId> prompt = Prompt(161);
  std::vector<TokenId> after_first;
  RequestId id = 0;
  for (const char* name : {"share-x", "share-a", "share-b", "share-y"}) {
    const Outcome outcome = RunOne(*engine, Ask(++id, name, prompt, 40));
    EXPECT_EQ(outcome.usage.computed_tokens, id == 1 ? 160 : 0) << name;
    EXPECT_EQ(outcome.tokens.at(0), ByDefinition(*models_[name], prompt, 40)) << name;
    if (id == 1) after_first = outcome.tokens.at(0);
  }
  // The next turn holds what the first model said: the base has not seen it yet.
  std::vector<TokenId> next = prompt;
  next.insert(next.end(), after_first.begin(), after_first.end());
  for (const char* name : {"share-a", "share-x"}) {
    const Outcome outcome = RunOne(*engine, Ask(++id, name, next, 5));
    EXPECT_EQ(outcome.usage.computed_tokens, id == 5 ? 40 : 200 % 16) << name;
    EXPECT_EQ(outcome.tokens.at(0), ByDefinition(*models_[name], next, 5)) << name;
  }
}

TEST_F(ModesTest, RowsOfAllSunModelsGoThroughTheBaseTogether) {
  auto engine = FamilyEngine({.blocks = 64});
  RequestId id = 0;
  for (const char* name : {"sun-x", "sun-a", "base", "sun-x"}) {
    ASSERT_TRUE(engine->Submit(Ask(++id, name, {5}, 20)).ok());
  }
  Run(*engine);
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.steps, 20);
  EXPECT_EQ(stats.decode_passes, 20);
  EXPECT_EQ(stats.decode_passes_mixed, 20);
  EXPECT_EQ(stats.models.at("sun-x").decode_rows, 40);
  EXPECT_EQ(stats.models.at("sun-a").decode_rows, 20);
}

TEST_F(ModesTest, ABatchOfDifferentWeightsTakesOnePassEach) {
  auto engine = FamilyEngine({.blocks = 64});
  RequestId id = 0;
  for (const char* name : {"icarus-r", "standard-x", "icarus-s", "standard-a"}) {
    ASSERT_TRUE(engine->Submit(Ask(++id, name, {5}, 10)).ok());
  }
  Run(*engine);
  EXPECT_EQ(engine->stats().passes, 20);
  EXPECT_EQ(engine->stats().decode_passes_mixed, 10);
  EXPECT_EQ(engine->stats().rows, 60);  // two models have a reader
}

TEST_F(ModesTest, AReplacedModelGivesNoTokenToRequestsAfterIt) {
  auto engine = FamilyEngine({.blocks = 64});
  const std::vector<TokenId> prompt = Prompt(50);
  ASSERT_TRUE(engine->Submit(Ask(1, "icarus-r", prompt, 30)).ok());
  std::vector<EngineEvent> events;
  for (int i = 0; i < 10; ++i) engine->Step(now_, events);
  const std::shared_ptr<const Model> old = models_["icarus-r"];
  const std::shared_ptr<const Model> replaced = Load("icarus-r", Mode::kIcarus, "s");
  engine->SetModel(replaced);
  EXPECT_EQ(engine->RequestsRetired("icarus-r"), 1);
  ASSERT_TRUE(engine->Submit(Ask(2, "icarus-r", prompt, 30)).ok());
  EXPECT_EQ(engine->RequestsRetired("icarus-r"), 1);
  while (engine->Step(now_, events)) {
  }
  std::map<RequestId, Outcome> outcomes;
  for (const EngineEvent& event : events) Take(event, outcomes);
  EXPECT_EQ(outcomes[1].tokens.at(0), ByDefinition(*old, prompt, 30));
  EXPECT_EQ(outcomes[2].tokens.at(0), ByDefinition(*replaced, prompt, 30));
  EXPECT_NE(outcomes[1].tokens.at(0), outcomes[2].tokens.at(0));
  EXPECT_EQ(engine->RequestsRetired("icarus-r"), 0);
}

TEST_F(ModesTest, RequestsOnAReplacedModelCanBeEnded) {
  auto engine = FamilyEngine({.blocks = 64});
  ASSERT_TRUE(engine->Submit(Ask(1, "standard-a", Prompt(50), 30)).ok());
  ASSERT_TRUE(engine->Submit(Ask(2, "standard-x", Prompt(50), 30)).ok());
  std::vector<EngineEvent> events;
  for (int i = 0; i < 5; ++i) engine->Step(now_, events);
  engine->SetModel(Load("standard-a", Mode::kStandard, "b"));
  events.clear();
  engine->CancelRetired("standard-a", absl::AbortedError("replaced"));
  while (engine->Step(now_, events)) {
  }
  std::map<RequestId, Outcome> outcomes;
  for (const EngineEvent& event : events) Take(event, outcomes);
  EXPECT_TRUE(outcomes[1].tokens.empty());
  EXPECT_EQ(outcomes[1].statuses.at(0), absl::AbortedError("replaced"));
  EXPECT_EQ(outcomes[2].reasons.at(0), FinishReason::kLength);
  ExpectAllBlocksFree(*engine);
}

TEST_F(ModesTest, AnUnloadedModelIsUnknownAndItsBlocksAreNotFoundByItsSuccessor) {
  auto engine = FamilyEngine({.blocks = 64});
  RunOne(*engine, Ask(1, "standard-a", Prompt(65), 1));
  ASSERT_TRUE(engine->RemoveModel("standard-a").ok());
  const absl::Status unknown = engine->Submit(Ask(2, "standard-a", Prompt(65), 1));
  EXPECT_TRUE(absl::IsNotFound(unknown));
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("icarus-r"));
  EXPECT_TRUE(absl::IsNotFound(engine->RemoveModel("standard-a")));
  engine->SetModel(Load("standard-a", Mode::kStandard, "b"));
  EXPECT_EQ(RunOne(*engine, Ask(3, "standard-a", Prompt(65), 1)).usage.cached_tokens, 0);
  engine->SetModel(models_["standard-a"]);
  EXPECT_EQ(RunOne(*engine, Ask(4, "standard-a", Prompt(65), 1)).usage.cached_tokens, 64);
}

TEST_F(ModesTest, APrefillForOtherWeightsIsRefused) {
  auto engine = FamilyEngine({.blocks = 64});
  const Digest other = models_["sun-x"]->prompt_writer.digest();
  const absl::Status status = engine->Submit(
      PrefillRequest{.id = 1, .model = "share-x", .writer = other, .tokens = Prompt(20)});
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(other.Short()));
}

}  // namespace
}  // namespace chorale
