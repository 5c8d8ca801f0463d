#include "text/jinja/values/format.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/values/format_spec.h"
#include "text/jinja/values/text.h"

namespace chorale::jinja {
namespace {

// As the letter of a conversion says: s, r or a.
absl::StatusOr<std::string> Converted(Budget& budget, char conversion, const Value& value) {
  if (conversion == 's') return ToText(budget, value);
  return conversion == 'r' ? ToRepr(budget, value) : ToAscii(budget, value);
}

// ---- The operator % ----

// One conversion: %[(name)][flags][width][.precision]type.
struct Conversion {
  std::optional<std::string> name;
  Spec spec;
  bool left = false;
  bool zero = false;
};

class PercentFormatter {
 public:
  PercentFormatter(Budget& budget, const Value& value) : budget_(budget), value_(value) {
    const Sequence* tuple = value.sequence();
    if (tuple && tuple->type == Sequence::Type::kTuple) arguments_ = &tuple->items;
  }

  absl::StatusOr<std::string> Run(std::string_view format) {
    std::string out;
    bool named = false;
    while (!format.empty()) {
      const size_t percent = std::min(format.find('%'), format.size());
      out += format.substr(0, percent);
      format.remove_prefix(percent);
      if (format.empty()) break;
      format.remove_prefix(1);
      ASSIGN_OR_RETURN(Conversion conversion, Parse(format));
      named |= conversion.name.has_value();
      if (conversion.spec.type == '%') {
        out += '%';
        continue;
      }
      ASSIGN_OR_RETURN(const Value value, ArgumentOf(conversion));
      ASSIGN_OR_RETURN(const std::string text, Shown(conversion, value));
      RETURN_IF_ERROR(budget_.Bytes(static_cast<int64_t>(text.size())));
      out += text;
    }
    const bool all_taken =
        arguments_ ? next_ == arguments_->size() : next_ == 1 || value_.dictionary() || named;
    if (!all_taken) return Fault("not all arguments were converted by the format");
    return out;
  }

 private:
  absl::StatusOr<Conversion> Parse(std::string_view& text) {
    Conversion conversion;
    if (!text.empty() && text[0] == '(') {
      const size_t end = text.find(')');
      if (end == std::string_view::npos) return Fault("a name in a format is not closed");
      conversion.name = std::string(text.substr(1, end - 1));
      text.remove_prefix(end + 1);
    }
    Spec& spec = conversion.spec;
    for (; !text.empty() && std::string_view("-+ #0").find(text[0]) != std::string_view::npos;
         text.remove_prefix(1)) {
      conversion.left |= text[0] == '-';
      conversion.zero |= text[0] == '0';
      spec.alternate |= text[0] == '#';
      if (text[0] == '+' || (text[0] == ' ' && spec.sign != '+')) spec.sign = text[0];
    }
    ASSIGN_OR_RETURN(spec.width, Size(text, kFieldWidthMax, "width"));
    if (!text.empty() && text[0] == '.') {
      text.remove_prefix(1);
      ASSIGN_OR_RETURN(spec.precision, Size(text, kPrecisionMax, "precision"));
    }
    while (!text.empty() && std::string_view("hlL").find(text[0]) != std::string_view::npos) {
      text.remove_prefix(1);
    }
    if (text.empty()) return Fault("a format ends within a conversion");
    spec.type = text[0];
    text.remove_prefix(1);
    return conversion;
  }

  // Digits, or a star for an argument.
  absl::StatusOr<int> Size(std::string_view& text, int most, const char* what) {
    if (text.empty() || text[0] != '*') return TakeNumber(text, most, what);
    text.remove_prefix(1);
    ASSIGN_OR_RETURN(const Value value, ArgumentOf({}));
    if (!value.is_integer() || value.integer() < 0 || value.integer() > most) {
      return Fault(absl::StrCat("a ", what, " in a format is not within 0 and ", most));
    }
    return static_cast<int>(value.integer());
  }

  absl::StatusOr<Value> ArgumentOf(const Conversion& conversion) {
    if (conversion.name) {
      const Dictionary* dictionary = value_.dictionary();
      if (!dictionary) return Fault("a format with names needs a mapping");
      const Value* found = FindKey(*dictionary, *conversion.name);
      if (!found) return Fault(absl::StrCat("the mapping has no key '", *conversion.name, "'"));
      return *found;
    }
    const size_t at = next_++;
    if (arguments_ ? at >= arguments_->size() : at > 0) {
      return Fault("there are not enough arguments for the format");
    }
    return arguments_ ? (*arguments_)[at] : value_;
  }

