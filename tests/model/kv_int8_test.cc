// Models whose keys and values are rounded to 8 bits: every block they write packs without loss,
// nothing else about them changes, and their digests keep them apart from exact ones.
#include <algorithm>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/formats/kv_codec.h"
#include "model/checkpoint/random_checkpoint.h"
#include "model/model_loader.h"
#include "tests/model/mode_run.h"
#include "tests/model/model_run.h"
#include "tests/testing/kernel_tables.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_family.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

using kernels::DType;

// Blocks as they come out of packing and unpacking.
void ReplaceByUnpacked(kernels::KvMemory kv, int blocks) {
  const int64_t bytes = kv.shape.block_bytes();
  std::vector<std::byte> packed(kernels::PackedBytes(kv.shape)), unpacked(bytes);
  for (int b = 0; b < blocks; ++b) {
    const std::span<std::byte> block(kv.data + b * bytes, bytes);
    const absl::Status status = kernels::PackBlock(kv.shape, block, packed);
    ASSERT_TRUE(status.ok()) << "block " << b << ": " << status;
    ASSERT_TRUE(kernels::UnpackBlock(kv.shape, packed, unpacked).ok());
    ASSERT_TRUE(std::equal(unpacked.begin(), unpacked.end(), block.begin())) << "block " << b;
    std::copy(unpacked.begin(), unpacked.end(), block.begin());
  }
}

class KvInt8Test : public testing::TestWithParam<std::string> {
 protected:
  KvInt8Test() : pool_(1) { WriteTinyFamily(folder_.path()); }

  // The models of the family by name.
  std::map<std::string, std::shared_ptr<const Model>> Load(bool kv_int8, DType dtype) {
    const absl::StatusOr<CatalogSpec> spec = ReadCatalog(folder_.path());
    EXPECT_TRUE(spec.ok()) << spec.status();
    const Transformer::Options options{
        .kernels = *kernels::FindKernels(GetParam()), .dtype = dtype, .kv_int8 = kv_int8};
    auto loader = ModelLoader::Open(spec->base, options, pool_, nullptr);
    EXPECT_TRUE(loader.ok()) << loader.status();
    auto models = loader->Load(spec->models, pool_);
    EXPECT_TRUE(models.ok()) << models.status();
    std::map<std::string, std::shared_ptr<const Model>> by_name;
    for (const auto& model : *models) by_name[model->name] = model;
    return by_name;
  }

  // As RunByDefinition, but the blocks are packed and unpacked before every token.
  std::vector<std::vector<float>> RunByWayOfCodes(const Model& model,
                                                  std::span<const TokenId> prompt,
                                                  std::span<const TokenId> output) {
    std::vector<TokenId> tokens(prompt.begin(), prompt.end());
    tokens.insert(tokens.end(), output.begin(), output.end());
    std::vector<kernels::BlockId> blocks(tokens.size() / kernels::kBlockTokens + 1);
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<int>(i);
    Memory memory(*model.predictor.transformer, static_cast<int>(blocks.size()));
    ForwardPass forward(pool_);
    std::vector<float> none;
    const BatchSequence all{.tokens = prompt.first(prompt.size() - 1),
                            .blocks = blocks,
                            .adapter = model.prompt_writer.adapter.get()};
    forward.Run(*model.prompt_writer.transformer, {&all, 1}, memory.kv(), none);
    std::vector<std::vector<float>> logits;
    for (size_t i = prompt.size() - 1; i + 1 < tokens.size(); ++i) {
      ReplaceByUnpacked(memory.kv(), static_cast<int>(blocks.size()));
      const BatchSequence row{.tokens = std::span(tokens).subspan(i, 1),
                              .context = static_cast<int>(i),
                              .blocks = blocks,
                              .adapter = model.output_writer.adapter.get(),
                              .reader = model.reader(),
                              .wants_logits = true};
      forward.Run(*model.predictor.transformer, {&row, 1}, memory.kv(), logits.emplace_back());
    }
    ReplaceByUnpacked(memory.kv(), static_cast<int>(blocks.size()));
    return logits;
  }

