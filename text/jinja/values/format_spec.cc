#include "text/jinja/values/format_spec.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "text/jinja/values/format.h"
#include "text/jinja/values/text.h"

namespace chorale::jinja {
namespace {

// Digits with a separator between groups of `size`; what is no digit ends the whole part.
std::string Group(std::string_view digits, char separator, size_t size) {
  const size_t whole = std::min(digits.find_first_of(".eE%"), digits.size());
  std::string out;
  for (size_t i = 0; i < whole; ++i) {
    if (i > 0 && (whole - i) % size == 0) out += separator;
    out += digits[i];
  }
  return absl::StrCat(out, std::string(digits.substr(whole)));
}

std::string FloatDigits(const Spec& spec, double value) {
  const double size = std::abs(value);
  const char type = spec.type == '\0' ? (spec.precision < 0 ? 'r' : 'g') : spec.type;
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  std::string text;
  switch (type) {
    case 'r':
      return FloatText(size);
    case 'e':
      text = absl::StrFormat("%.*e", precision, size);
      break;
    case 'E':
      text = absl::StrFormat("%.*E", precision, size);
      break;
    case 'f':
    case 'F':
      text = absl::StrFormat("%.*f", precision, size);
      break;
    case '%':
      text = absl::StrFormat("%.*f%%", precision, size * 100);
      break;
    case 'G':
      text = spec.alternate ? absl::StrFormat("%#.*G", precision, size)
                            : absl::StrFormat("%.*G", precision, size);
      break;
    default:
      text = spec.alternate ? absl::StrFormat("%#.*g", precision, size)
                            : absl::StrFormat("%.*g", precision, size);
      // Without a type there is a digit behind the point.
      if (spec.type == '\0' && text.find_first_of(".enif") == std::string::npos) text += ".0";
  }
  return text;
}

}  // namespace

absl::StatusOr<int> TakeNumber(std::string_view& text, int most, const char* what) {
  int number = 0;
  while (!text.empty() && absl::ascii_isdigit(text[0])) {
    number = number * 10 + (text[0] - '0');
    if (number > most) {
      return Fault(absl::StrCat("a ", what, " in a format is more than ", most));
    }
    text.remove_prefix(1);
  }
  return number;
}

absl::StatusOr<Spec> ParseSpec(std::string_view text) {
  Spec spec;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '=' || c == '^'; };
  const size_t first = text.empty() ? 0 : CharacterBytes(text, 0);
  if (text.size() > first && is_align(text[first])) {
    spec.fill = std::string(text.substr(0, first));
    spec.align = text[first];
    text.remove_prefix(first + 1);
  } else if (!text.empty() && is_align(text[0])) {
    spec.align = text[0];
    text.remove_prefix(1);
  }
  const auto take = [&](std::string_view any) {
    if (text.empty() || any.find(text[0]) == std::string_view::npos) return '\0';
    const char c = text[0];
    text.remove_prefix(1);
    return c;
  };
  if (const char sign = take("+- ")) spec.sign = sign;
  spec.alternate = take("#") != '\0';
  if (take("0") != '\0' && spec.align == '\0') {
    spec.fill = "0";
    spec.align = '=';
  }
  ASSIGN_OR_RETURN(spec.width, TakeNumber(text, kFieldWidthMax, "width"));
  spec.grouping = take(",_");
  if (take(".") != '\0') {
    if (text.empty() || !absl::ascii_isdigit(text[0])) return Fault("a precision is missing");
    ASSIGN_OR_RETURN(spec.precision, TakeNumber(text, kPrecisionMax, "precision"));
  }
  spec.type = take("bcdeEfFgGnosxX%");
  if (!text.empty()) {
    return Fault(absl::StrCat("a format ends with '", std::string(text.substr(0, 20)), "'"));
  }
  return spec;
}