  absl::StatusOr<std::string> Shown(const Conversion& conversion, const Value& value) {
    Spec spec = conversion.spec;
    spec.align = conversion.left ? '<' : '>';
    if (spec.type == 's' || spec.type == 'r' || spec.type == 'a') {
      ASSIGN_OR_RETURN(std::string text, Converted(budget_, spec.type, value));
      if (spec.precision >= 0) text = Cut(text, spec.precision);
      return Pad(spec, "", text, spec.align);
    }
    if (spec.type == 'c') {
      if (value.string() && CharacterCount(*value.string()) == 1) {
        return Pad(spec, "", *value.string(), spec.align);
      }
      if (!value.is_integer()) return Fault("%c needs a number or one character");
      spec.precision = -1;
      return FormatInteger(spec, value);
    }
    if (!value.is_number()) {
      if (value.is_undefined()) return UndefinedFault(value);
      return Fault(absl::StrCat("%", std::string(1, spec.type), " needs a number, not a ",
                                value.type_name()));
    }
    if (conversion.zero && !conversion.left) {
      spec.fill = "0";
      spec.align = '=';
    }
    if (spec.type == 'i' || spec.type == 'u') spec.type = 'd';
    switch (spec.type) {
      case 'd':
        return Whole(spec, value);
      case 'x':
      case 'X':
      case 'o':
        if (value.As<double>()) return Fault("a float has no whole format here");
        return Whole(spec, value);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        return FormatFloat(spec, value.number());
      default:
        return Fault(
            absl::StrCat("the conversion '%", std::string(1, spec.type), "' is not known"));
    }
  }

  // A precision is the least number of digits.
  absl::StatusOr<std::string> Whole(Spec spec, const Value& value) {
    Value whole = value;
    if (const double* real = value.As<double>()) {
      if (!(std::abs(*real) < 9.2e18)) return Fault("a float is too large for %d");
      whole = Value::OfInt(static_cast<int64_t>(*real));
    }
    const int digits = std::exchange(spec.precision, -1);
    if (digits > 0) {
      Spec inner = {.fill = "0", .align = '=', .type = spec.type};
      inner.width = digits + (whole.big().ToDecimal()[0] == '-' ? 1 : 0);
      ASSIGN_OR_RETURN(const std::string text, FormatInteger(inner, whole));
      const bool negative = text[0] == '-';
      spec.fill = " ";
      return Pad(spec, SignOf(spec, negative), std::string_view(text).substr(negative ? 1 : 0),
                 spec.align == '=' ? '>' : spec.align);
    }
    return FormatInteger(spec, whole);
  }

  Budget& budget_;
  const Value& value_;
  const std::vector<Value>* arguments_ = nullptr;  // of a tuple
  size_t next_ = 0;
};

// ---- str.format ----

class BraceFormatter {
 public:
  BraceFormatter(Rendering& rendering, const Arguments& arguments)
      : rendering_(rendering), arguments_(arguments) {}

  absl::StatusOr<std::string> Run(std::string_view format, int level) {
    if (level > 2) return Fault("a format is nested too deep");
    std::string out;
    for (size_t at = 0; at < format.size();) {
      const char c = format[at];
      const bool doubled = at + 1 < format.size() && format[at + 1] == c;
      if ((c != '{' && c != '}') || doubled) {
        out += c;
        at += c == '{' || c == '}' ? 2 : 1;
        continue;
      }
      if (c == '}') return Fault("a single '}' is in a format");
      size_t end = at + 1;
      for (int open = 1; end < format.size(); ++end) {
        open += format[end] == '{' ? 1 : format[end] == '}' ? -1 : 0;
        if (open == 0) break;
      }
      if (end >= format.size()) return Fault("a '{' in a format is not closed");
      ASSIGN_OR_RETURN(const std::string text, Field(format.substr(at + 1, end - at - 1), level));
      RETURN_IF_ERROR(rendering_.budget.Bytes(static_cast<int64_t>(text.size())));
      out += text;
      at = end + 1;
    }
    return out;
  }

