#include "text/jinja/values/text.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace chorale::jinja {
namespace {

constexpr uint32_t kStrayByte = 0x80000000u;
constexpr int64_t kSearchBytesPerStep = 32;

struct Character {
  uint32_t code_point;
  size_t bytes;
};

Character Decode(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(at);
  if (lead < 0x80) return {lead, 1};
  const size_t bytes = lead >= 0xf0 && lead < 0xf8   ? 4
                       : lead >= 0xe0 && lead < 0xf0 ? 3
                       : lead >= 0xc2 && lead < 0xe0 ? 2
                                                     : 1;
  if (bytes == 1 || at + bytes > text.size()) return {lead | kStrayByte, 1};
  uint32_t code_point = lead & (0x7fu >> bytes);
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return {lead | kStrayByte, 1};
    code_point = (code_point << 6) | (byte(at + i) & 0x3f);
  }
  return {code_point, bytes};
}

// The last character of text[0, end): continuation bytes are stepped over backwards.
size_t PreviousStart(std::string_view text, size_t end) {
  size_t start = end - 1;
  while (start > 0 && end - start < 4 && (static_cast<uint8_t>(text[start]) & 0xc0) == 0x80) {
    --start;
  }
  return start + Decode(text, start).bytes == end ? start : end - 1;
}

bool Holds(const std::string& characters, uint32_t code_point) {
  for (size_t at = 0; at < characters.size();) {
    const Character character = Decode(characters, at);
    if (character.code_point == code_point) return true;
    at += character.bytes;
  }
  return false;
}

// Days since 1970-01-01 to a date of the Gregorian calendar, by eras of 400 years counted from
// March, so that the leap day is the last of its year.
struct Date {
  int64_t year;
  int month;  // 1 to 12
  int day;    // 1 to 31
  int day_of_year;
};

