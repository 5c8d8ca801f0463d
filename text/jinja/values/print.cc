// Values as text: str(), repr() and json.dumps() of Python, byte for byte.

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "text/jinja/values/text.h"
#include "text/jinja/values/value.h"

namespace chorale::jinja {
namespace {

absl::Status CheckSize(const std::string& text) {
  if (static_cast<int64_t>(text.size()) <= kTextBytesMax) return absl::OkStatus();
  return Fault(absl::StrCat("a value prints as more than ", kTextBytesMax, " bytes"));
}

void AppendEscape(std::string& out, uint32_t code_point) {
  if (code_point < 0x100) {
    absl::StrAppendFormat(&out, "\\x%02x", code_point);
  } else if (code_point < 0x10000) {
    absl::StrAppendFormat(&out, "\\u%04x", code_point);
  } else {
    absl::StrAppendFormat(&out, "\\U%08x", code_point);
  }
}

void AppendQuoted(std::string& out, std::string_view text) {
  const bool single = text.find('\'') == std::string_view::npos;
  const bool double_quotes = !single && text.find('"') == std::string_view::npos;
  const char quote = double_quotes ? '"' : '\'';
  out += quote;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    const char c = text[at];
    const uint32_t code_point = CodePointAt(text, at);
    if (c == quote || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += '\\';
      out += c == '\n' ? 'n' : (c == '\r' ? 'r' : 't');
    } else if (code_point > 0x10ffff || Is(CharacterKind::kPrintable, code_point)) {
      out += text.substr(at, CharacterBytes(text, at));
    } else {
      AppendEscape(out, code_point);
    }
  }
  out += quote;
}

absl::Status AppendRepr(Budget& budget, std::string& out, const Value& value);

absl::Status AppendSequence(Budget& budget, std::string& out, const Sequence& sequence) {
  switch (sequence.type) {
    case Sequence::Type::kGenerator:
      return Fault("a generator cannot be printed; apply the filter 'list' or 'join' first");
    case Sequence::Type::kRange:
      absl::StrAppend(&out, "range(", sequence.start, ", ", sequence.stop);
      if (sequence.step != 1) absl::StrAppend(&out, ", ", sequence.step);
      out += ')';
      return absl::OkStatus();
    case Sequence::Type::kKeys:
    case Sequence::Type::kValues:
    case Sequence::Type::kItems: {
      Sequence list = sequence;
      list.type = Sequence::Type::kList;
      out += sequence.type == Sequence::Type::kKeys     ? "dict_keys("
             : sequence.type == Sequence::Type::kValues ? "dict_values("
                                                        : "dict_items(";
      RETURN_IF_ERROR(AppendSequence(budget, out, list));
      out += ')';
      return absl::OkStatus();
    }
    default:
      break;
  }
  const bool tuple = sequence.type == Sequence::Type::kTuple;
  out += tuple ? '(' : '[';
  for (size_t i = 0; i < sequence.items.size(); ++i) {
    if (i > 0) out += ", ";
    RETURN_IF_ERROR(AppendRepr(budget, out, sequence.items[i]));
  }
  if (tuple && sequence.items.size() == 1) out += ',';
  out += tuple ? ')' : ']';
  return absl::OkStatus();
}

absl::Status AppendRepr(Budget& budget, std::string& out, const Value& value) {
  RETURN_IF_ERROR(budget.Steps(1));
  if (const std::string* text = value.string()) {
    if (value.is_markup()) out += "Markup(";
    AppendQuoted(out, *text);
    if (value.is_markup()) out += ')';
  } else if (value.is_undefined()) {
    out += "Undefined";
  } else if (value.is_none()) {
    out += "None";
  } else if (const bool* flag = value.As<bool>()) {
    out += *flag ? "True" : "False";
  } else if (value.is_integer()) {
    absl::StrAppend(&out, value.integer());
  } else if (value.is_big()) {
    out += value.big().ToDecimal();
  } else if (value.is_number()) {
    out += FloatText(value.number());
  } else if (const Sequence* sequence = value.sequence()) {
    RETURN_IF_ERROR(AppendSequence(budget, out, *sequence));
  } else if (const Dictionary* dictionary = value.dictionary()) {
    out += '{';
    for (size_t i = 0; i < dictionary->entries.size(); ++i) {
      if (i > 0) out += ", ";
      RETURN_IF_ERROR(AppendRepr(budget, out, dictionary->entries[i].first));
      out += ": ";
      RETURN_IF_ERROR(AppendRepr(budget, out, dictionary->entries[i].second));
    }
    out += '}';
  } else {
    return Fault(absl::StrCat("a ", value.type_name(), " cannot be printed"));
  }
  return CheckSize(out);
}

class JsonPrinter {
 public:
  JsonPrinter(Budget& budget, const JsonStyle& style) : budget_(budget), style_(style) {}

  absl::Status Print(const Value& value, int64_t level) {
    RETURN_IF_ERROR(budget_.Steps(1));
    if (const std::string* text = value.string()) {
      PrintString(*text);
    } else if (value.is_none()) {
      out_ += "null";
    } else if (const bool* flag = value.As<bool>()) {
      out_ += *flag ? "true" : "false";
    } else if (value.is_number()) {
      PrintNumber(value);
    } else if (const Dictionary* dictionary = value.dictionary()) {
      RETURN_IF_ERROR(PrintDictionary(*dictionary, level));
    } else if (const Sequence* sequence = value.sequence();
               sequence && (sequence->is_list() || sequence->type == Sequence::Type::kTuple)) {
      RETURN_IF_ERROR(PrintSequence(*sequence, level));
    } else {
      return Fault(
          absl::StrCat("tojson: a value of type '", value.type_name(), "' has no JSON form"));
    }
    return CheckSize(out_);
  }

