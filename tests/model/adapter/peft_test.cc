// LoRA adapters, judged by models whose weights were merged by hand.
#include "model/adapter/peft.h"

#include <cmath>
#include <cstring>
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/checkpoint/random_checkpoint.h"
#include "model/linears.h"
#include "model/transformer.h"
#include "tests/model/checkpoint/safetensors_file.h"
#include "tests/model/model_run.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

using testing::HasSubstr;

constexpr int kRank = 4;
constexpr double kAlpha = 6;

std::vector<float> Floats(const FileTensor& tensor) {
  std::vector<float> values(tensor.bytes.size() / 4);
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

const FileTensor& Named(const std::vector<FileTensor>& tensors, const std::string& name) {
  for (const FileTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  ADD_FAILURE() << name;
  return tensors.front();
}

class PeftTest : public testing::Test {
 protected:
  PeftTest() : pool_(1) {
    EXPECT_TRUE(WriteRandomCheckpoint(base_.path(), TinyConfig(), kernels::DType::kF32, 11).ok());
    EXPECT_TRUE(WriteRandomAdapter(adapter_.path(), TinyConfig(), kRank, kAlpha, 12).ok());
    model_ = Load(base_.path());
  }

  std::unique_ptr<const Transformer> Load(const std::string& folder) {
    auto model = Transformer::Load(
        folder, {.kernels = *kernels::FindKernels("reference"), .dtype = kernels::DType::kF32},
        pool_);
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }
  std::vector<FileTensor> AdapterTensors() const {
    return TensorsOf(**Checkpoint::OpenFile(TensorsPath()));
  }
  std::string TensorsPath() const { return adapter_.path() + "/adapter_model.safetensors"; }
  void ChangeConfig(const char* field, const Json& value) {
    const std::string path = adapter_.path() + "/adapter_config.json";
    Json json = *ParseJsonFile(path);
    json[field] = value;
    WriteFile(path, json.dump());
  }
  void ExpectRefused(absl::StatusCode code, const std::string& message) const {
    const absl::Status status = model_->LoadAdapter(adapter_.path(), pool_).status();
    EXPECT_EQ(status.code(), code) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  // The base with scale * b a added to the weights of every layer that the adapter has.
  std::unique_ptr<const Transformer> Merged(double scale) {
    std::vector<FileTensor> tensors = TensorsOf(**Checkpoint::Open(base_.path()));
    const std::vector<FileTensor> low_rank = AdapterTensors();
    for (FileTensor& tensor : tensors) {
      const std::string module =
          "base_model.model." + tensor.name.substr(0, tensor.name.rfind('.'));
      const bool targeted = std::any_of(low_rank.begin(), low_rank.end(), [&](const FileTensor& t) {
        return t.name == module + ".lora_A.weight";
      });
      if (!targeted) continue;
      const std::vector<float> a = Floats(Named(low_rank, module + ".lora_A.weight"));
      const std::vector<float> b = Floats(Named(low_rank, module + ".lora_B.weight"));
      std::vector<float> w = Floats(tensor);
      const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t col = 0; col < cols; ++col) {
          double update = 0;
          for (int r = 0; r < kRank; ++r) update += double{b[row * kRank + r]} * a[r * cols + col];
          w[row * cols + col] += static_cast<float>(scale * update);
        }
      }
      std::memcpy(tensor.bytes.data(), w.data(), tensor.bytes.size());
    }
    const TempFolder folder;
    std::filesystem::copy_file(base_.path() + "/config.json", folder.path() + "/config.json");
    WriteFile(folder.path() + "/model.safetensors", SafetensorsBytes(tensors));
    return Load(folder.path());
  }

  void ExpectActsAsMerged(double scale) {
    const auto adapter = model_->LoadAdapter(adapter_.path(), pool_);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    const auto merged = Merged(scale);
    const std::vector<TokenId> prompt = Tokens(37, 8);
    const std::vector<float> plain = LogitsOf(*model_, prompt);
    const std::vector<float> adapted = LogitsOf(*model_, prompt, 16, adapter->get());
    const std::vector<float> expected = LogitsOf(*merged, prompt);
    float worst = 0, moved = 0;
    for (int i = 0; i < kTinyVocab; ++i) {
      worst = std::max(worst, std::abs(adapted[i] - expected[i]));
      moved = std::max(moved, std::abs(adapted[i] - plain[i]));
    }
    EXPECT_LT(worst, 1e-4f);
    EXPECT_GT(moved, 1e-2f);
  }

  mutable kernels::ThreadPool pool_;
  TempFolder base_;
  TempFolder adapter_;
  std::unique_ptr<const Transformer> model_;
};

TEST_F(PeftTest, ActsAsMergedWeights) { ExpectActsAsMerged(kAlpha / kRank); }

TEST_F(PeftTest, DividesByTheRootOfTheRankWithRslora) {
  ChangeConfig("use_rslora", true);
  ExpectActsAsMerged(kAlpha / std::sqrt(kRank));
}

TEST_F(PeftTest, ActsOnTheTargetsAndLayersItNames) {
  std::vector<FileTensor> tensors = AdapterTensors();
  std::erase_if(tensors, [](const FileTensor& t) {
    return t.name.find(".layers.1.") == std::string::npos ||
           (t.name.find("v_proj") == std::string::npos &&
            t.name.find("down_proj") == std::string::npos);
  });
  ASSERT_EQ(tensors.size(), 4u);
  WriteFile(TensorsPath(), SafetensorsBytes(tensors));
  ChangeConfig("target_modules", {"v_proj", "mlp.down_proj"});
  ChangeConfig("layers_to_transform", {1});
  ExpectActsAsMerged(kAlpha / kRank);
}

TEST_F(PeftTest, IsNamedByItsTensorsAndScaleAndByItsBase) {
  const auto load = [&] { return *model_->LoadAdapter(adapter_.path(), pool_); };
  const auto first = load();
  EXPECT_EQ(load()->digest, first->digest);
  EXPECT_NE(first->module_digest, first->digest);
  EXPECT_NE(first->module_digest, model_->digest());
  ChangeConfig("lora_alpha", kAlpha + 1);
  EXPECT_NE(load()->digest, first->digest);
  ChangeConfig("lora_alpha", kAlpha);
  EXPECT_EQ(load()->module_digest, first->module_digest);
  const TempFolder other;
  ASSERT_TRUE(WriteRandomCheckpoint(other.path(), TinyConfig(), kernels::DType::kF32, 99).ok());
  const auto elsewhere = *Load(other.path())->LoadAdapter(adapter_.path(), pool_);
  EXPECT_EQ(elsewhere->digest, first->digest);
  EXPECT_NE(elsewhere->module_digest, first->module_digest);
  std::vector<FileTensor> tensors = AdapterTensors();
  tensors[3].bytes[0] ^= 1;
  WriteFile(TensorsPath(), SafetensorsBytes(tensors));
  EXPECT_NE(load()->digest, first->digest);
}

TEST_F(PeftTest, RefusesAnAdapterOfAnotherBase) {
  ModelConfig wider = TinyConfig();
  wider.hidden = 64;
  ASSERT_TRUE(WriteRandomAdapter(adapter_.path(), wider, kRank, kAlpha, 12).ok());
  ExpectRefused(absl::StatusCode::kInvalidArgument,
                "tensor 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight': expected "
                "shape [4, 32], found [4, 64]");
  ModelConfig deeper = TinyConfig();
  deeper.layers = 3;
  ASSERT_TRUE(WriteRandomAdapter(adapter_.path(), deeper, kRank, kAlpha, 12).ok());
  ExpectRefused(
      absl::StatusCode::kInvalidArgument,
      "tensor 'base_model.model.model.layers.2.mlp.down_proj.lora_A.weight' belongs to no "
      "target module");
  ModelConfig shallower = TinyConfig();
  shallower.layers = 1;
  ASSERT_TRUE(WriteRandomAdapter(adapter_.path(), shallower, kRank, kAlpha, 12).ok());
  ExpectRefused(absl::StatusCode::kNotFound, "layers.1.self_attn.q_proj.lora_A.weight' is missing");
}

TEST_F(PeftTest, RefusesARankThatTheTensorsDoNotHave) {
  ChangeConfig("r", 8);
  ExpectRefused(absl::StatusCode::kInvalidArgument, "expected shape [8, 32], found [4, 32]");
}

TEST_F(PeftTest, RefusesTensorsThatItWouldLeaveOut) {
  std::vector<FileTensor> tensors = AdapterTensors();
  tensors.push_back({"base_model.model.lm_head.lora_A.weight", "F32", {1}, "1234"});
  WriteFile(TensorsPath(), SafetensorsBytes(tensors));
  ExpectRefused(absl::StatusCode::kInvalidArgument,
                "tensor 'base_model.model.lm_head.lora_A.weight' belongs to no target module");
}

TEST_F(PeftTest, NamesTheFieldAndItsValue) {
  const struct {
    const char* field;
    Json value;
    absl::StatusCode code;
    const char* message;
  } kRefusals[] = {
      {"target_modules",
       {"c_attn"},
       absl::StatusCode::kInvalidArgument,
       "'target_modules': [\"c_attn\"] matches no module"},
      {"target_modules", {"proj"}, absl::StatusCode::kInvalidArgument, "matches no module"},
      {"target_modules", "q_proj", absl::StatusCode::kInvalidArgument, "matches no module"},
      {"target_modules", {""}, absl::StatusCode::kInvalidArgument, "expected names, found [\"\"]"},
      {"target_modules", {5}, absl::StatusCode::kInvalidArgument, "expected names, found [5]"},
      {"target_modules", 5, absl::StatusCode::kInvalidArgument, "expected names, found 5"},
      {"target_modules", nullptr, absl::StatusCode::kInvalidArgument, "expected a list of names"},
      {"target_modules", "(q_proj", absl::StatusCode::kInvalidArgument, "is no regular expression"},
      {"exclude_modules", "(", absl::StatusCode::kInvalidArgument, "'exclude_modules': '('"},
      {"rank_pattern", {{"(", 8}}, absl::StatusCode::kInvalidArgument, "'rank_pattern'"},
      {"rank_pattern",
       {{"q_proj", 0}},
       absl::StatusCode::kInvalidArgument,
       "'rank_pattern.q_proj': 0 is not within"},
      {"rank_pattern", {8}, absl::StatusCode::kInvalidArgument, "expected an object"},
      {"alpha_pattern",
       {{"q_proj", "a"}},
       absl::StatusCode::kInvalidArgument,
       "'alpha_pattern.q_proj'"},
      {"use_rslora", 1, absl::StatusCode::kInvalidArgument, "'use_rslora': expected true or false"},
      {"init_lora_weights", "pissa_niter_4", absl::StatusCode::kUnimplemented,
       "\"pissa_niter_4\" changes the base's weights"},
      {"trainable_token_indices", {1}, absl::StatusCode::kUnimplemented, "'trainable_token"},
      {"r", 0, absl::StatusCode::kInvalidArgument, "'r': 0 is not within"},
      {"r", 1 << 20, absl::StatusCode::kInvalidArgument, "'r': 1048576 is not within"},
      {"lora_alpha", "16", absl::StatusCode::kInvalidArgument, "'lora_alpha': \"16\""},
      {"lora_alpha", 1e9, absl::StatusCode::kInvalidArgument, "'lora_alpha': 1000000000.0"},
      {"layers_to_transform", {2}, absl::StatusCode::kInvalidArgument, "2 is not a layer"},
      {"use_dora", 1, absl::StatusCode::kInvalidArgument, "'use_dora': expected true or false"},
      {"bias", "some", absl::StatusCode::kInvalidArgument, "'bias': \"some\""},
      {"modules_to_save", {"mlp"}, absl::StatusCode::kUnimplemented, "'mlp' is not supported"},
      {"modules_to_save", "lm_head", absl::StatusCode::kInvalidArgument, "expected a list"},
      {"peft_type", "IA3", absl::StatusCode::kUnimplemented, "'peft_type': 'IA3'"},
  };
  for (const auto& [field, value, code, message] : kRefusals) {
    const TempFolder kept;
    const std::string path = adapter_.path() + "/adapter_config.json";
    std::filesystem::copy_file(path, kept.path() + "/config");
    ChangeConfig(field, value);
    ExpectRefused(code, message);
    ExpectRefused(code, "adapter_config.json: ");
    std::filesystem::copy_file(kept.path() + "/config", path,
                               std::filesystem::copy_options::overwrite_existing);
  }
  EXPECT_TRUE(model_->LoadAdapter(adapter_.path(), pool_).ok());
}

TEST_F(PeftTest, RefusesLayersThatAreAtOddsWithTheirNames) {
  ChangeConfig("layers_to_transform", {0});
  ChangeConfig("layers_pattern", {"h"});
  ExpectRefused(absl::StatusCode::kInvalidArgument, "matches no module");
  ChangeConfig("layers_pattern", {5});
  ExpectRefused(absl::StatusCode::kInvalidArgument, "'layers_pattern': expected a pattern");
  ChangeConfig("layers_pattern", nullptr);
  ChangeConfig("target_modules", ".*_proj");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "target_modules is a regular expression");
  ChangeConfig("target_modules", "all-linear");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "target_modules is all-linear");
}

