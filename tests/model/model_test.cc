// Whole models under the reference kernels: what a batch may not change, and what a digest names.
#include <algorithm>
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/checkpoint/random_checkpoint.h"
#include "model/transformer.h"
#include "tests/model/checkpoint/safetensors_file.h"
#include "tests/model/model_run.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

using testing::HasSubstr;

// A tiny model in a folder, to be loaded as it is or changed.
class ModelTest : public testing::Test {
 protected:
  ModelTest() : pool_(1) { WriteRandom(TinyConfig(), kernels::DType::kF32); }

  void WriteRandom(const ModelConfig& config, kernels::DType dtype) {
    const absl::Status status = WriteRandomCheckpoint(folder_.path(), config, dtype, /*seed=*/3);
    ASSERT_TRUE(status.ok()) << status;
  }
  absl::StatusOr<std::unique_ptr<const Transformer>> Load(
      std::optional<kernels::DType> dtype = kernels::DType::kF32) {
    return Transformer::Load(
        folder_.path(), {.kernels = *kernels::FindKernels("reference"), .dtype = dtype}, pool_);
  }
  std::unique_ptr<const Transformer> MustLoad(
      std::optional<kernels::DType> dtype = kernels::DType::kF32) {
    auto model = Load(dtype);
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }
  std::vector<FileTensor> Tensors() {
    auto checkpoint = Checkpoint::Open(folder_.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return TensorsOf(**checkpoint);
  }
  void Write(const std::vector<FileTensor>& tensors, const char* name = "model.safetensors") {
    WriteFile(folder_.path() + "/" + name, SafetensorsBytes(tensors));
  }
  void ChangeConfig(const char* field, const Json& value) {
    const std::string path = folder_.path() + "/config.json";
    Json json = *ParseJsonFile(path);
    json[field] = value;
    WriteFile(path, json.dump());
  }

  TempFolder folder_;
  kernels::ThreadPool pool_;
};

TEST_F(ModelTest, GivesEverySequenceOfABatchWhatItGetsAlone) {
  const auto model = MustLoad();
  const std::vector<std::vector<TokenId>> prompts = {Tokens(5, 1), Tokens(40, 2), Tokens(1, 3),
                                                     Tokens(17, 4)};
  std::vector<std::vector<float>> alone;
  for (const auto& prompt : prompts) alone.push_back(LogitsOf(*model, prompt));

  // All but their last tokens first; then the last rows together, with another chunk between.
  Memory memory(*model, 16);
  std::vector<BatchSequence> batch;
  const std::vector<std::vector<kernels::BlockId>> blocks = {{7}, {3, 0, 12}, {5}, {1, 15}};
  std::vector<float> logits;
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].size() == 1) continue;
    batch.push_back(
        {.tokens = std::span(prompts[i]).first(prompts[i].size() - 1), .blocks = blocks[i]});
  }
  logits = RunBatch(*model, batch, memory.kv());
  EXPECT_TRUE(logits.empty());
  batch.clear();
  const std::vector<TokenId> chunk = Tokens(20, 9);
  const std::vector<kernels::BlockId> chunk_blocks = {9, 8};
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (i == 2) batch.push_back({.tokens = chunk, .blocks = chunk_blocks});
    batch.push_back({.tokens = std::span(prompts[i]).last(1),
                     .context = static_cast<int>(prompts[i].size()) - 1,
                     .blocks = blocks[i],
                     .wants_logits = true});
  }
  logits = RunBatch(*model, batch, memory.kv());
  ASSERT_EQ(logits.size(), prompts.size() * kTinyVocab);
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<float> row(logits.begin() + i * kTinyVocab,
                                 logits.begin() + (i + 1) * kTinyVocab);
    EXPECT_EQ(row, alone[i]) << "sequence " << i;
  }
}

TEST_F(ModelTest, GivesTheSameInChunksOfAnySize) {
  const auto model = MustLoad();
  const std::vector<TokenId> prompt = Tokens(67, 5);
  const std::vector<float> whole = LogitsOf(*model, prompt);
  for (int chunk : {1, 2, 7, 16, 33}) EXPECT_EQ(LogitsOf(*model, prompt, chunk), whole) << chunk;
}