 private:
  // name[!conversion][:spec]
  absl::StatusOr<std::string> Field(std::string_view field, int level) {
    const size_t name_end = std::min(field.find_first_of("!:"), field.size());
    ASSIGN_OR_RETURN(Value value, Find(field.substr(0, name_end)));
    field.remove_prefix(name_end);
    if (!field.empty() && field[0] == '!') {
      if (field.size() < 2 || (field.size() > 2 && field[2] != ':')) {
        return Fault("a conversion in a format is one letter");
      }
      const char conversion = field[1];
      if (conversion != 's' && conversion != 'r' && conversion != 'a') {
        return Fault(
            absl::StrCat("the conversion '!", std::string(1, conversion), "' is not known"));
      }
      ASSIGN_OR_RETURN(std::string text, Converted(rendering_.budget, conversion, value));
      value = Value::OfString(std::move(text));
      field.remove_prefix(2);
    }
    if (!field.empty()) field.remove_prefix(1);
    ASSIGN_OR_RETURN(const std::string spec, Run(field, level + 1));
    return FormatSpec(rendering_.budget, value, spec);
  }

  // A number or a name, then .attributes and [items].
  absl::StatusOr<Value> Find(std::string_view path) {
    const size_t end = std::min(path.find_first_of(".["), path.size());
    ASSIGN_OR_RETURN(Value value, Argument(path.substr(0, end)));
    path.remove_prefix(end);
    while (!path.empty()) {
      const bool item = path[0] == '[';
      path.remove_prefix(1);
      const size_t stop = item ? path.find(']') : std::min(path.find_first_of(".["), path.size());
      if (stop == std::string_view::npos) return Fault("a '[' in a format is not closed");
      const std::string name(path.substr(0, stop));
      int64_t index = 0;
      const bool number = !name.empty() && absl::SimpleAtoi(name, &index);
      if (item) {
        ASSIGN_OR_RETURN(value, Subscript(rendering_, value,
                                          number ? Value::OfInt(index) : Value::OfString(name)));
      } else {
        ASSIGN_OR_RETURN(value, Attribute(rendering_, value, name));
      }
      if (value.is_undefined()) return UndefinedFault(value);
      path.remove_prefix(std::min(stop + (item ? 1 : 0), path.size()));
      if (item && !path.empty() && path[0] != '.' && path[0] != '[') {
        return Fault("only '.' or '[' may follow ']' in a format");
      }
    }
    return value;
  }

  absl::StatusOr<Value> Argument(std::string_view name) {
    const bool numbered =
        !name.empty() && std::all_of(name.begin(), name.end(), absl::ascii_isdigit);
    if (name.empty() || numbered) {
      const Numbering numbering = numbered ? Numbering::kGiven : Numbering::kCounted;
      if (numbering_ != Numbering::kNone && numbering_ != numbering) {
        return Fault("a format has fields with numbers and without");
      }
      numbering_ = numbering;
      size_t at = next_;
      if (!numbered) ++next_;
      if (numbered && !absl::SimpleAtoi(std::string(name), &at)) at = SIZE_MAX;
      if (at >= arguments_.positional.size()) {
        return Fault("there are not enough arguments for the format");
      }
      return arguments_.positional[at];
    }
    for (const auto& [key, value] : arguments_.named) {
      if (key == name) return value;
    }
    return Fault(absl::StrCat("the format has no argument '", std::string(name), "'"));
  }

  enum class Numbering { kNone, kCounted, kGiven };

  Rendering& rendering_;
  const Arguments& arguments_;
  Numbering numbering_ = Numbering::kNone;
  size_t next_ = 0;
};

}  // namespace

absl::StatusOr<Value> FormatPercent(Budget& budget, std::string_view format, const Value& value) {
  ASSIGN_OR_RETURN(std::string text, PercentFormatter(budget, value).Run(format));
  return MakeString(budget, std::move(text));
}

absl::StatusOr<Value> FormatBraces(Rendering& rendering, std::string_view format,
                                   const Arguments& arguments) {
  ASSIGN_OR_RETURN(std::string text, BraceFormatter(rendering, arguments).Run(format, 0));
  return MakeString(rendering.budget, std::move(text));
}

}  // namespace chorale::jinja
