// Real weights against what an independent implementation computed with them.
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "base/json.h"
#include "model/forward.h"
#include "tests/testing/kernel_tables.h"

namespace chorale {
namespace {

class GoldenTest : public testing::TestWithParam<std::string> {
 protected:
  struct Run {
    std::vector<TokenId> ids;
    std::vector<float> first_logits;
  };

  static Json ReadJson(const std::string& path) {
    std::ifstream file(path);
    return Json::parse(file);
  }

  // Greedy tokens after a prompt, one row at a time.
  static Run Greedy(const std::string& folder, const std::vector<TokenId>& prompt, int tokens) {
    kernels::ThreadPool pool(2);
    const Transformer::Options options{.kernels = *kernels::FindKernels(GetParam()),
                                       .dtype = kernels::DType::kF32};
    auto model = Transformer::Load(folder, options, pool);
    EXPECT_TRUE(model.ok()) << model.status();
    std::vector<kernels::BlockId> blocks((prompt.size() + tokens) / kernels::kBlockTokens + 1);
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<int>(blocks.size() - 1 - i);
    const kernels::KvShape shape = (*model)->kv_shape();
    kernels::Buffer memory(shape.block_bytes() * blocks.size());
    Run run;
    std::vector<TokenId> next = prompt;
    int context = 0;
    ForwardPass forward(pool);
    std::vector<float> logits;
    while (static_cast<int>(run.ids.size()) < tokens) {
      const BatchSequence row{
          .tokens = next, .context = context, .blocks = blocks, .wants_logits = true};
      logits.clear();
      forward.Run(**model, {&row, 1}, {memory.data(), shape}, logits);
      if (run.ids.empty()) run.first_logits = logits;
      context += static_cast<int>(next.size());
      next = {(*model)->kernels().argmax(logits.data(), static_cast<int>(logits.size()))};
      run.ids.push_back(next[0]);
    }
    return run;
  }

  static void ExpectNear(const std::vector<float>& logits, const std::vector<float>& golden,
                         float bound) {
    ASSERT_EQ(logits.size(), golden.size());
    float worst = 0;
    for (size_t i = 0; i < golden.size(); ++i) {
      worst = std::max(worst, std::abs(logits[i] - golden[i]));
    }
    EXPECT_LE(worst, bound);
  }
};

TEST_P(GoldenTest, Stories260kGivesItsGoldenIdsAndLogits) {
  const char* data = std::getenv("CHORALE_SHARED_DATA");
  const std::string folder = std::string(data == nullptr ? "" : data) + "/models/stories260K";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "skipped: no " << folder;
  const Json golden = ReadJson(folder + "/golden_greedy.json");
  const std::vector<TokenId> ids = golden["greedy_ids"];
  const Run run = Greedy(folder, golden["prompt_ids"], static_cast<int>(ids.size()));
  EXPECT_EQ(run.ids, ids);
  ExpectNear(run.first_logits, golden["first_logits"], 1e-4f);
}

// models/base: a Qwen2 with biases and tied embeddings, judged by its training's own forward pass.
TEST_P(GoldenTest, TheBaseModelGivesItsGoldenIdsAndLogits) {
  const std::string folder = "../models/base";
  const Json golden = ReadJson(folder + "/golden.json");
  ASSERT_FALSE(golden["completions"].empty());
  for (const Json& completion : golden["completions"]) {
    SCOPED_TRACE(completion["text"].get<std::string>());
    const std::vector<TokenId> ids = completion["greedy_ids"];
    const Run run = Greedy(folder, completion["ids"], static_cast<int>(ids.size()));
    if (completion["margin_min"] > 1e-2) {
      EXPECT_EQ(run.ids, ids);
    }
    const std::vector<TokenId> top_ids = completion["first_top_ids"];
    std::vector<float> top_logits;
    for (TokenId id : top_ids) top_logits.push_back(run.first_logits[id]);
    ExpectNear(top_logits, completion["first_top_logits"], 1e-3f);
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, GoldenTest, testing::ValuesIn(KernelTableNames()), NameOfTable);

}  // namespace
}  // namespace chorale
