#include "text/splitters.h"

#include <cstdint>

#include "text/unicode_class.h"
#include "text/utf8.h"

namespace chorale {

const char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char kLlama3Pattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char kQwenPattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

bool IsSpace(CharClass c) { return c == CharClass::kSpace || c == CharClass::kNewline; }

// A place in a text, with the class of the code point there.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text), classes_(CharClasses()) { Look(); }

  bool done() const { return position_ == text_.size(); }
  size_t position() const { return position_; }
  CharClass char_class() const { return class_; }
  char32_t value() const { return value_; }
  bool at(CharClass c) const { return !done() && class_ == c; }
  bool at_space() const { return !done() && IsSpace(class_); }

  void Next() {
    position_ += bytes_;
    Look();
  }
  void Reset(size_t position) {
    position_ = position;
    Look();
  }
  // Passes over at most `max` code points of a class; returns how many.
  int Skip(CharClass c, int max = INT32_MAX) {
    int count = 0;
    for (; count < max && at(c); ++count) Next();
    return count;
  }

 private:
  void Look() {
    if (done()) return;
    const uint8_t first = static_cast<uint8_t>(text_[position_]);
    if (first < 0x80) {
      value_ = first;
      bytes_ = 1;
    } else {
      const CodePoint c = CodePointAt(text_, position_);
      value_ = c.value;
      bytes_ = c.bytes;
    }
    class_ = ClassOf(classes_, value_);
  }

  std::string_view text_;
  const uint8_t* classes_;
  size_t position_ = 0;
  char32_t value_ = 0;
  int bytes_ = 0;
  CharClass class_ = CharClass::kOther;
};

char32_t Fold(char32_t c, bool ignore_case) {
  if (!ignore_case) return c;
  if (c >= 'A' && c <= 'Z') return c + ('a' - 'A');
  return c == 0x17F ? 's' : c;  // the long s, the only other letter that folds to one of these
}

// Passes over 's, 't, 're, 've, 'm, 'll or 'd; the cursor stays when there is none.
bool SkipContraction(Cursor& cursor, bool ignore_case) {
  if (cursor.done() || cursor.value() != '\'') return false;
  const size_t begin = cursor.position();
  cursor.Next();
  if (!cursor.done()) {
    const char32_t first = Fold(cursor.value(), ignore_case);
    cursor.Next();
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return true;
    const char32_t second = cursor.done() ? 0 : Fold(cursor.value(), ignore_case);
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
        (first == 'l' && second == 'l')) {
      cursor.Next();
      return true;
    }
  }
  cursor.Reset(begin);
  return false;
}

// \s+(?!\S)|\s+ at a space: all of the run, but for its last code point when something follows.
void SkipSpaces(Cursor& cursor) {
  size_t last = cursor.position();
  int count = 0;
  for (; cursor.at_space(); ++count) {
    last = cursor.position();
    cursor.Next();
  }
  if (!cursor.done() && count > 1) cursor.Reset(last);
}

void NextGpt2(Cursor& cursor) {
  if (SkipContraction(cursor, /*ignore_case=*/false)) return;
  const size_t begin = cursor.position();
  if (cursor.value() == ' ') cursor.Next();
  if (cursor.at(CharClass::kLetter) || cursor.at(CharClass::kNumber) ||
      cursor.at(CharClass::kOther)) {
    cursor.Skip(cursor.char_class());
    return;
  }
  cursor.Reset(begin);
  SkipSpaces(cursor);
}

// \s*[\r\n]+: through the last newline of a run of spaces.
bool SkipThroughNewlines(Cursor& cursor) {
  const size_t begin = cursor.position();
  size_t end = begin;
  while (cursor.at_space()) {
    const bool newline = cursor.at(CharClass::kNewline);
    cursor.Next();
    if (newline) end = cursor.position();
  }
  cursor.Reset(end);
  return end > begin;
}

void NextLlama3(Cursor& cursor, int digits_max) {
  if (SkipContraction(cursor, /*ignore_case=*/true)) return;
  if (cursor.Skip(CharClass::kLetter) > 0) return;
  if (cursor.Skip(CharClass::kNumber, digits_max) > 0) return;
  const size_t begin = cursor.position();
  const bool at_blank = cursor.value() == ' ';
  if (!cursor.at(CharClass::kNewline)) {
    cursor.Next();
    if (cursor.Skip(CharClass::kLetter) > 0) return;
    if (!at_blank) cursor.Reset(begin);
    if (cursor.Skip(CharClass::kOther) > 0) {
      cursor.Skip(CharClass::kNewline);
      return;
    }
    cursor.Reset(begin);
  }
  if (!SkipThroughNewlines(cursor)) SkipSpaces(cursor);
}

template <typename Next>
void Split(std::string_view text, WordFn fn, Next next) {
  Cursor cursor(text);
  while (!cursor.done()) {
    const size_t begin = cursor.position();
    next(cursor);
    fn(text.substr(begin, cursor.position() - begin));
  }
}

}  // namespace

void SplitGpt2(std::string_view text, WordFn fn) {
  Split(text, fn, [](Cursor& cursor) { NextGpt2(cursor); });
}

void SplitLlama3(std::string_view text, int digits_max, WordFn fn) {
  Split(text, fn, [=](Cursor& cursor) { NextLlama3(cursor, digits_max); });
}

}  // namespace chorale