TEST_F(PeftTest, TakesOnePartTwiceWhereBothAreEqual) {
  std::vector<FileTensor> tensors = AdapterTensors();
  FileTensor twin = tensors[0];
  ASSERT_TRUE(twin.name.ends_with(".lora_A.weight"));
  twin.name.replace(twin.name.find(".weight"), 7, ".default.weight");
  const Digest once = (*model_->LoadAdapter(adapter_.path(), pool_))->digest;
  tensors.push_back(twin);
  WriteFile(TensorsPath(), SafetensorsBytes(tensors));
  const auto adapter = model_->LoadAdapter(adapter_.path(), pool_);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ((*adapter)->digest, once);
  tensors.back().bytes[0] ^= 1;
  WriteFile(TensorsPath(), SafetensorsBytes(tensors));
  ExpectRefused(absl::StatusCode::kInvalidArgument, "are the same part of one module, and differ");
}

TEST_F(PeftTest, RefusesMagnitudesThatAreAtOddsWithTheConfig) {
  const std::string key = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector";
  ChangeConfig("use_dora", true);
  ExpectRefused(absl::StatusCode::kNotFound, key);
  std::vector<FileTensor> tensors = AdapterTensors();
  tensors.push_back({key, "F32", {1}, "1234"});
  WriteFile(TensorsPath(), SafetensorsBytes(tensors));
  ExpectRefused(absl::StatusCode::kInvalidArgument, "'" + key + "': expected shape [");
  ChangeConfig("use_dora", false);
  ExpectRefused(absl::StatusCode::kInvalidArgument, "'" + key + "' belongs to no target module");
  ChangeConfig("use_dora", true);
  ChangeConfig("target_modules", {"embed_tokens"});
  ExpectRefused(absl::StatusCode::kUnimplemented, "'use_dora': not supported for embed_tokens");
}

