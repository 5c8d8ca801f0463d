#include "text/detokenizer.h"

#include <random>

#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/testing/tiny_model.h"
#include "text/utf8.h"

namespace chorale {
namespace {

// Every byte by itself, two special tokens, and pieces that hold ends and beginnings of characters.
std::unique_ptr<const Tokenizer> ByteLevel() {
  Json json = Json::parse(ByteTokenizerJson());
  json["added_tokens"] = {{{"id", 260}, {"content", "<s>"}, {"special", true}},
                          {{"id", 261}, {"content", "東<x>"}, {"special", false}}};
  auto tokenizer = Tokenizer::Parse(json.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

// Strips up to `spaces` leading spaces of a text.
std::unique_ptr<const Tokenizer> Stripping(int spaces) {
  Json vocab = {{"▁", 256}, {"▁▁▁", 257}, {"a", 258}, {"▁a", 259}, {"▁東", 260}, {"aa", 261}};
  for (int byte = 0; byte < 256; ++byte) {
    char piece[8];
    std::snprintf(piece, sizeof(piece), "<0x%02X>", byte);
    vocab[piece] = byte;
  }
  const Json json = {
      {"added_tokens", {{{"id", 262}, {"content", "</s>"}, {"special", true}}}},
      {"model", {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", vocab}, {"merges", {"a a"}}}},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders",
         {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
          {{"type", "ByteFallback"}},
          {{"type", "Strip"}, {"content", " "}, {"start", spaces}, {"stop", 0}}}}}}};
  auto tokenizer = Tokenizer::Parse(json.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

// Bytes that make characters, and any ids between them.
std::vector<TokenId> RandomIds(std::mt19937_64& random) {
  std::vector<TokenId> ids;
  const auto any = [&] { return static_cast<TokenId>(random() % 266) - 2; };
  for (int left = static_cast<int>(random() % 12); left > 0; --left) {
    if (random() % 3 == 0) {
      ids.push_back(random() % 2 ? ' ' : any());
      continue;
    }
    std::string character;
    const char32_t ranges[] = {0x80, 0x800, 0xD800, 0x110000};
    char32_t c = random() % ranges[random() % 4];
    if (c >= 0xD800 && c <= 0xDFFF) c = 'x';
    AppendUtf8(c, character);
    if (random() % 4 == 0) character.pop_back();
    for (char byte : character) ids.push_back(static_cast<uint8_t>(byte));
  }
  return ids;
}

void ExpectPiecesAddUp(const Tokenizer& tokenizer) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 20'000; ++round) {
    const std::vector<TokenId> ids = RandomIds(random);
    const bool skip = random() % 2;
    Detokenizer detokenizer(tokenizer, skip);
    const size_t moves_at = random() % (ids.size() + 1);
    std::string text;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (i == moves_at) detokenizer = Detokenizer(detokenizer);
      const std::string piece = detokenizer.Add(ids[i]);
      ASSERT_FALSE(FindInvalidUtf8(piece)) << "half a code point";
      text += piece;
    }
    const std::string rest = detokenizer.Flush();
    ASSERT_FALSE(FindInvalidUtf8(rest));
    ASSERT_EQ(text + rest, tokenizer.Decode(ids, skip)) << Json(ids).dump();
    ASSERT_EQ(detokenizer.Flush(), "");
  }
}

TEST(DetokenizerTest, PiecesAddUpToTheTextOfBytes) { ExpectPiecesAddUp(*ByteLevel()); }
TEST(DetokenizerTest, PiecesAddUpToTheTextWithoutItsLeadingSpaces) {
  for (int spaces : {0, 1, 2, 5}) ExpectPiecesAddUp(*Stripping(spaces));
}

TEST(DetokenizerTest, KeepsTheLeadingSpaceOfATextThatGoesOn) {
  const auto tokenizer = Stripping(1);
  Detokenizer begins(*tokenizer, false);
  EXPECT_EQ(begins.Add(259), "a");
  Detokenizer goes_on(*tokenizer, false, /*continues=*/true);
  EXPECT_EQ(goes_on.Add(259), " a");
}

TEST(DetokenizerTest, HoldsBackAnOpenCodePoint) {
  const auto tokenizer = ByteLevel();
  Detokenizer detokenizer(*tokenizer, true);
  EXPECT_EQ(detokenizer.Add(0xF0), "");
  EXPECT_EQ(detokenizer.Add(0x9F), "");
  EXPECT_EQ(detokenizer.Add(260), "");  // a special token leaves it open
  EXPECT_EQ(detokenizer.Add(0x98), "");
  EXPECT_EQ(detokenizer.Add(0x80), "😀");
  EXPECT_EQ(detokenizer.Add(0xF0), "");
  EXPECT_EQ(detokenizer.Add('a'), "\uFFFDa");
  EXPECT_EQ(detokenizer.Add(0xE6), "");
  EXPECT_EQ(detokenizer.Flush(), "\uFFFD");
}

TEST(Utf8Test, ReadsEveryCodePointAndNothingElse) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(c, text);
    const CodePoint read = CodePointAt(text, 0);
    ASSERT_TRUE(read.valid);
    ASSERT_EQ(read.value, c);
    ASSERT_EQ(static_cast<size_t>(read.bytes), text.size());
    for (size_t bytes = 1; bytes < text.size(); ++bytes) {
      ASSERT_TRUE(CodePointAt(text.substr(0, bytes), 0).open) << static_cast<uint32_t>(c);
    }
  }
  // Overlong forms, surrogates, beyond the last code point, a continuation alone.
  for (const char* text :
       {"\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xF0\x8F\xBF\xBF", "\xED\xA0\x80", "\xED\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80", "\x80", "\xFE", "\xFF"}) {
    const CodePoint read = CodePointAt(text, 0);
    EXPECT_FALSE(read.valid || read.open);
    EXPECT_EQ(read.bytes, 1);
  }
}

}  // namespace
}  // namespace chorale
