// Scanners written by hand, judged by PCRE2 on the pattern itself.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/splitters.h"

#include <functional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <pcre2.h>

#include "base/check.h"
#include "text/unicode_class.h"
#include "text/utf8.h"

namespace chorale {
namespace {

class Pattern {
 public:
  explicit Pattern(const std::string& pattern) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                          PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
    CHECK(code_ != nullptr) << pattern;
    pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);
    match_ = pcre2_match_data_create_from_pattern(code_, nullptr);
  }
  ~Pattern() {
    pcre2_match_data_free(match_);
    pcre2_code_free(code_);
  }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  // The matches, and what lies between them.
  std::vector<std::string> Split(const std::string& text) const {
    std::vector<std::string> words;
    size_t done = 0;
    while (done < text.size() && Match(text, done)) {
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match_);
      if (range[0] > done) words.push_back(text.substr(done, range[0] - done));
      words.push_back(text.substr(range[0], range[1] - range[0]));
      done = range[1];
    }
    if (done < text.size()) words.push_back(text.substr(done));
    return words;
  }
  bool Match(const std::string& text, size_t from = 0) const {
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, 0,
                       match_, nullptr) > 0;
  }

 private:
  pcre2_code* code_ = nullptr;
  pcre2_match_data* match_ = nullptr;
};

std::string Utf8(char32_t c) {
  std::string text;
  AppendUtf8(c, text);
  return text;
}

bool IsSurrogate(char32_t c) { return c >= 0xD800 && c <= 0xDFFF; }

// Where the class of a code point depends on the version of Unicode, or PCRE2 has its own mind:
// Mongolian's vowel separator, which is \s to PCRE2 and has not been White_Space since Unicode 6.3.
std::vector<bool> Disputed() {
  const Pattern letter("\\p{L}"), number("\\p{N}"), space("\\s");
  const uint8_t* classes = CharClasses();
  std::vector<bool> disputed(0x110000);
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (IsSurrogate(c)) continue;
    const std::string text = Utf8(c);
    const CharClass expected = letter.Match(text)       ? CharClass::kLetter
                               : number.Match(text)     ? CharClass::kNumber
                               : c == '\r' || c == '\n' ? CharClass::kNewline
                               : space.Match(text)      ? CharClass::kSpace
                                                        : CharClass::kOther;
    disputed[c] = ClassOf(classes, c) != expected;
  }
  return disputed;
}

const std::vector<bool>& DisputedOnce() {
  static const std::vector<bool> disputed = Disputed();
  return disputed;
}

TEST(UnicodeClassTest, AgreesWithPcre2OnAllThatBothKnow) {
  const Pattern assigned("\\P{Cn}");
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (!DisputedOnce()[c] || c == 0x180E) continue;
    // The other library is of a later Unicode, so the code point is new to one of them.
    EXPECT_FALSE(assigned.Match(Utf8(c)) && ClassOf(CharClasses(), c) != CharClass::kOther)
        << std::hex << static_cast<uint32_t>(c);
  }
}

// Text that meets many branches: short runs of few kinds, with any code point now and then.
std::string RandomText(std::mt19937_64& random) {
  static const std::vector<std::string> kPieces = {
      " ",      " ",        " ",      "  ",     "\n",     "\r", "\r\n",  "\t",  "\v",  "\u00A0",
      "\u3000", "\u2028",   "\u0085", "'",      "'s",     "'S", "'ſ",    "'re", "'RE", "'rE",
      "'ve",    "'ll",      "'lL",    "'l",     "'m",     "'D", "'t",    "'x",  "a",   "B",
      "é",      "e\u0301",  "東",     "ß",      "İ",      "ª",  "ʰ",     "ǅ",   "1",   "23",
      "4567",   "²",        "Ⅷ",      "٣",      "½",      ".",  "!?",    "_",   "-",   "€",
      "😀",      "👩\u200D🚀", "\u200B", "\uFEFF", "\u0301", "्",   "\uFFFD"};
  std::string text;
  for (int left = static_cast<int>(random() % 24); left > 0; --left) {
    if (random() % 8 != 0) {
      text += kPieces[random() % kPieces.size()];
      continue;
    }
    const char32_t planes[] = {0x80, 0x800, 0x3000, 0x10000, 0x110000};
    const char32_t c = random() % planes[random() % 5];
    if (!IsSurrogate(c) && !DisputedOnce()[c]) text += Utf8(c);
  }
  return text;
}

void ExpectAgreement(const char* pattern_text,
                     const std::function<void(std::string_view, WordFn)>& split) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const Pattern pattern(pattern_text);
  for (int i = 0; i < 50'000; ++i) {
    const std::string text = RandomText(random);
    std::vector<std::string> words;
    split(text, [&](std::string_view word) { words.emplace_back(word); });
    ASSERT_EQ(words, pattern.Split(text)) << "'" << text << "'";
  }
}

TEST(SplittersTest, SplitsAsThePatternOfGpt2) {
  ExpectAgreement(kGpt2Pattern, [](std::string_view text, WordFn fn) { SplitGpt2(text, fn); });
}
TEST(SplittersTest, SplitsAsThePatternOfLlama3) {
  ExpectAgreement(kLlama3Pattern,
                  [](std::string_view text, WordFn fn) { SplitLlama3(text, 3, fn); });
}
TEST(SplittersTest, SplitsAsThePatternOfQwen) {
  ExpectAgreement(kQwenPattern, [](std::string_view text, WordFn fn) { SplitLlama3(text, 1, fn); });
}

}  // namespace
}  // namespace chorale