TEST_F(PeftTest, RefusesKeysOfTwoModels) {
  std::vector<FileTensor> tensors = AdapterTensors();
  tensors[0].name = tensors[0].name.replace(0, std::strlen("base_model.model.model."), "");
  WriteFile(TensorsPath(), SafetensorsBytes(tensors));
  ExpectRefused(absl::StatusCode::kInvalidArgument, "has its name in the body of a model, but '");
}

TEST_F(PeftTest, RefusesAPatternThatTakesTooLong) {
  for (const auto& [field, value] :
       std::vector<std::pair<const char*, Json>>{{"target_modules", "(.+)+[XY]"},
                                                 {"exclude_modules", "(.+)+[XY]"},
                                                 {"rank_pattern", {{"(.+)+[XY]", 4}}},
                                                 {"alpha_pattern", {{"(.+)+[XY]", 4}}}}) {
    const Json before = *ParseJsonFile(adapter_.path() + "/adapter_config.json");
    ChangeConfig(field, value);
    ExpectRefused(absl::StatusCode::kInvalidArgument, std::string("field '") + field + "'");
    ExpectRefused(absl::StatusCode::kInvalidArgument, "cannot be decided for 'model.layers.0.");
    WriteFile(adapter_.path() + "/adapter_config.json", before.dump());
  }
}

