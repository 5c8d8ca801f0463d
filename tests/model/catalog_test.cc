// chorale.yaml, and the models that are made of it.
#include <filesystem>
#include <fstream>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "model/checkpoint/random_checkpoint.h"
#include "model/model_loader.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_family.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string ErrorOf(const std::string& yaml) {
  const absl::Status status = ParseCatalog(yaml, "/family", "chorale.yaml").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status << "\n" << yaml;
  return std::string(status.message());
}

TEST(CatalogTest, ReadsModulesModelsAndModes) {
  const auto spec = ParseCatalog(R"(
version: 1
base: base
modules:
  - {name: m, adapter: math/lora}
  - {name: f, weights: ../full}
  - {name: q, quantize: int4}
models:
  - name: base
  - {name: math, mode: icarus, module: m}
  - {name: fast, mode: sun, module: f, decoder: q}
)",
                                 "/family", "chorale.yaml");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->base, "/family/base");
  ASSERT_EQ(spec->models.size(), 3u);
  EXPECT_TRUE(spec->models[0].module.is_base());
  EXPECT_EQ(spec->models[0].mode, Mode::kStandard);
  EXPECT_EQ(spec->models[1].mode, Mode::kIcarus);
  EXPECT_EQ(spec->models[1].module.adapter, "/family/math/lora");
  EXPECT_EQ(spec->models[2].module.weights, "/full");
  EXPECT_EQ(spec->models[2].decoder.quantization, kernels::DType::kI4);
}

