// The shipped family in every mode, judged by its training's own forward pass
// (training/modes_golden.py).
#include <cmath>
#include <map>

#include <gtest/gtest.h>

#include "base/json.h"
#include "model/model_loader.h"
#include "tests/model/mode_run.h"
#include "tests/testing/kernel_tables.h"

namespace chorale {
namespace {

constexpr char kFamily[] = "../models/family";
constexpr float kBound = 1e-3f;

void ExpectNear(const std::vector<float>& logits, const std::vector<float>& golden) {
  ASSERT_EQ(logits.size(), golden.size());
  float worst = 0;
  for (size_t i = 0; i < golden.size(); ++i) {
    worst = std::max(worst, std::abs(logits[i] - golden[i]));
  }
  EXPECT_LE(worst, kBound);
}

class ModesGoldenTest : public testing::TestWithParam<std::string> {};

TEST_P(ModesGoldenTest, EveryModeGivesTheIdsAndLogitsOfItsTraining) {
  kernels::ThreadPool pool(2);
  const auto catalog = ReadCatalog(kFamily);
  ASSERT_TRUE(catalog.ok()) << catalog.status();
  const auto loader = ModelLoader::Open(
      catalog->base, {.kernels = *kernels::FindKernels(GetParam()), .dtype = kernels::DType::kF32},
      pool, nullptr);
  ASSERT_TRUE(loader.ok()) << loader.status();
  const auto models = loader->Load(catalog->models, pool);
  ASSERT_TRUE(models.ok()) << models.status();
  std::map<std::string, std::shared_ptr<const Model>> by_name;
  for (const auto& model : *models) by_name[model->name] = model;

  const absl::StatusOr<Json> golden = ParseJsonFile(std::string(kFamily) + "/modes_golden.json");
  ASSERT_TRUE(golden.ok()) << golden.status();
  std::map<std::string, int> modes;
  for (const Json& record : (*golden)["models"]) {
    const std::string name = record["model"];
    SCOPED_TRACE(name);
    ASSERT_TRUE(by_name.contains(name));
    const Model& model = *by_name[name];
    EXPECT_EQ(NameOf(model.mode), record["mode"]);
    ++modes[record["mode"]];
    std::vector<TokenId> ids = record["output_ids"];
    if (record["ended"]) ids.push_back(model.predictor.transformer->config().eos_ids.at(0));
    const std::vector<TokenId> prompt = record["prompt_ids"];
    const ModeRun run = RunByDefinition(model, prompt, static_cast<int>(ids.size()), pool);
    EXPECT_EQ(run.tokens, ids);
    ExpectNear(run.logits.at(0), record["first_logits"]);
    ExpectNear(run.logits.at(1), record["second_logits"]);
  }
  EXPECT_EQ(modes.size(), 4u);
}

INSTANTIATE_TEST_SUITE_P(Kernels, ModesGoldenTest, testing::ValuesIn(KernelTableNames()),
                         NameOfTable);

}  // namespace
}  // namespace chorale
