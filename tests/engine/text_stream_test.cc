#include "engine/text_stream.h"

#include <random>

#include <gtest/gtest.h>

#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

class TextStreamTest : public testing::Test {
 protected:
  TextStreamTest() : tokenizer_(*Tokenizer::Parse(ByteTokenizerJson())) {}

  using Texts = std::pair<std::string, std::string>;
  // Feeds the text byte by byte; returns what came out before the end, and at the end.
  Texts Feed(const std::string& text, const std::vector<std::string>& stops) {
    TextStream stream(*tokenizer_, stops, {});
    std::string out;
    for (char c : text) {
      if (stream.stopped()) break;
      out += stream.Add(static_cast<uint8_t>(c));
    }
    return {out, stream.Finish()};
  }

  std::unique_ptr<const Tokenizer> tokenizer_;
};

TEST_F(TextStreamTest, CutsBeforeTheFirstStopString) {
  EXPECT_EQ(Feed("one two three", {"three", "two"}), Texts("one ", ""));
  EXPECT_EQ(Feed("aab", {"ab"}), Texts("a", ""));
}

TEST_F(TextStreamTest, HoldsBackWhatMayBecomeAStopString) {
  EXPECT_EQ(Feed("one tw", {"two"}), Texts("one ", "tw"));
  EXPECT_EQ(Feed("one twin", {"two"}), Texts("one twin", ""));
}

TEST_F(TextStreamTest, NeverGivesHalfACodePoint) {
  EXPECT_EQ(Feed("\xE2\x82\xAC!", {}), Texts("\xE2\x82\xAC!", ""));
  EXPECT_EQ(Feed("a\xE2\x82", {}), Texts("a", "\xEF\xBF\xBD"));
}

TEST_F(TextStreamTest, AgreesWithASearchOfTheWholeText) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto word = [&](int size_max) {
    std::string text(1 + random() % size_max, 'a');
    for (char& c : text) c = "ab"[random() % 2];
    return text;
  };
  for (int i = 0; i < 2000; ++i) {
    const std::string text = word(20);
    const std::vector<std::string> stops = {word(4), word(6)};
    // A stream stops as soon as any stop string is complete, at the one that begins first.
    std::string expected = text;
    for (size_t end = 1; end <= text.size(); ++end) {
      size_t cut = std::string::npos;
      for (const std::string& stop : stops) cut = std::min(cut, text.substr(0, end).find(stop));
      if (cut == std::string::npos) continue;
      expected.resize(cut);
      break;
    }
    const auto [before, after] = Feed(text, stops);
    EXPECT_EQ(before + after, expected) << text << " " << stops[0] << " " << stops[1];
  }
}

}  // namespace
}  // namespace chorale