TEST(CatalogTest, NamesTheLineAndTheFieldAtFault) {
  const std::string head = "version: 1\nbase: base\n";
  EXPECT_THAT(ErrorOf(head + "models: [{name: a, mod: sun}]"),
              AllOf(HasSubstr("chorale.yaml: line 3"), HasSubstr("'mod'"), HasSubstr("mode")));
  EXPECT_THAT(ErrorOf(head + "models: [{name: a, mode: fast}]"), HasSubstr("icarus"));
  EXPECT_THAT(ErrorOf(head + "models: [{name: a, module: x}]"),
              AllOf(HasSubstr("'x'"), HasSubstr("base")));
  EXPECT_THAT(ErrorOf(head + "models: [{mode: sun}]"), HasSubstr("'name' is missing"));
  EXPECT_THAT(ErrorOf(head + "models: [{name: 'a b'}]"), HasSubstr("without blanks"));
  EXPECT_THAT(ErrorOf(head + "models: [{name: \"a\\nb\"}]"), HasSubstr("a\\nb"));
  EXPECT_THAT(ErrorOf(head + "models: [{name: " + std::string(129, 'n') + "}]"),
              HasSubstr("1 to 128"));
  EXPECT_THAT(ErrorOf(head + "modules: [{name: m, adapter: a}]\n"
                             "models: [{name: a, mode: sun, decoder: m}]"),
              HasSubstr("no adapter"));
  EXPECT_THAT(ErrorOf(head + "models: [{name: a}, {name: a}]"), HasSubstr("twice"));
  EXPECT_THAT(ErrorOf(head + "models: [{name: a, name: b}]"), HasSubstr("twice"));
  EXPECT_THAT(ErrorOf(head + "models: []"), HasSubstr("at least one"));
  EXPECT_THAT(ErrorOf(head), HasSubstr("'models'"));
  EXPECT_THAT(ErrorOf("version: 2\nbase: b\n"), HasSubstr("reads 1"));
  EXPECT_THAT(ErrorOf("base: b\n"), HasSubstr("'version' is missing"));
  EXPECT_THAT(ErrorOf("version: 1\nmodels: [{name: a}]\n"), HasSubstr("'base'"));
  EXPECT_THAT(ErrorOf(head + "models: 7"), HasSubstr("expected a list"));
  EXPECT_THAT(ErrorOf(head + "modules: [{name: m}]\nmodels: [{name: a}]"), HasSubstr("adapter"));
  EXPECT_THAT(ErrorOf(head + "modules: [{name: m, adapter: a, weights: w}]\nmodels: [{name: a}]"),
              HasSubstr("as it is"));
  EXPECT_THAT(ErrorOf(head + "modules: [{name: m, quantize: int3}]\nmodels: [{name: a}]"),
              HasSubstr("int8 or int4"));
  EXPECT_THAT(ErrorOf(head + "modules: [{name: base, adapter: a}]\nmodels: [{name: a}]"),
              HasSubstr("taken"));
  EXPECT_THAT(ErrorOf(head + "modules: [{name: q, quantize: int4}]\n"
                             "models: [{name: a, decoder: q}]"),
              HasSubstr("mode sun"));
  EXPECT_THAT(ErrorOf("a: [b"), HasSubstr("line 1"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("expected fields"));
  EXPECT_THAT(ErrorOf("[1, 2]"), HasSubstr("expected fields"));
}

TEST(CatalogTest, SaysWhereItLooked) {
  const absl::Status status = ReadCatalog("/nowhere").status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere"));
}

class LoaderTest : public testing::Test {
 protected:
  LoaderTest() : pool_(1) {
    WriteTinyFamily(folder_.path());
    auto loader = ModelLoader::Open(In("base"), {.kernels = *kernels::FindKernels("reference")},
                                    pool_, nullptr);
    EXPECT_TRUE(loader.ok()) << loader.status();
    loader_ = *std::move(loader);
  }

  std::string In(const std::string& name) const { return folder_.path() + "/" + name; }
  absl::StatusOr<std::shared_ptr<const Model>> Load(Mode mode, const ModuleSpec& module) {
    auto models = loader_->Load({{.name = "m", .mode = mode, .module = module}}, pool_);
    if (!models.ok()) return models.status();
    return models->front();
  }
  std::string RefusalOf(Mode mode, const ModuleSpec& module) {
    const absl::Status status = Load(mode, module).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  }
  // A model folder like the base but for `change`.
  ModuleSpec Changed(const std::function<void(ModelConfig&)>& change) {
    ModelConfig config = TinyConfig();
    change(config);
    std::filesystem::create_directory(In("changed"));
    EXPECT_TRUE(
        WriteRandomCheckpoint(In("changed"), config, kernels::DType::kF32, /*seed=*/9).ok());
    return {.name = "changed", .weights = In("changed")};
  }

  TempFolder folder_;
  mutable kernels::ThreadPool pool_;
  std::optional<ModelLoader> loader_;
};

TEST_F(LoaderTest, GivesEachModeItsThreeModules) {
  const Digest base = loader_->base().digest();
  const ModuleSpec full{.name = "x", .weights = In("x")};
  const ModuleSpec reader{.name = "r", .adapter = In("r")};
  const auto standard = *Load(Mode::kStandard, full);
  const Digest m = standard->prompt_writer.digest();
  EXPECT_NE(m, base);
  EXPECT_EQ(standard->output_writer.digest(), m);
  EXPECT_EQ(standard->predictor.digest(), m);
  const auto share = *Load(Mode::kPrefillShare, full);
  EXPECT_EQ(share->prompt_writer.digest(), base);
  EXPECT_EQ(share->output_writer.digest(), m);
  EXPECT_EQ(share->reader(), nullptr);
  const auto sun = *Load(Mode::kSun, full);
  EXPECT_EQ(sun->prompt_writer.digest(), m);
  EXPECT_EQ(sun->predictor.digest(), base);
  const auto icarus = *Load(Mode::kIcarus, reader);
  EXPECT_EQ(icarus->prompt_writer.digest(), base);
  EXPECT_EQ(icarus->output_writer.digest(), base);
  EXPECT_NE(icarus->predictor.digest(), base);
  EXPECT_EQ(icarus->reader(), icarus->predictor.adapter.get());
}

TEST_F(LoaderTest, APrefillWorkersModelWritesPromptsAsTheWholeModelDoes) {
  const CatalogSpec catalog = *ReadCatalog(folder_.path());
  ASSERT_EQ(catalog.models.size(), TinyFamilyModels().size());
  for (const ModelSpec& spec : catalog.models) {
    const auto whole = loader_->Load({spec}, pool_);
    const auto part = loader_->Load({PromptWriterOf(spec)}, pool_);
    ASSERT_TRUE(whole.ok() && part.ok()) << spec.name;
    EXPECT_EQ((*whole)[0]->prompt_writer.digest(), (*part)[0]->prompt_writer.digest()) << spec.name;
  }
}

TEST_F(LoaderTest, VersionsAModelByItsModulesNotByItsName) {
  const ModuleSpec reader{.name = "r", .adapter = In("r")};
  const Digest first = (*Load(Mode::kIcarus, reader))->digest;
  EXPECT_EQ((*Load(Mode::kIcarus, reader))->digest, first);
  EXPECT_NE((*Load(Mode::kStandard, reader))->digest, first);
  EXPECT_NE((*Load(Mode::kIcarus, {.name = "r", .adapter = In("s")}))->digest, first);
  // The same folder with other bytes is another version.
  std::filesystem::remove_all(In("r"));
  std::filesystem::copy(In("s"), In("r"));
  EXPECT_NE((*Load(Mode::kIcarus, reader))->digest, first);
}

TEST_F(LoaderTest, LoadsWhatSeveralModelsShareOnce) {
  const ModuleSpec full{.name = "x", .weights = In("x")};
  auto models = *loader_->Load(
      {{.name = "a", .module = full}, {.name = "b", .mode = Mode::kPrefillShare, .module = full}},
      pool_);
  EXPECT_EQ(models[0]->predictor.transformer, models[1]->predictor.transformer);
}

TEST_F(LoaderTest, RefusesModulesThatCannotShareTheBasesCache) {
  EXPECT_THAT(RefusalOf(Mode::kPrefillShare, Changed([](ModelConfig& c) { c.layers = 3; })),
              AllOf(HasSubstr("model 'm'"), HasSubstr("3 layers"), HasSubstr("2 layers")));
  EXPECT_THAT(RefusalOf(Mode::kSun, Changed([](ModelConfig& c) { c.kv_heads = c.heads; })),
              HasSubstr("key heads"));
  EXPECT_THAT(RefusalOf(Mode::kStandard, Changed([](ModelConfig& c) { c.vocab = 300; })),
              AllOf(HasSubstr("300"), HasSubstr("260")));
  EXPECT_THAT(RefusalOf(Mode::kPrefillShare, Changed([](ModelConfig& c) { c.rope_theta = 5e5; })),
              HasSubstr("rope_theta 500000"));
  EXPECT_THAT(RefusalOf(Mode::kSun, Changed([](ModelConfig& c) { c.positions_max = 64; })),
              AllOf(HasSubstr("64 tokens"), HasSubstr("2048")));
  std::ofstream(In("x/tokenizer.json")) << "{}";
  EXPECT_THAT(RefusalOf(Mode::kStandard, {.name = "x", .weights = In("x")}),
              AllOf(HasSubstr("x/tokenizer.json"), HasSubstr("module 'x'")));
}

TEST_F(LoaderTest, RefusesReadersThatWouldNotBeReaders) {
  EXPECT_THAT(RefusalOf(Mode::kIcarus, {.name = "a", .adapter = In("a")}), HasSubstr("k_proj"));
  EXPECT_THAT(RefusalOf(Mode::kIcarus, {.name = "x", .weights = In("x")}),
              HasSubstr("must be an adapter"));
}

TEST_F(LoaderTest, SaysWhichModuleIsMissing) {
  const absl::Status status =
      Load(Mode::kStandard, {.name = "gone", .adapter = In("gone")}).status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("module 'gone'"), HasSubstr("/gone")));
}

}  // namespace
}  // namespace chorale
