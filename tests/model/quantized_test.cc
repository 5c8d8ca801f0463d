// Checkpoints in 8 and 4 bits: quantised while loading, or converted ahead.
#include <cmath>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/checkpoint/convert.h"
#include "model/checkpoint/random_checkpoint.h"
#include "tests/model/model_run.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

using testing::HasSubstr;

class QuantizedTest : public testing::TestWithParam<kernels::DType> {
 protected:
  QuantizedTest() : pool_(2) { WriteTinyModel(in_.path()); }

  absl::StatusOr<std::unique_ptr<const Transformer>> Load(
      const std::string& folder, std::optional<kernels::DType> quantization,
      const std::string& kernels = "reference") {
    return Transformer::Load(
        folder, {.kernels = *kernels::FindKernels(kernels), .quantization = quantization}, pool_);
  }
  std::string Out() const { return out_.path() + "/converted"; }

  TempFolder in_;
  TempFolder out_;
  kernels::ThreadPool pool_;
};

TEST_P(QuantizedTest, LoadedOrConvertedIsTheSameModule) {
  const auto base = Load(in_.path(), std::nullopt);
  const auto loaded = Load(in_.path(), GetParam());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_TRUE(ConvertCheckpoint(in_.path(), Out(), GetParam(), pool_, nullptr).ok());
  for (const auto& asked : {std::optional<kernels::DType>(), std::optional(GetParam())}) {
    const auto converted = Load(Out(), asked);
    ASSERT_TRUE(converted.ok()) << converted.status();
    EXPECT_EQ((*converted)->digest(), (*loaded)->digest());
    EXPECT_EQ((*converted)->kv_shape(), (*base)->kv_shape());
    EXPECT_EQ(LogitsOf(**converted, Tokens(20, 1)), LogitsOf(**loaded, Tokens(20, 1)));
  }
  EXPECT_NE((*loaded)->digest(), (*base)->digest());
  EXPECT_TRUE(std::filesystem::exists(Out() + "/tokenizer.json"));
}

// Random weights have no structure that would forgive a bad scale: a loose bound tells a right
// implementation from a wrong one.
TEST_P(QuantizedTest, StaysNearTheBaseWithEveryKernelTable) {
  const std::vector<float> exact = LogitsOf(**Load(in_.path(), std::nullopt), Tokens(20, 1));
  for (const kernels::Kernels* table : kernels::AvailableKernels()) {
    const auto model = Load(in_.path(), GetParam(), std::string(table->name));
    ASSERT_TRUE(model.ok()) << model.status();
    const std::vector<float> logits = LogitsOf(**model, Tokens(20, 1));
    double error = 0, norm = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      error += std::pow(logits[i] - exact[i], 2);
      norm += std::pow(exact[i], 2);
    }
    EXPECT_LT(std::sqrt(error / norm), GetParam() == kernels::DType::kI8 ? 0.03 : 0.4)
        << table->name;
    EXPECT_GT(error, 0) << table->name;
  }
}

TEST_P(QuantizedTest, RefusesToQuantiseTwice) {
  ASSERT_TRUE(ConvertCheckpoint(in_.path(), Out(), GetParam(), pool_, nullptr).ok());
  const kernels::DType other =
      GetParam() == kernels::DType::kI8 ? kernels::DType::kI4 : kernels::DType::kI8;
  EXPECT_TRUE(absl::IsInvalidArgument(Load(Out(), other).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(
      ConvertCheckpoint(Out(), out_.path() + "/again", other, pool_, nullptr)));
  EXPECT_TRUE(
      absl::IsAlreadyExists(ConvertCheckpoint(in_.path(), Out(), GetParam(), pool_, nullptr)));
}

TEST_P(QuantizedTest, NamesAMissingTensorOfAConvertedCheckpoint) {
  ASSERT_TRUE(ConvertCheckpoint(in_.path(), Out(), GetParam(), pool_, nullptr).ok());
  std::filesystem::copy_file(in_.path() + "/model.safetensors", Out() + "/model.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  const absl::Status status = Load(Out(), std::nullopt).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.embed_tokens.weight.codes"));
}

TEST_P(QuantizedTest, TakesAFolderWithASlashAndNoOtherWeights) {
  std::ofstream(in_.path() + "/pytorch_model.bin") << "weights";
  std::ofstream(in_.path() + "/model.safetensors.index.json") << "{}";
  const std::string templates = "/additional_chat_templates";
  std::filesystem::create_directory(in_.path() + templates);
  std::ofstream(in_.path() + templates + "/tool_use.jinja") << "{{ tools }}";
  std::ofstream(in_.path() + templates + "/weights.bin") << "weights";
  ASSERT_TRUE(ConvertCheckpoint(in_.path(), Out() + "/", GetParam(), pool_, nullptr).ok());
  EXPECT_TRUE(std::filesystem::exists(Out() + "/tokenizer.json"));
  EXPECT_TRUE(std::filesystem::exists(Out() + templates + "/tool_use.jinja"));
  EXPECT_FALSE(std::filesystem::exists(Out() + templates + "/weights.bin"));
  EXPECT_FALSE(std::filesystem::exists(Out() + "/pytorch_model.bin"));
  EXPECT_FALSE(std::filesystem::exists(Out() + "/model.safetensors.index.json"));
}

TEST_P(QuantizedTest, LeavesNothingBehindWhenTheInputIsBad) {
  std::ofstream(in_.path() + "/model.safetensors") << "no";
  EXPECT_FALSE(ConvertCheckpoint(in_.path(), Out(), GetParam(), pool_, nullptr).ok());
  EXPECT_TRUE(std::filesystem::is_empty(out_.path()));
}

INSTANTIATE_TEST_SUITE_P(Bits, QuantizedTest,
                         testing::Values(kernels::DType::kI8, kernels::DType::kI4),
                         [](const auto& info) { return kernels::NameOf(info.param); });

}  // namespace
}  // namespace chorale