TEST_F(ModelTest, KeepsDigestsAsLongAsTheFileIsTheSame) {
  const TempFolder cache;
  const auto digest = [&] {
    auto model = Transformer::Load(
        folder_.path(),
        {.kernels = *kernels::FindKernels("reference"), .digest_cache = cache.path() + "/digests"},
        pool_);
    EXPECT_TRUE(model.ok()) << model.status();
    return (*model)->digest();
  };
  const auto files = [&] {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(cache.path() + "/digests")) {
      paths.push_back(entry.path());
    }
    return paths;
  };
  const Digest first = digest();
  EXPECT_EQ(first, MustLoad()->digest());
  ASSERT_EQ(files().size(), 1u);
  // What is known is believed: another word for one tensor shows in the digest.
  Json known = *ParseJsonFile(files()[0].string());
  known["model.norm.weight"] = Digest().ToHex();
  WriteFile(files()[0].string(), known.dump());
  EXPECT_NE(digest(), first);
  // A damaged entry is none.
  WriteFile(files()[0].string(), "{\"model.norm.weight\": 7");
  EXPECT_EQ(digest(), first);
  // New weights in the same place are not the old ones.
  ASSERT_TRUE(
      WriteRandomCheckpoint(folder_.path(), TinyConfig(), kernels::DType::kF32, /*seed=*/4).ok());
  EXPECT_NE(digest(), first);
  EXPECT_EQ(files().size(), 2u);
}

TEST_F(ModelTest, GivesNothingForAnEmptyBatch) {
  const auto model = MustLoad();
  Memory memory(*model, 1);
  EXPECT_TRUE(RunBatch(*model, {}, memory.kv()).empty());
}

TEST_F(ModelTest, MixesAdaptersInOneBatch) {
  const auto model = MustLoad();
  const TempFolder a_folder, b_folder;
  ASSERT_TRUE(WriteRandomAdapter(a_folder.path(), TinyConfig(), 4, 8, 1).ok());
  ASSERT_TRUE(WriteRandomAdapter(b_folder.path(), TinyConfig(), 2, 8, 2).ok());
  const auto a = model->LoadAdapter(a_folder.path(), pool_);
  const auto b = model->LoadAdapter(b_folder.path(), pool_);
  ASSERT_TRUE(a.ok() && b.ok());
  const std::vector<TokenId> prompt = Tokens(9, 6);
  const Adapter* adapters[] = {a->get(), nullptr, nullptr, b->get(), a->get()};
  Memory memory(*model, 5);
  const std::vector<kernels::BlockId> blocks = {0, 1, 2, 3, 4};
  std::vector<BatchSequence> batch;
  for (int i = 0; i < 5; ++i) {
    batch.push_back({.tokens = prompt,
                     .blocks = std::span(blocks).subspan(i, 1),
                     .adapter = adapters[i],
                     .wants_logits = i != 2});
  }
  const std::vector<float> logits = RunBatch(*model, batch, memory.kv());
  ASSERT_EQ(logits.size(), 4u * kTinyVocab);
  int row = 0;
  for (int i : {0, 1, 3, 4}) {
    const auto begin = logits.begin() + row++ * kTinyVocab;
    EXPECT_EQ(std::vector<float>(begin, begin + kTinyVocab),
              LogitsOf(*model, prompt, 0, adapters[i]))
        << i;
  }
  EXPECT_NE(LogitsOf(*model, prompt, 0, adapters[0]), LogitsOf(*model, prompt));
}

TEST_F(ModelTest, RefusesTensorsThatItWouldLeaveOut) {
  std::vector<FileTensor> tensors = Tensors();
  tensors.push_back({"model.layers.1.self_attn.q_proj.bias", "F32", {32}, std::string(128, '\0')});
  Write(tensors);
  const auto model = Load();
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(model.status().message()),
              HasSubstr("tensor 'model.layers.1.self_attn.q_proj.bias' is in the checkpoint"));
}

TEST_F(ModelTest, RefusesMissingAndMisshapenTensors) {
  const std::vector<FileTensor> tensors = Tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    std::vector<FileTensor> changed = tensors;
    changed.erase(changed.begin() + i);
    Write(changed);
    const absl::Status missing = Load().status();
    EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(std::string(missing.message()),
                HasSubstr("tensor '" + tensors[i].name + "' is missing"));
    changed = tensors;
    changed[i].shape.push_back(1);
    Write(changed);
    const absl::Status misshapen = Load().status();
    EXPECT_EQ(misshapen.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(misshapen.message()), HasSubstr("'" + tensors[i].name + "': expected"));
  }
}

