// What each layer sees and how positions turn: logits of every kind of config against a plain
// forward pass in doubles.
#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "model/transformer.h"
#include "tests/model/model_run.h"
#include "tests/model/plain_forward.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/window_model.h"

namespace chorale {
namespace {

constexpr double kLogitsMax = 1e-3;  // off the judge's, with logits of about one

class WindowTest : public testing::TestWithParam<WindowKind> {
 protected:
  WindowTest() : pool_(1) { WriteWindowModel(GetParam(), folder_.path()); }

  std::unique_ptr<const Transformer> Load(const char* kernels) {
    auto model =
        Transformer::Load(folder_.path(), {.kernels = *kernels::FindKernels(kernels)}, pool_);
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }

  TempFolder folder_;
  kernels::ThreadPool pool_;
};

std::string NameOfKind(const testing::TestParamInfo<WindowKind>& info) {
  std::string name = info.param.name;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Kinds, WindowTest, testing::ValuesIn(WindowKinds()), NameOfKind);

void ExpectNear(const std::vector<float>& got, const std::vector<double>& want,
                const std::string& where) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], kLogitsMax) << where << ", token id " << i;
  }
}

// On both sides of every window and of every context that is stretched, in one pass and in chunks.
TEST_P(WindowTest, LogitsEqualAPlainForwardPass) {
  const std::vector<TokenId> tokens = Tokens(150, 3);
  for (const char* kernels : {"reference", "cpu"}) {
    const auto model = Load(kernels);
    for (int count : {1, 2, 15, 16, 17, 18, 20, 21, 33, 34, 41, 42, 59, 60, 61, 62, 64, 65, 150}) {
      const std::span<const TokenId> prefix = std::span(tokens).first(count);
      const std::vector<double> want = PlainLogits(folder_.path(), prefix).back();
      for (int chunk : {0, 1, 7}) {
        if (chunk == 1 && count != 62 && count != 150) continue;
        ExpectNear(LogitsOf(*model, prefix, chunk), want,
                   absl::StrCat(kernels, ", ", count, " tokens in chunks of ", chunk));
      }
    }
  }
}

// A window that did nothing would pass the test above if the judge did nothing either.
TEST(WindowsTest, HideWhatLiesBeforeThem) {
  const TempFolder folder;
  const std::vector<TokenId> tokens = Tokens(150, 3);
  std::vector<std::vector<double>> logits;
  for (const char* kind :
       {"no window", "every layer", "one block", "one token", "layers by type"}) {
    WriteWindowModel(WindowKindNamed(kind), folder.path());
    logits.push_back(PlainLogits(folder.path(), tokens).back());
  }
  for (size_t i = 1; i < logits.size(); ++i) {
    double most = 0;
    for (size_t j = 0; j < logits[0].size(); ++j) {
      most = std::max(most, std::abs(logits[0][j] - logits[i][j]));
    }
    EXPECT_GT(most, 10 * kLogitsMax) << i;
  }
}

// K/V that one module wrote under its window would not be what another expects to read.
TEST(WindowsTest, ArePartOfTheDigest) {
  const TempFolder folder;
  kernels::ThreadPool pool(1);
  std::vector<Digest> digests;
  for (const WindowKind& kind : WindowKinds()) {
    if (std::string_view(kind.architecture) != "MistralForCausalLM") continue;
    WriteWindowModel(kind, folder.path());
    const auto model =
        Transformer::Load(folder.path(), {.kernels = *kernels::FindKernels("reference")}, pool);
    ASSERT_TRUE(model.ok()) << model.status();
    digests.push_back((*model)->digest());
  }
  std::sort(digests.begin(), digests.end());
  // "longer than the context" is "no window".
  EXPECT_EQ(std::unique(digests.begin(), digests.end()) - digests.begin(),
            static_cast<std::ptrdiff_t>(digests.size()) - 1);
}

}  // namespace
}  // namespace chorale
