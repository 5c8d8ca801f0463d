// Text as Python's str has it: characters of UTF-8, white space, and number formats.
//
// A byte that is not part of valid UTF-8 counts as one character.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "text/jinja/values/value.h"

namespace chorale::jinja {

// Bytes of the character that starts at `at`, from 1 to 4.
size_t CharacterBytes(std::string_view text, size_t at);
int64_t CharacterCount(std::string_view text);
// The code point at `at`; a stray byte gives its own value with bit 31 set.
uint32_t CodePointAt(std::string_view text, size_t at);
// Appends a code point as UTF-8; surrogates and values beyond U+10FFFF become U+FFFD.
void AppendCodePoint(std::string& text, uint32_t code_point);

// Removes leading and trailing white space, or the characters of `*characters` if given.
std::string_view Strip(std::string_view text, const std::string* characters, bool left, bool right);
bool IsSpace(uint32_t code_point);

// & < > ' and " as HTML shows them.
std::string EscapeHtml(std::string_view text);

// By Unicode, with the one-to-many mappings of the letters that are in use.
std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Title(std::string_view text);
std::string Capitalize(std::string_view text);
std::string SwapCase(std::string_view text);
std::string CaseFold(std::string_view text);

// What a code point is, as str.isalpha() and the like ask.
enum class CharacterKind { kAlpha, kDecimal, kDigit, kNumeric, kLower, kUpper, kTitle, kPrintable };
bool Is(CharacterKind kind, uint32_t code_point);

// repr(float).
std::string FloatText(double value);

// Pays for looking for `part` in `text`.
absl::Status ChargeSearch(Budget& budget, std::string_view text, std::string_view part);

// `format` with the fields of a UTC time, as strftime in the C locale. InvalidArgument for a time
// outside the years 1 to 9999; Unimplemented for a conversion that is not known.
absl::StatusOr<std::string> FormatTime(std::string_view format, int64_t unix_seconds);

}  // namespace chorale::jinja