TEST_F(ModelTest, LeavesRotaryTablesAlone) {
  std::vector<FileTensor> tensors = Tensors();
  tensors.push_back(
      {"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {4}, std::string(16, 'x')});
  const Digest before = MustLoad()->digest();
  Write(tensors);
  EXPECT_EQ(MustLoad()->digest(), before);
}

// A header of any length leaves tensors at any alignment.
TEST_F(ModelTest, ReadsTensorsAtAnyAlignment) {
  const std::vector<FileTensor> tensors = Tensors();
  const std::vector<float> expected = LogitsOf(*MustLoad(), Tokens(5, 1));
  for (int shift = 1; shift < 4; ++shift) {
    std::string file = SafetensorsBytes(tensors);
    uint64_t header_bytes;
    std::memcpy(&header_bytes, file.data(), 8);
    const std::string data = file.substr(8 + header_bytes);
    const std::string header = file.substr(8, header_bytes) + std::string(shift, ' ');
    WriteFile(folder_.path() + "/model.safetensors", SafetensorsBytes(header, data));
    EXPECT_EQ(LogitsOf(*MustLoad(), Tokens(5, 1)), expected);
  }
}

TEST_F(ModelTest, TakesTheDTypeOfItsEmbedding) {
  EXPECT_EQ(MustLoad(std::nullopt)->kv_shape().dtype, kernels::DType::kF32);
  WriteRandom(TinyConfig(), kernels::DType::kBF16);
  EXPECT_EQ(MustLoad(std::nullopt)->kv_shape().dtype, kernels::DType::kBF16);
  WriteRandom(TinyConfig(), kernels::DType::kF16);
  EXPECT_EQ(MustLoad(std::nullopt)->kv_shape().dtype, kernels::DType::kF32);
}

TEST_F(ModelTest, ReportsProgressUpToTheWhole) {
  std::vector<double> shares;
  const auto model =
      Transformer::Load(folder_.path(), {.kernels = *kernels::FindKernels("reference")}, pool_,
                        [&](double share) { shares.push_back(share); });
  ASSERT_TRUE(model.ok());
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
  EXPECT_EQ(shares.back(), 1);
}

TEST_F(ModelTest, NamesOtherModulesByOtherDigests) {
  const Digest digest = MustLoad()->digest();
  EXPECT_EQ(MustLoad()->digest(), digest);
  EXPECT_NE(MustLoad(kernels::DType::kBF16)->digest(), digest);

  const std::vector<FileTensor> tensors = Tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    std::vector<FileTensor> changed = tensors;
    changed[i].bytes.back() ^= 1;
    Write(changed);
    EXPECT_NE(MustLoad()->digest(), digest) << "one bit of " << tensors[i].name;
  }
  Write(tensors);
  EXPECT_EQ(MustLoad()->digest(), digest);
  ChangeConfig("rope_theta", 10001);
  EXPECT_NE(MustLoad()->digest(), digest);
  ChangeConfig("rope_theta", 10000);
  ChangeConfig("rope_scaling", {{"type", "linear"}, {"factor", 2}});
  EXPECT_NE(MustLoad()->digest(), digest);
  ChangeConfig("rope_scaling", nullptr);
  ChangeConfig("rms_norm_eps", 1e-5);
  EXPECT_NE(MustLoad()->digest(), digest);
  ChangeConfig("rms_norm_eps", 1e-6);
  ChangeConfig("eos_token_id", 3);  // changes no keys and values
  EXPECT_EQ(MustLoad()->digest(), digest);
}

TEST_F(ModelTest, NamesTheSameWeightsAlikeHoweverTheyAreSharded) {
  const Digest digest = MustLoad()->digest();
  const std::vector<FileTensor> tensors = Tensors();
  std::filesystem::remove(folder_.path() + "/model.safetensors");
  std::vector<FileTensor> shards[3];
  Json map = Json::object();
  for (size_t i = 0; i < tensors.size(); ++i) {
    shards[i % 3].push_back(tensors[i]);
    map[tensors[i].name] = "part-" + std::to_string(i % 3) + ".safetensors";
  }
  for (int i = 0; i < 3; ++i) {
    Write(shards[i], ("part-" + std::to_string(i) + ".safetensors").c_str());
  }
  WriteFile(folder_.path() + "/model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  EXPECT_EQ(MustLoad()->digest(), digest);
}

TEST_F(ModelTest, NamesATensorThatItHasNoPlaceFor) {
  const std::vector<FileTensor> tensors = Tensors();
  const auto status = [&](const std::string& name) {
    std::vector<FileTensor> more = tensors;
    more.push_back({name, "F32", {1}, "1234"});
    Write(more);
    return Load().status();
  };
  for (const char* name :
       {"model.layers.0.self_attn.q_proj.bias", "model.layers.2.mlp.up_proj.weight", "lm_head.bias",
        "model.norm.bias", "visual.patch_embed.weight"}) {
    EXPECT_EQ(status(name).code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status(name).message()), HasSubstr(name));
  }
  // What the reference library passes over too; the tiny model's embeddings are tied.
  EXPECT_TRUE(status("model.layers.0.self_attn.rotary_emb.inv_freq").ok());
  EXPECT_TRUE(status("lm_head.weight").ok());
}

}  // namespace
}  // namespace chorale