TEST_F(PeftTest, BoundsItsConfig) {
  Json patterns = Json::object();
  for (int i = 0; i <= 4096; ++i) patterns["q" + std::to_string(i)] = 4;
  ChangeConfig("rank_pattern", patterns);
  ExpectRefused(absl::StatusCode::kInvalidArgument,
                "'rank_pattern': 4097 patterns, more than 4096");
  for (int i = 0; i <= 8192; ++i) patterns["q" + std::to_string(i)] = 4;
  ChangeConfig("rank_pattern", patterns);
  ExpectRefused(absl::StatusCode::kInvalidArgument, "an object has more than 8192 keys");
  ChangeConfig("rank_pattern", std::string(1 << 20, 'a'));
  ExpectRefused(absl::StatusCode::kInvalidArgument, "more than the limit of 1048576");
}

TEST_F(PeftTest, SaysHowToConvertPickledTensors) {
  std::filesystem::rename(TensorsPath(), adapter_.path() + "/adapter_model.bin");
  ExpectRefused(absl::StatusCode::kInvalidArgument,
                "adapter_model.bin: pickled tensors are not read; convert it");
}

// Whatever the adapters of other rows do to embedding and output, a row is what it is alone.
TEST_F(PeftTest, RowsOfABatchDoNotFeelEachOthersAdapters) {
  const ModelConfig config = TinyConfig();
  const auto tensor = [&](const std::string& name, std::vector<int64_t> shape, int salt) {
    std::vector<float> values(shape[0] * (shape.size() > 1 ? shape[1] : 1));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = 0.1f * std::sin(static_cast<float>(i * 7 + salt));
    }
    return FileTensor{name, "F32", shape,
                      std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4)};
  };
  const int64_t vocab = config.vocab, hidden = config.hidden;
  const auto load = [&](const Json& extra, const std::vector<FileTensor>& tensors) {
    const TempFolder folder;
    Json json = {{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 4}};
    json.update(extra);
    WriteFile(folder.path() + "/adapter_config.json", json.dump());
    WriteFile(folder.path() + "/adapter_model.safetensors", SafetensorsBytes(tensors));
    auto adapter = model_->LoadAdapter(folder.path(), pool_);
    EXPECT_TRUE(adapter.ok()) << adapter.status();
    return *std::move(adapter);
  };
  std::vector<std::shared_ptr<const Adapter>> adapters = {nullptr};
  adapters.push_back(
      load({{"target_modules", {"lm_head"}}}, {tensor("lm_head.lora_A.weight", {2, hidden}, 1),
                                               tensor("lm_head.lora_B.weight", {vocab, 2}, 2)}));
  adapters.push_back(load({{"target_modules", {"embed_tokens"}}},
                          {tensor("model.embed_tokens.lora_embedding_A", {2, vocab}, 3),
                           tensor("model.embed_tokens.lora_embedding_B", {hidden, 2}, 4)}));
  adapters.push_back(load({{"target_modules", {"lm_head"}},
                           {"modules_to_save", {"embed_tokens"}},
                           {"rank_pattern", {{"lm_head", 3}}}},
                          {tensor("lm_head.lora_A.weight", {3, hidden}, 5),
                           tensor("lm_head.lora_B.weight", {vocab, 3}, 6),
                           tensor("model.embed_tokens.weight", {vocab, hidden}, 7)}));
  adapters.push_back(*model_->LoadAdapter(adapter_.path(), pool_));
  std::vector<FileTensor> with_magnitudes = {tensor("lm_head.lora_A.weight", {2, hidden}, 8),
                                             tensor("lm_head.lora_B.weight", {vocab, 2}, 9),
                                             tensor("lm_head.lora_magnitude_vector", {vocab}, 10)};
  for (int layer = 0; layer < config.layers; ++layer) {
    for (const Linear linear : {Linear::kK, Linear::kO, Linear::kDown}) {
      const std::string module = ModuleName(layer, linear);
      const LinearShape shape = ShapeOf(config, linear);
      with_magnitudes.push_back(tensor(module + ".lora_A.weight", {2, shape.in}, 11 + layer));
      with_magnitudes.push_back(tensor(module + ".lora_B.weight", {shape.out, 2}, 13 + layer));
      with_magnitudes.push_back(tensor(module + ".lora_magnitude_vector", {shape.out}, 15));
    }
  }
  adapters.push_back(
      load({{"target_modules", {"k_proj", "o_proj", "down_proj", "lm_head"}}, {"use_dora", true}},
           with_magnitudes));
  std::vector<std::vector<float>> alone;
  for (const auto& adapter : adapters) {
    alone.push_back(LogitsOf(*model_, Tokens(20, 5), 0, adapter.get()));
  }
  for (size_t i = 1; i < alone.size(); ++i) EXPECT_NE(alone[0], alone[i]) << i;
  Memory memory(*model_, static_cast<int>(2 * adapters.size()));
  std::vector<std::vector<kernels::BlockId>> blocks;
  const std::vector<TokenId> tokens = Tokens(20, 5);
  std::vector<BatchSequence> batch;
  for (size_t i = 0; i < adapters.size(); ++i) {
    blocks.push_back({static_cast<int>(2 * i), static_cast<int>(2 * i + 1)});
  }
  for (size_t i = 0; i < adapters.size(); ++i) {
    batch.push_back({.tokens = tokens,
                     .blocks = blocks[i],
                     .adapter = adapters[i].get(),
                     .wants_logits = true});
  }
  const std::vector<float> together = RunBatch(*model_, batch, memory.kv());
  for (size_t i = 0; i < adapters.size(); ++i) {
    EXPECT_TRUE(std::equal(alone[i].begin(), alone[i].end(), together.begin() + i * vocab)) << i;
  }
}

TEST_F(PeftTest, NamesMissingFiles) {
  std::filesystem::remove(TensorsPath());
  ExpectRefused(absl::StatusCode::kNotFound, "adapter_model.safetensors");
  std::filesystem::remove(adapter_.path() + "/adapter_config.json");
  ExpectRefused(absl::StatusCode::kNotFound, "adapter_config.json");
}

}  // namespace
}  // namespace chorale
