#include "text/unicode_class.h"

#include <vector>

#include <utf8proc.h>

namespace chorale {
namespace {

constexpr char32_t kCodePoints = 0x110000;

bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

CharClass Classify(char32_t c) {
  if (c == '\r' || c == '\n') return CharClass::kNewline;
  if (IsWhiteSpace(c)) return CharClass::kSpace;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharClass::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharClass::kNumber;
    default:
      return CharClass::kOther;
  }
}

}  // namespace

const uint8_t* CharClasses() {
  static const std::vector<uint8_t> classes = [] {
    std::vector<uint8_t> all(kCodePoints);
    for (char32_t c = 0; c < kCodePoints; ++c) all[c] = static_cast<uint8_t>(Classify(c));
    return all;
  }();
  return classes.data();
}

}  // namespace chorale