std::string Pad(const Spec& spec, std::string_view sign, std::string_view body, char align) {
  const int64_t size = CharacterCount(sign) + CharacterCount(body);
  const int64_t missing = std::max<int64_t>(0, spec.width - size);
  const int64_t left = align == '^' ? missing / 2 : align == '>' ? missing : 0;
  const int64_t inside = align == '=' ? missing : 0;
  std::string out;
  const auto fill = [&](int64_t count) {
    for (int64_t i = 0; i < count; ++i) out += spec.fill;
  };
  fill(left);
  out += sign;
  fill(inside);
  out += body;
  fill(missing - left - inside);
  return out;
}

std::string SignOf(const Spec& spec, bool negative) {
  if (negative) return "-";
  return spec.sign == '-' ? "" : std::string(1, spec.sign);
}

absl::StatusOr<std::string> FormatFloat(const Spec& spec, double value) {
  if (spec.type != '\0' && std::string_view("eEfFgGn%").find(spec.type) == std::string_view::npos) {
    return Fault(absl::StrCat("a float has no format '", std::string(1, spec.type), "'"));
  }
  std::string digits = FloatDigits(spec, value);
  if (spec.grouping != '\0') digits = Group(digits, spec.grouping, 3);
  return Pad(spec, SignOf(spec, std::signbit(value) && !std::isnan(value)), digits,
             spec.align == '\0' ? '>' : spec.align);
}

absl::StatusOr<std::string> FormatInteger(const Spec& spec, const Value& value) {
  if (spec.type != '\0' && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos) {
    return FormatFloat(spec, value.number());
  }
  if (spec.precision >= 0) return Fault("an integer has no precision in a format");
  if (spec.type == 's') return Fault("an integer has no format 's'");
  if (spec.type == 'c') {
    std::string character;
    if (!value.is_integer() || value.integer() < 0 || value.integer() > 0x10ffff) {
      return Fault("a character's number is not within 0 and 0x10ffff");
    }
    AppendCodePoint(character, static_cast<uint32_t>(value.integer()));
    return Pad(spec, "", character, spec.align == '\0' ? '<' : spec.align);
  }
  const int base = spec.type == 'b'                       ? 2
                   : spec.type == 'o'                     ? 8
                   : spec.type == 'x' || spec.type == 'X' ? 16
                                                          : 10;
  std::string digits = value.big().ToBase(base);
  const bool negative = digits[0] == '-';
  if (negative) digits.erase(0, 1);
  std::string prefix = SignOf(spec, negative);
  if (spec.grouping != '\0') digits = Group(digits, spec.grouping, base == 10 ? 3 : 4);
  if (spec.alternate && base != 10) prefix += absl::StrCat("0", std::string(1, spec.type));
  if (spec.type == 'X') digits = absl::AsciiStrToUpper(digits);
  return Pad(spec, prefix, digits, spec.align == '\0' ? '>' : spec.align);
}

std::string Cut(std::string_view text, int64_t characters) {
  size_t end = 0;
  for (; characters > 0 && end < text.size(); --characters) end += CharacterBytes(text, end);
  return std::string(text.substr(0, end));
}

absl::StatusOr<std::string> FormatSpec(Budget& budget, const Value& value, std::string_view text) {
  if (text.empty() || value.is_undefined()) return ToText(budget, value);
  ASSIGN_OR_RETURN(const Spec spec, ParseSpec(text));
  if (value.As<double>()) return FormatFloat(spec, value.number());
  if (value.is_number()) return FormatInteger(spec, value);
  if (!value.string()) {
    return Fault(absl::StrCat("a ", value.type_name(), " takes no format '",
                              std::string(text.substr(0, 20)), "'"));
  }
  if (spec.type != '\0' && spec.type != 's') {
    return Fault(absl::StrCat("a string has no format '", std::string(1, spec.type), "'"));
  }
  if (spec.align == '=' || spec.sign != '-' || spec.grouping != '\0' || spec.alternate) {
    if (spec.fill == "0" && spec.align == '=') return Fault("a string has no sign to pad behind");
    return Fault("a string takes neither sign nor '=' nor grouping in a format");
  }
  const std::string shown =
      spec.precision >= 0 ? Cut(*value.string(), spec.precision) : *value.string();
  return Pad(spec, "", shown, spec.align == '\0' ? '<' : spec.align);
}

}  // namespace chorale::jinja