  TempFolder folder_;
  kernels::ThreadPool pool_;
};
INSTANTIATE_TEST_SUITE_P(EveryTable, KvInt8Test, testing::ValuesIn(KernelTableNames()),
                         NameOfTable);

TEST_P(KvInt8Test, PacksEveryBlockOfEveryModeAndReadsTheSameFromIt) {
  const std::vector<TokenId> prompt = Tokens(37, 6);
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [name, model] : Load(true, dtype)) {
      SCOPED_TRACE(name + std::string(" in ") + NameOf(dtype));
      const ModeRun want = RunByDefinition(*model, prompt, 5, pool_);
      EXPECT_EQ(RunByWayOfCodes(*model, prompt, want.tokens), want.logits);
    }
  }
}

TEST_P(KvInt8Test, StaysNearTheExactLogits) {
  const std::vector<TokenId> prompt = Tokens(50, 8);
  const auto exact = Load(false, DType::kF32);
  for (const auto& [name, model] : Load(true, DType::kF32)) {
    const std::vector<float> want = RunByDefinition(*exact.at(name), prompt, 1, pool_).logits[0];
    const std::vector<float> got = RunByDefinition(*model, prompt, 1, pool_).logits[0];
    float largest = 0, error = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      largest = std::max(largest, std::abs(want[i]));
      error = std::max(error, std::abs(want[i] - got[i]));
    }
    EXPECT_GT(error, 0) << name << ": nothing was rounded";
    EXPECT_LT(error, 0.05f * largest) << name;
  }
}

TEST_P(KvInt8Test, NamesItsModulesOtherwiseThanExactOnes) {
  const auto exact = Load(false, DType::kF32);
  const auto rounded = Load(true, DType::kF32);
  const auto again = Load(true, DType::kF32);
  for (const auto& [name, model] : rounded) {
    for (const auto& [other, exact_model] : exact) {
      EXPECT_NE(model->prompt_writer.digest(), exact_model->prompt_writer.digest()) << name;
      EXPECT_NE(model->output_writer.digest(), exact_model->output_writer.digest()) << name;
      EXPECT_NE(model->digest, exact_model->digest) << name << " " << other;
    }
    EXPECT_EQ(model->prompt_writer.digest(), again.at(name)->prompt_writer.digest()) << name;
    EXPECT_EQ(model->digest, again.at(name)->digest) << name;
    // Whoever shared before still shares.
    for (const auto& [other, other_model] : rounded) {
      EXPECT_EQ(model->prompt_writer.digest() == other_model->prompt_writer.digest(),
                exact.at(name)->prompt_writer.digest() == exact.at(other)->prompt_writer.digest())
          << name << " " << other;
    }
  }
}

TEST_P(KvInt8Test, GivesTheSameInChunksOfAnySizeAndInAnyCompany) {
  const auto models = Load(true, DType::kBF16);
  const Transformer& model = *models.at("base")->predictor.transformer;
  const std::vector<TokenId> prompt = Tokens(67, 5), other = Tokens(20, 9);
  const std::vector<float> alone = LogitsOf(model, prompt);
  for (int chunk : {1, 7, 16, 33}) EXPECT_EQ(LogitsOf(model, prompt, chunk), alone) << chunk;

  Memory memory(model, 8);
  const std::vector<kernels::BlockId> blocks = {7, 0, 3, 5, 2}, other_blocks = {1, 6};
  const std::vector<BatchSequence> batch = {
      {.tokens = other, .blocks = other_blocks},
      {.tokens = prompt, .blocks = blocks, .wants_logits = true}};
  EXPECT_EQ(RunBatch(model, batch, memory.kv()), alone);
}

}  // namespace
}  // namespace chorale
