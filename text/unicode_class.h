// The classes of code points that pre-tokenizers ask for.
#pragma once

#include <cstdint>

namespace chorale {

enum class CharClass : uint8_t {
  kOther,    // neither of those below: punctuation, symbols, marks
  kLetter,   // \p{L}
  kNumber,   // \p{N}
  kSpace,    // \s: the property White_Space, but for the next
  kNewline,  // \r and \n
};

// A table of every code point, made at the first call; thread safe.
const uint8_t* CharClasses();
inline CharClass ClassOf(const uint8_t* classes, char32_t c) {
  return static_cast<CharClass>(classes[c]);
}

}  // namespace chorale