  std::string TakeText() { return std::move(out_); }

 private:
  void PrintNumber(const Value& value) {
    if (value.is_integer() || value.is_big()) {
      out_ += value.big().ToDecimal();
    } else if (const double real = value.number(); std::isnan(real)) {
      out_ += "NaN";
    } else if (std::isinf(real)) {
      out_ += real < 0 ? "-Infinity" : "Infinity";
    } else {
      out_ += FloatText(real);
    }
  }

  void PrintString(std::string_view text) {
    out_ += '"';
    for (size_t at = 0; at < text.size();) {
      const size_t bytes = CharacterBytes(text, at);
      const uint32_t code_point = CodePointAt(text, at);
      static constexpr std::string_view kEscaped = "\"\\\n\r\t\f\b", kLetters = "\"\\nrtfb";
      const size_t escape = code_point < 0x80 ? kEscaped.find(text[at]) : std::string_view::npos;
      if (escape != std::string_view::npos) {
        out_ += '\\';
        out_ += kLetters[escape];
      } else if (code_point < 0x20 || (style_.ascii_only && code_point >= 0x7f)) {
        PrintCodeUnits(code_point);
      } else {
        out_ += text.substr(at, bytes);
      }
      at += bytes;
    }
    out_ += '"';
  }

  void PrintCodeUnits(uint32_t code_point) {
    if (code_point > 0x10ffff) code_point = 0xfffd;
    if (code_point < 0x10000) {
      absl::StrAppendFormat(&out_, "\\u%04x", code_point);
    } else {
      absl::StrAppendFormat(&out_, "\\u%04x\\u%04x", 0xd7c0 + (code_point >> 10),
                            0xdc00 + (code_point & 0x3ff));
    }
  }

  void NewLine(int64_t level) {
    if (style_.indent < 0) return;
    out_ += '\n';
    for (int64_t i = 0; i < style_.indent * level; ++i) out_ += style_.indent_text;
  }

  absl::Status PrintSequence(const Sequence& sequence, int64_t level) {
    out_ += '[';
    for (size_t i = 0; i < sequence.items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      NewLine(level + 1);
      RETURN_IF_ERROR(Print(sequence.items[i], level + 1));
    }
    if (!sequence.items.empty()) NewLine(level);
    out_ += ']';
    return absl::OkStatus();
  }

  absl::Status PrintKey(const Value& key) {
    if (key.string()) return Print(key, 0);
    out_ += '"';
    RETURN_IF_ERROR(Print(key, 0));
    out_ += '"';
    return absl::OkStatus();
  }

  absl::Status PrintDictionary(const Dictionary& dictionary, int64_t level) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dictionary.entries) {
      if (style_.sort_keys && !entry.first.string()) return Fault("tojson sorts only string keys");
      entries.push_back(&entry);
    }
    if (style_.sort_keys) {
      std::sort(entries.begin(), entries.end(), [](const auto* a, const auto* b) {
        return *a->first.string() < *b->first.string();
      });
    }
    out_ += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      NewLine(level + 1);
      RETURN_IF_ERROR(PrintKey(entries[i]->first));
      out_ += style_.key_separator;
      RETURN_IF_ERROR(Print(entries[i]->second, level + 1));
    }
    if (!entries.empty()) NewLine(level);
    out_ += '}';
    return absl::OkStatus();
  }

  Budget& budget_;
  const JsonStyle& style_;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> ToText(Budget& budget, const Value& value) {
  std::string out;
  if (value.is_undefined()) return out;
  if (const std::string* text = value.string()) {
    out = *text;
  } else {
    RETURN_IF_ERROR(AppendRepr(budget, out, value));
  }
  RETURN_IF_ERROR(budget.Bytes(static_cast<int64_t>(out.size())));
  return out;
}

absl::StatusOr<std::string> ToRepr(Budget& budget, const Value& value) {
  std::string out;
  RETURN_IF_ERROR(AppendRepr(budget, out, value));
  RETURN_IF_ERROR(budget.Bytes(static_cast<int64_t>(out.size())));
  return out;
}

absl::StatusOr<std::string> ToAscii(Budget& budget, const Value& value) {
  ASSIGN_OR_RETURN(const std::string text, ToRepr(budget, value));
  std::string out;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    const uint32_t code_point = CodePointAt(text, at);
    if (code_point < 0x80) {
      out += text[at];
    } else {
      AppendEscape(out, std::min<uint32_t>(code_point, 0x10ffff));
    }
  }
  RETURN_IF_ERROR(CheckSize(out));
  return out;
}

absl::StatusOr<std::string> ToJson(Budget& budget, const Value& value, const JsonStyle& style) {
  JsonPrinter printer(budget, style);
  RETURN_IF_ERROR(printer.Print(value, 0));
  std::string text = printer.TakeText();
  RETURN_IF_ERROR(budget.Bytes(static_cast<int64_t>(text.size())));
  return text;
}

}  // namespace chorale::jinja