Date DateOfDay(int64_t days_since_1970) {
  const int64_t days = days_since_1970 + 719468;  // since 0000-03-01
  const int64_t era = days >= 0 ? days / 146097 : (days - 146096) / 146097;
  const int64_t day_of_era = days - era * 146097;
  const int64_t year_of_era =
      (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  const int64_t day_of_year =
      day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const int64_t month_from_march = (5 * day_of_year + 2) / 153;
  Date date;
  date.day = static_cast<int>(day_of_year - (153 * month_from_march + 2) / 5 + 1);
  date.month =
      static_cast<int>(month_from_march < 10 ? month_from_march + 3 : month_from_march - 9);
  date.year = year_of_era + era * 400 + (date.month <= 2 ? 1 : 0);
  const bool leap = (date.year % 4 == 0 && date.year % 100 != 0) || date.year % 400 == 0;
  static constexpr int kDaysBefore[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
  date.day_of_year = kDaysBefore[date.month - 1] + date.day + (leap && date.month > 2 ? 1 : 0);
  return date;
}

constexpr const char* kMonths[] = {"January",   "February", "March",    "April",
                                   "May",       "June",     "July",     "August",
                                   "September", "October",  "November", "December"};
constexpr const char* kWeekdays[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                     "Thursday", "Friday", "Saturday"};

// One conversion of strftime; empty for an unknown one.
std::string TimeField(char conversion, const Date& date, int weekday, int second_of_day) {
  const int hour = second_of_day / 3600;
  const int hour_of_half = hour % 12 == 0 ? 12 : hour % 12;
  switch (conversion) {
    case 'Y':
      return absl::StrCat(date.year);
    case 'y':
      return absl::StrFormat("%02d", date.year % 100);
    case 'm':
      return absl::StrFormat("%02d", date.month);
    case 'd':
      return absl::StrFormat("%02d", date.day);
    case 'e':
      return absl::StrFormat("%2d", date.day);
    case 'j':
      return absl::StrFormat("%03d", date.day_of_year);
    case 'B':
      return kMonths[date.month - 1];
    case 'b':
      return std::string(kMonths[date.month - 1], 3);
    case 'A':
      return kWeekdays[weekday];
    case 'a':
      return std::string(kWeekdays[weekday], 3);
    case 'H':
      return absl::StrFormat("%02d", hour);
    case 'I':
      return absl::StrFormat("%02d", hour_of_half);
    case 'p':
      return hour < 12 ? "AM" : "PM";
    case 'M':
      return absl::StrFormat("%02d", second_of_day / 60 % 60);
    case 'S':
      return absl::StrFormat("%02d", second_of_day % 60);
    case '%':
      return "%";
    default:
      return "";
  }
}

}  // namespace

size_t CharacterBytes(std::string_view text, size_t at) { return Decode(text, at).bytes; }

uint32_t CodePointAt(std::string_view text, size_t at) { return Decode(text, at).code_point; }

int64_t CharacterCount(std::string_view text) {
  int64_t count = 0;
  for (size_t at = 0; at < text.size(); at += Decode(text, at).bytes) ++count;
  return count;
}

void AppendCodePoint(std::string& text, uint32_t code_point) {
  if (code_point > 0x10ffff || (code_point >= 0xd800 && code_point < 0xe000)) code_point = 0xfffd;
  const auto tail = [&](int shift) {
    text += static_cast<char>(0x80 | ((code_point >> shift) & 0x3f));
  };
  if (code_point < 0x80) {
    text += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    text += static_cast<char>(0xc0 | (code_point >> 6));
    tail(0);
  } else if (code_point < 0x10000) {
    text += static_cast<char>(0xe0 | (code_point >> 12));
    tail(6);
    tail(0);
  } else {
    text += static_cast<char>(0xf0 | (code_point >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

bool IsSpace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

std::string_view Strip(std::string_view text, const std::string* characters, bool left,
                       bool right) {
  const auto goes = [&](uint32_t code_point) {
    return characters ? Holds(*characters, code_point) : IsSpace(code_point);
  };
  size_t begin = 0;
  while (left && begin < text.size() && goes(CodePointAt(text, begin))) {
    begin += CharacterBytes(text, begin);
  }
  text.remove_prefix(begin);
  while (right && !text.empty()) {
    const size_t start = PreviousStart(text, text.size());
    if (!goes(CodePointAt(text, start))) break;
    text = text.substr(0, start);
  }
  return text;
}

std::string EscapeHtml(std::string_view text) {
  return absl::StrReplaceAll(
      std::string(text),
      {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}});
}

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char digits[400];
  const double size = std::abs(value);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto format = plain ? std::chars_format::fixed : std::chars_format::scientific;
  const auto end = std::to_chars(digits, digits + sizeof(digits), value, format).ptr;
  std::string text(digits, end);
  if (plain && text.find('.') == std::string::npos) text += ".0";
  return text;
}

absl::Status ChargeSearch(Budget& budget, std::string_view text, std::string_view part) {
  if (part.size() > text.size()) return absl::OkStatus();
  const auto steps = static_cast<int64_t>(part.size()) / kSearchBytesPerStep + 1;
  return budget.Bytes(static_cast<int64_t>(text.size()) * steps + 1);
}

absl::StatusOr<std::string> FormatTime(std::string_view format, int64_t unix_seconds) {
  constexpr int64_t kSecondsPerDay = 86400;
  constexpr int64_t kYear1 = -62135596800, kYear10000 = 253402300800;
  if (unix_seconds < kYear1 || unix_seconds >= kYear10000) {
    return Fault(absl::StrCat("field 'current_time_unix': ", unix_seconds,
                              " is outside the years 1 to 9999"));
  }
  const int64_t second_of_day = ((unix_seconds % kSecondsPerDay) + kSecondsPerDay) % kSecondsPerDay;
  const int64_t day = (unix_seconds - second_of_day) / kSecondsPerDay;
  const Date date = DateOfDay(day);
  const int weekday = static_cast<int>(((day + 4) % 7 + 7) % 7);  // 1970-01-01 was a Thursday
  std::string result;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      result += format[i];
      continue;
    }
    size_t at = i + 1;
    const bool unpadded = at < format.size() && format[at] == '-';
    if (unpadded) ++at;
    std::string field = at < format.size()
                            ? TimeField(format[at], date, weekday, static_cast<int>(second_of_day))
                            : "";
    if (field.empty()) {
      return absl::UnimplementedError(absl::StrCat("strftime_now does not know the conversion '",
                                                   std::string(format.substr(i, 3)), "'"));
    }
    const size_t padding = unpadded ? field.find_first_not_of("0 ") : 0;
    if (unpadded) field.erase(0, std::min(padding, field.size() - 1));
    result += field;
    i = at;
  }
  return result;
}

}  // namespace chorale::jinja
