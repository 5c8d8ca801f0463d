// LoRA adapters, judged by models whose weights were merged by hand.
#include "model/peft.h"

#include <cmath>
#include <cstring>
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/linears.h"
#include "model/random_checkpoint.h"
#include "model/transformer.h"
#include "tests/model/model_run.h"
#include "tests/model/safetensors_file.h"
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
       "no linear layer 'c_attn'"},
      {"target_modules", {"proj"}, absl::StatusCode::kInvalidArgument, "no linear layer 'proj'"},
      {"target_modules", {""}, absl::StatusCode::kInvalidArgument, "no linear layer ''"},
      {"target_modules", ".*_proj", absl::StatusCode::kInvalidArgument, "'target_modules'"},
      {"target_modules", {5}, absl::StatusCode::kInvalidArgument, "'target_modules'"},
      {"r", 0, absl::StatusCode::kInvalidArgument, "'r': 0 is not within"},
      {"r", 1 << 20, absl::StatusCode::kInvalidArgument, "'r': 1048576 is not within"},
      {"lora_alpha", "16", absl::StatusCode::kInvalidArgument, "'lora_alpha': expected a number"},
      {"lora_alpha", 1e9, absl::StatusCode::kInvalidArgument, "'lora_alpha': 1e+09"},
      {"layers_to_transform", {2}, absl::StatusCode::kInvalidArgument, "2 is not a layer"},
      {"use_dora", true, absl::StatusCode::kUnimplemented, "'use_dora': true is not supported"},
      {"bias", "all", absl::StatusCode::kUnimplemented, "'bias': 'all'"},
      {"modules_to_save", {"lm_head"}, absl::StatusCode::kUnimplemented, "'modules_to_save'"},
      {"rank_pattern", {{"q_proj", 8}}, absl::StatusCode::kUnimplemented, "'rank_pattern'"},
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

TEST_F(PeftTest, NamesMissingFiles) {
  std::filesystem::remove(TensorsPath());
  ExpectRefused(absl::StatusCode::kNotFound, "adapter_model.safetensors");
  std::filesystem::remove(adapter_.path() + "/adapter_config.json");
  ExpectRefused(absl::StatusCode::kNotFound, "adapter_config.json");
}

}  // namespace
}  // namespace chorale
