// Upper, lower and title case, and what code points are, by Unicode.
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <utf8proc.h>

#include "text/jinja/values/text.h"

namespace chorale::jinja {
namespace {

constexpr uint32_t kCapitalSigma = 0x3a3, kSmallSigma = 0x3c3, kFinalSigma = 0x3c2;

// Letters whose capitals are several (Unicode's SpecialCasing.txt), as far as they occur in words.
struct ManyToOne {
  uint32_t letter;
  std::string_view upper;
  std::string_view title;
};
constexpr ManyToOne kManyToOne[] = {
    {0xdf, "SS", "Ss"},
    {0x149, "\u02bcN", "\u02bcN"},
    {0x1f0, "J\u030c", "J\u030c"},
    {0xfb00, "FF", "Ff"},
    {0xfb01, "FI", "Fi"},
    {0xfb02, "FL", "Fl"},
    {0xfb03, "FFI", "Ffi"},
    {0xfb04, "FFL", "Ffl"},
    {0xfb05, "ST", "St"},
    {0xfb06, "ST", "St"},
    {0x587, "\u0535\u0552", "\u0535\u0582"},
};

enum class Case { kUpper, kLower, kTitle };

utf8proc_category_t CategoryOf(uint32_t code_point) {
  return code_point > 0x10ffff ? UTF8PROC_CATEGORY_CN
                               : utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

bool IsCased(uint32_t code_point) {
  const utf8proc_category_t category = CategoryOf(code_point);
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
         category == UTF8PROC_CATEGORY_LT || Is(CharacterKind::kLower, code_point);
}

// Appends a character in another case; a stray byte stays as it is.
void Append(std::string& out, std::string_view character, Case wanted) {
  const uint32_t code_point = CodePointAt(character, 0);
  if (code_point > 0x10ffff) {
    out += character;
    return;
  }
  const auto many = std::find_if(std::begin(kManyToOne), std::end(kManyToOne),
                                 [&](const ManyToOne& m) { return m.letter == code_point; });
  if (wanted != Case::kLower && many != std::end(kManyToOne)) {
    out += wanted == Case::kUpper ? many->upper : many->title;
    return;
  }
  const auto c = static_cast<utf8proc_int32_t>(code_point);
  if (wanted == Case::kLower && code_point == 0x130) {
    out += "i\u0307";  // a dotted capital I
    return;
  }
  AppendCodePoint(out, static_cast<uint32_t>(wanted == Case::kUpper   ? utf8proc_toupper(c)
                                             : wanted == Case::kLower ? utf8proc_tolower(c)
                                                                      : utf8proc_totitle(c)));
}

std::vector<std::string_view> Characters(std::string_view text) {
  std::vector<std::string_view> characters;
  for (size_t at = 0; at < text.size(); at += characters.back().size()) {
    characters.push_back(text.substr(at, CharacterBytes(text, at)));
  }
  return characters;
}

// A sigma that ends a word has a form of its own.
bool EndsWord(const std::vector<std::string_view>& characters, size_t at) {
  const auto cased = [&](size_t i) { return IsCased(CodePointAt(characters[i], 0)); };
  const auto ignored = [&](size_t i) {
    const utf8proc_category_t category = CategoryOf(CodePointAt(characters[i], 0));
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_LM ||
           characters[i] == "'" || characters[i] == "." || characters[i] == ":";
  };
  size_t before = at;
  while (before > 0 && ignored(before - 1)) --before;
  size_t after = at + 1;
  while (after < characters.size() && ignored(after)) ++after;
  return before > 0 && cased(before - 1) && !(after < characters.size() && cased(after));
}

void AppendLower(std::string& out, const std::vector<std::string_view>& characters, size_t at) {
  if (CodePointAt(characters[at], 0) == kCapitalSigma) {
    AppendCodePoint(out, EndsWord(characters, at) ? kFinalSigma : kSmallSigma);
  } else {
    Append(out, characters[at], Case::kLower);
  }
}

}  // namespace

std::string Upper(std::string_view text) {
  std::string out;
  for (std::string_view character : Characters(text)) Append(out, character, Case::kUpper);
  return out;
}

std::string Lower(std::string_view text) {
  const std::vector<std::string_view> characters = Characters(text);
  std::string out;
  for (size_t i = 0; i < characters.size(); ++i) AppendLower(out, characters, i);
  return out;
}

std::string Title(std::string_view text) {
  const std::vector<std::string_view> characters = Characters(text);
  std::string out;
  bool inside_word = false;
  for (size_t i = 0; i < characters.size(); ++i) {
    inside_word ? AppendLower(out, characters, i) : Append(out, characters[i], Case::kTitle);
    inside_word = IsCased(CodePointAt(characters[i], 0));
  }
  return out;
}

std::string Capitalize(std::string_view text) {
  const std::vector<std::string_view> characters = Characters(text);
  std::string out;
  for (size_t i = 0; i < characters.size(); ++i) {
    i == 0 ? Append(out, characters[i], Case::kTitle) : AppendLower(out, characters, i);
  }
  return out;
}

std::string SwapCase(std::string_view text) {
  const std::vector<std::string_view> characters = Characters(text);
  std::string out;
  for (size_t i = 0; i < characters.size(); ++i) {
    const uint32_t code_point = CodePointAt(characters[i], 0);
    if (Is(CharacterKind::kUpper, code_point)) {
      AppendLower(out, characters, i);
    } else {
      Append(out, characters[i], Case::kUpper);
    }
  }
  return out;
}

std::string CaseFold(std::string_view text) {
  std::string out;
  for (std::string_view character : Characters(text)) {
    const uint32_t code_point = CodePointAt(character, 0);
    const auto many = std::find_if(std::begin(kManyToOne), std::end(kManyToOne),
                                   [&](const ManyToOne& m) { return m.letter == code_point; });
    if (many != std::end(kManyToOne)) {
      out += Lower(many->upper);
    } else if (code_point == kFinalSigma) {
      AppendCodePoint(out, kSmallSigma);
    } else {
      Append(out, character, Case::kLower);
    }
  }
  return out;
}

bool Is(CharacterKind kind, uint32_t c) {
  const utf8proc_category_t category = CategoryOf(c);
  const auto between = [&](utf8proc_category_t first, utf8proc_category_t last) {
    return category >= first && category <= last;
  };
  switch (kind) {
    case CharacterKind::kAlpha:
      return between(UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LO);
    case CharacterKind::kDecimal:
      return category == UTF8PROC_CATEGORY_ND;
    case CharacterKind::kDigit:  // superscripts, subscripts and circled digits too
      return category == UTF8PROC_CATEGORY_ND || c == 0xb2 || c == 0xb3 || c == 0xb9 ||
             c == 0x2070 || (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
             (c >= 0x2460 && c <= 0x2468);
    case CharacterKind::kNumeric:
      return between(UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO);
    case CharacterKind::kLower:  // the letters that stand as marks of order, too
      return category == UTF8PROC_CATEGORY_LL || c == 0xaa || c == 0xba;
    case CharacterKind::kUpper:
      return category == UTF8PROC_CATEGORY_LU;
    case CharacterKind::kTitle:
      return category == UTF8PROC_CATEGORY_LT;
    case CharacterKind::kPrintable:
      return c == ' ' || (c <= 0x10ffff && !between(UTF8PROC_CATEGORY_ZS, UTF8PROC_CATEGORY_CO) &&
                          category != UTF8PROC_CATEGORY_CN);
  }
  return false;
}

}  // namespace chorale::jinja
