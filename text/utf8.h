// UTF-8, code point by code point.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace chorale {

inline constexpr char32_t kReplacement = 0xFFFD;

// What begins at one byte of a text.
struct CodePoint {
  char32_t value = kReplacement;
  int bytes = 1;  // when not valid: of the longest beginning of a code point (Unicode 15, 3.9)
  bool valid = false;
  bool open = false;  // not valid, because the text ends in the middle of it
};

// `position` lies within the text.
CodePoint CodePointAt(std::string_view text, size_t position);

void AppendUtf8(char32_t value, std::string& text);

// The offset of the first byte that is not UTF-8.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

// Moves the whole code points of `bytes` to the result, invalid ones as U+FFFD, and leaves an open
// one at the end.
std::string TakeUtf8(std::string& bytes);
// All of `bytes`; an open code point at the end becomes U+FFFD too.
std::string ToValidUtf8(std::string bytes);

}  // namespace chorale
