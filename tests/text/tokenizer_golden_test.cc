// Real tokenizers against ids made with the reference library, from the shared data folder.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/json.h"
#include "gtest/gtest.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace chorale {
namespace {

std::string DataFolder() {
  const char* folder = std::getenv("CHORALE_SHARED_DATA");
  return folder == nullptr ? "" : folder;
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The first `count` code points.
std::string Head(const std::string& text, int count) {
  size_t bytes = 0;
  while (count-- > 0 && bytes < text.size()) bytes += CodePointAt(text, bytes).bytes;
  return text.substr(0, bytes);
}

class TokenizerGoldenTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string path =
        DataFolder() + "/tokenizers/" + GetParam() + std::string("/tokenizer.json");
    if (!std::filesystem::exists(path)) GTEST_SKIP() << "skipped: no " << path;
    auto tokenizer = Tokenizer::Load(path);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  // The golden files have no special tokens added, except where their ids begin with one.
  std::vector<TokenId> Encode(const std::string& text, const std::vector<TokenId>& like) const {
    auto plain = tokenizer_->Encode(text, false);
    EXPECT_TRUE(plain.ok()) << plain.status();
    auto full = tokenizer_->Encode(text, true);
    EXPECT_TRUE(full.ok()) << full.status();
    return *full == like ? *full : *plain;
  }

  std::string Stream(const std::vector<TokenId>& ids) const {
    Detokenizer detokenizer(*tokenizer_, /*skip_special_tokens=*/true);
    std::string text;
    for (TokenId id : ids) {
      const std::string piece = detokenizer.Add(id);
      EXPECT_FALSE(FindInvalidUtf8(piece)) << "half a code point";
      text += piece;
    }
    return text + detokenizer.Flush();
  }

  std::unique_ptr<const Tokenizer> tokenizer_;
};

TEST_P(TokenizerGoldenTest, EncodesEveryLineAndDecodesItBack) {
  std::istringstream lines(
      ReadText(DataFolder() + "/tokenizers/golden/" + GetParam() + ".jsonl"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const Json golden = Json::parse(line);
    const std::string text = golden["text"];
    const std::vector<TokenId> ids = golden["ids"];
    EXPECT_EQ(Encode(text, ids), ids) << line;
    const std::string decoded = tokenizer_->Decode(ids, /*skip_special_tokens=*/true);
    EXPECT_EQ(decoded, golden.value("decoded", text)) << line;
    EXPECT_EQ(Stream(ids), decoded) << line;
  }
  EXPECT_GT(count, 0);
}

INSTANTIATE_TEST_SUITE_P(Real, TokenizerGoldenTest,
                         testing::Values("qwen3", "minimind", "gpt2_pure", "tinyllama_v1.1"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = std::isalnum(c) ? c : '_';
                           return name;
                         });

class QwenGoldenTest : public TokenizerGoldenTest {};

TEST_P(QwenGoldenTest, EncodesALongTextAndDecodesItBack) {
  const std::string text =
      Head(ReadText(DataFolder() + "/text/tinyshakespeare.txt"), 200'000);
  const std::vector<TokenId> ids =
      Json::parse(ReadText(DataFolder() + "/tokenizers/golden/qwen3.shakespeare200k.ids.json"));
  EXPECT_TRUE(*tokenizer_->Encode(text, false) == ids);
  EXPECT_TRUE(tokenizer_->Decode(ids, false) == text);
  EXPECT_TRUE(Stream(ids) == text);
}

INSTANTIATE_TEST_SUITE_P(Real, QwenGoldenTest, testing::Values("qwen3"));

}  // namespace
}  // namespace chorale
