// The filters of text.
#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "text/jinja/filters.h"
#include "text/jinja/values/format.h"
#include "text/jinja/values/text.h"

namespace chorale::jinja {
namespace {

constexpr int64_t kIndentMax = 100;
constexpr int64_t kWidthMax = 100'000;

// A filter of str(value).
template <auto kFunction>
absl::StatusOr<Value> OfText(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::string text, ToText(r.budget, *bound.self));
  return MakeString(r.budget, kFunction(text));
}

absl::StatusOr<Value> String(Rendering& r, const Bound& bound) {
  if (bound.self->string()) return *bound.self;
  ASSIGN_OR_RETURN(std::string text, ToText(r.budget, *bound.self));
  return MakeString(r.budget, std::move(text));
}

absl::StatusOr<Value> Safe(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(std::string text, ToText(r.budget, *bound.self));
  return Value::OfMarkup(std::move(text));
}

template <bool kAlways>
absl::StatusOr<Value> Escape(Rendering& r, const Bound& bound) {
  if (!kAlways && bound.self->is_markup()) return *bound.self;
  ASSIGN_OR_RETURN(const std::string text, ToText(r.budget, *bound.self));
  ASSIGN_OR_RETURN(const Value escaped, MakeString(r.budget, EscapeHtml(text)));
  return Value::OfMarkup(*escaped.string());
}

// Unlike the method of strings, takes white space, '-' and opening brackets for the end of a word.
std::string TitleOfWords(std::string_view text) {
  std::string result;
  const auto ends_word = [](uint32_t c) {
    return IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  };
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    while (end < text.size() && !ends_word(CodePointAt(text, end)))
      end += CharacterBytes(text, end);
    if (end > at) {
      const size_t first = CharacterBytes(text, at);
      result += Upper(text.substr(at, first)) + Lower(text.substr(at + first, end - at - first));
    }
    if (end < text.size()) result += text.substr(end, CharacterBytes(text, end));
    at = end + (end < text.size() ? CharacterBytes(text, end) : 0);
  }
  return result;
}

absl::StatusOr<Value> Trim(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::string text, ToText(r.budget, *bound.self));
  const std::string* characters = bound.has(0) ? bound[0].string() : nullptr;
  if (bound.has(0) && !bound[0].is_none() && !characters) {
    return Fault("the argument 'chars' of the filter 'trim' must be a string");
  }
  if (characters) {
    RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(text.size()) *
                                   (static_cast<int64_t>(characters->size() / 32) + 1)));
  }
  return MakeString(r.budget, std::string(Strip(text, characters, true, true)));
}

absl::StatusOr<Value> Replace(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(std::string text, ToText(r.budget, *bound.self));
  Arguments arguments;
  for (size_t i = 0; i < 2; ++i) {
    ASSIGN_OR_RETURN(std::string part, ToText(r.budget, bound[i]));
    arguments.positional.push_back(Value::OfString(std::move(part)));
  }
  if (bound.has(2) && !bound[2].is_none()) arguments.positional.push_back(bound[2]);
  return RunMethod(r, Value::OfString(std::move(text)), "replace", std::move(arguments));
}

absl::StatusOr<Value> ToJsonText(Rendering& r, const Bound& bound) {
  JsonStyle style;
  if (bound.has(0)) style.ascii_only = Truthy(bound[0]);
  if (bound.has(1) && bound[1].string()) {
    style.indent_text = *bound[1].string();
    style.indent = 1;
  } else if (bound.has(1) && !bound[1].is_none()) {
    ASSIGN_OR_RETURN(style.indent, IntegerSlot(bound, 1, "indent"));
    if (style.indent > kIndentMax) {
      return Fault(absl::StrCat("tojson: indent ", style.indent, " is more than ", kIndentMax));
    }
    style.indent = std::max<int64_t>(style.indent, 0);
  }
  style.item_separator = style.indent < 0 ? ", " : ",";
  if (bound.has(2) && !bound[2].is_none()) {
    const Sequence* pair = bound[2].sequence();
    if (!pair || pair->items.size() != 2 || !pair->items[0].string() || !pair->items[1].string()) {
      return Fault("tojson: separators must be two strings");
    }
    style.item_separator = *pair->items[0].string();
    style.key_separator = *pair->items[1].string();
  }
  if (bound.has(3)) style.sort_keys = Truthy(bound[3]);
  ASSIGN_OR_RETURN(std::string text, ToJson(r.budget, *bound.self, style));
  return MakeString(r.budget, std::move(text));
}

absl::StatusOr<int64_t> WidthSlot(const Bound& bound, size_t slot, int64_t otherwise) {
  if (!bound.has(slot)) return otherwise;
  ASSIGN_OR_RETURN(const int64_t width, IntegerSlot(bound, slot, "width"));
  if (width > kWidthMax) return Fault(absl::StrCat("a width is more than ", kWidthMax));
  return width;
}

absl::StatusOr<Value> Center(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::string text, ToText(r.budget, *bound.self));
  ASSIGN_OR_RETURN(const int64_t width, WidthSlot(bound, 0, 80));
  return RunMethod(r, Value::OfString(text), "center", {.positional = {Value::OfInt(width)}});
}

absl::StatusOr<Value> Format(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::string text, ToText(r.budget, *bound.self));
  if (!bound.rest.positional.empty() && !bound.rest.named.empty()) {
    return Fault("the filter 'format' takes arguments by place or by name, not both");
  }
  if (!bound.rest.named.empty()) {
    std::vector<std::pair<Value, Value>> entries;
    for (const auto& [name, value] : bound.rest.named) {
      entries.emplace_back(Value::OfString(name), value);
    }
    ASSIGN_OR_RETURN(const Value mapping, MakeDictionary(r.budget, std::move(entries)));
    return FormatPercent(r.budget, text, mapping);
  }
  ASSIGN_OR_RETURN(const Value tuple,
                   MakeSequence(r.budget, bound.rest.positional, Sequence::Type::kTuple));
  return FormatPercent(r.budget, text, tuple);
}

// The lines of a text as str.splitlines gives them.
absl::StatusOr<std::vector<std::string>> LinesOf(Rendering& r, const std::string& text) {
  ASSIGN_OR_RETURN(const Value lines, RunMethod(r, Value::OfString(text), "splitlines", {}));
  std::vector<std::string> list;
  for (const Value& line : lines.sequence()->items) list.push_back(*line.string());
  return list;
}

absl::StatusOr<Value> Indent(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(std::string text, ToText(r.budget, *bound.self));
  std::string margin(4, ' ');
  if (bound.has(0) && bound[0].string()) {
    margin = *bound[0].string();
  } else if (bound.has(0)) {
    ASSIGN_OR_RETURN(const int64_t width, WidthSlot(bound, 0, 4));
    margin = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const bool first = bound.has(1) && Truthy(bound[1]);
  const bool blank = bound.has(2) && Truthy(bound[2]);
  ASSIGN_OR_RETURN(const std::vector<std::string> lines, LinesOf(r, text + "\n"));
  std::string out = first ? margin : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(margin.size() + lines[i].size())));
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += margin;
    out += lines[i];
  }
  return MakeString(r.budget, std::move(out));
}

// Cuts what is longer than length + leeway, at a word's end unless it may be killed.
absl::StatusOr<Value> Truncate(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::string text, ToText(r.budget, *bound.self));
  ASSIGN_OR_RETURN(const int64_t length, WidthSlot(bound, 0, 255));
  const bool kills_words = bound.has(1) && Truthy(bound[1]);
  std::string end = "...";
  if (bound.has(2)) {
    ASSIGN_OR_RETURN(end, ToText(r.budget, bound[2]));
  }
  int64_t leeway = 5;
  if (bound.has(3) && !bound[3].is_none()) {
    ASSIGN_OR_RETURN(leeway, IntegerSlot(bound, 3, "leeway"));
  }
  const int64_t end_size = CharacterCount(end);
  if (length < end_size) return Fault("truncate: the length is less than the end's");
  if (leeway < 0) return Fault("truncate: the leeway is less than zero");
  if (CharacterCount(text) <= length + leeway) return MakeString(r.budget, text);
  const Value limit = Value::OfInt(length - end_size);
  ASSIGN_OR_RETURN(const Value cut, Slice(r, Value::OfString(text), nullptr, &limit, nullptr));
  std::string kept = *cut.string();
  if (!kills_words) kept = kept.substr(0, kept.rfind(' '));
  return MakeString(r.budget, kept + end);
}

bool IsWordCharacter(uint32_t c) {
  return Is(CharacterKind::kAlpha, c) || Is(CharacterKind::kNumeric, c) || c == '_';
}

absl::StatusOr<Value> WordCount(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::string text, ToText(r.budget, *bound.self));
  int64_t words = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    const bool word = IsWordCharacter(CodePointAt(text, at));
    words += word && !inside;
    inside = word;
  }
  return Value::OfInt(words);
}

absl::StatusOr<Value> StripTags(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(std::string text, ToText(r.budget, *bound.self));
  for (const auto& [open, close] : {std::pair{"<!--", "-->"}, {"<", ">"}}) {
    std::string kept;
    size_t at = 0;
    while (at < text.size()) {
      const size_t begin = text.find(open, at);
      const size_t end =
          begin == std::string::npos ? begin : text.find(close, begin + std::string(open).size());
      if (end == std::string::npos) break;
      kept += text.substr(at, begin - at);
      at = end + std::string(close).size();
    }
    text = kept + text.substr(std::min(at, text.size()));
  }
  // Runs of white space become one space.
  ASSIGN_OR_RETURN(const Value words, RunMethod(r, Value::OfString(text), "split", {}));
  std::string out;
  for (const Value& word : words.sequence()->items) {
    if (!out.empty()) out += ' ';
    out += *word.string();
  }
  for (const auto& [entity, meant] : {std::pair{"&lt;", "<"},
                                      {"&gt;", ">"},
                                      {"&#39;", "'"},
                                      {"&#34;", "\""},
                                      {"&quot;", "\""},
                                      {"&amp;", "&"}}) {
    for (size_t at = out.find(entity); at != std::string::npos; at = out.find(entity, at + 1)) {
      out.replace(at, std::string(entity).size(), meant);
    }
  }
  return MakeString(r.budget, std::move(out));
}

std::string Quoted(std::string_view text, bool plus) {
  std::string out;
  for (const char c : text) {
    if (absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-' || c == '~' ||
        (c == '/' && !plus)) {
      out += c;
    } else if (c == ' ' && plus) {
      out += '+';
    } else {
      absl::StrAppendFormat(&out, "%%%02X", static_cast<uint8_t>(c));
    }
  }
  return out;
}

// Of a text, or of pairs as a query.
absl::StatusOr<Value> UrlEncode(Rendering& r, const Bound& bound) {
  const Value& value = *bound.self;
  if (value.string() || !(value.dictionary() || value.sequence())) {
    ASSIGN_OR_RETURN(const std::string text, ToText(r.budget, value));
    return MakeString(r.budget, Quoted(text, false));
  }
  std::vector<std::pair<Value, Value>> pairs;
  if (value.dictionary()) {
    pairs = value.dictionary()->entries;
  } else {
    ASSIGN_OR_RETURN(const std::vector<Value> items, Items(r.budget, value));
    for (const Value& item : items) {
      ASSIGN_OR_RETURN(const std::vector<Value> pair, Items(r.budget, item));
      if (pair.size() != 2) return Fault("urlencode: expected pairs");
      pairs.emplace_back(pair[0], pair[1]);
    }
  }
  std::string out;
  for (const auto& [key, item] : pairs) {
    ASSIGN_OR_RETURN(const std::string name, ToText(r.budget, key));
    ASSIGN_OR_RETURN(const std::string text, ToText(r.budget, item));
    if (!out.empty()) out += '&';
    out += Quoted(name, true) + "=" + Quoted(text, true);
    RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(text.size())));
  }
  return MakeString(r.budget, std::move(out));
}

absl::StatusOr<Value> XmlAttributes(Rendering& r, const Bound& bound) {
  const Dictionary* dictionary = bound.self->dictionary();
  if (!dictionary) return WrongSubject("xmlattr", *bound.self);
  std::string out;
  for (const auto& [key, value] : dictionary->entries) {
    if (value.is_none() || value.is_undefined()) continue;
    ASSIGN_OR_RETURN(const std::string name, ToText(r.budget, key));
    ASSIGN_OR_RETURN(const std::string text, ToText(r.budget, value));
    if (name.find_first_of(" \t\n\f\r/>=") != std::string::npos) {
      return Fault(absl::StrCat("xmlattr: '", name, "' is not the name of an attribute"));
    }
    if (!out.empty()) out += ' ';
    out += absl::StrCat(EscapeHtml(name), "=\"", EscapeHtml(text), "\"");
  }
  const bool spaced = !bound.has(0) || Truthy(bound[0]);
  ASSIGN_OR_RETURN(const Value text,
                   MakeString(r.budget, (spaced && !out.empty() ? " " : "") + out));
  return text;
}

absl::StatusOr<Value> FileSize(Rendering& r, const Bound& bound) {
  if (!bound.self->is_number()) return WrongSubject("filesizeformat", *bound.self);
  const double bytes = bound.self->number();
  const bool binary = bound.has(0) && Truthy(bound[0]);
  const double base = binary ? 1024 : 1000;
  if (bytes == 1) return MakeString(r.budget, "1 Byte");
  if (bytes < base)
    return MakeString(r.budget, absl::StrFormat("%d Bytes", static_cast<int64_t>(bytes)));
  double unit = base;
  std::string name;
  for (const char letter : std::string_view("kMGTPEZY")) {
    unit *= base;
    name =
        binary ? std::string(1, absl::ascii_toupper(letter)) + "iB" : std::string(1, letter) + "B";
    if (bytes < unit) break;
  }
  return MakeString(r.budget, absl::StrFormat("%.1f %s", base * bytes / unit, name));
}

}  // namespace

std::span<const Builtin> TextFilters() {
  static const std::array kFilters = {
      Builtin{"capitalize", &OfText<&Capitalize>},
      Builtin{"center", &Center, {"width"}},
      Builtin{"e", &Escape<false>},
      Builtin{"escape", &Escape<false>},
      Builtin{"filesizeformat", &FileSize, {"binary"}},
      Builtin{"forceescape", &Escape<true>},
      Builtin{"format", &Format, {}, 0, true},
      Builtin{"indent", &Indent, {"width", "first", "blank"}},
      Builtin{"lower", &OfText<&Lower>},
      Builtin{"replace", &Replace, {"old", "new", "count"}, 2},
      Builtin{"safe", &Safe},
      Builtin{"string", &String},
      Builtin{"striptags", &StripTags},
      Builtin{"title", &OfText<&TitleOfWords>},
      Builtin{"tojson", &ToJsonText, {"ensure_ascii", "indent", "separators", "sort_keys"}},
      Builtin{"trim", &Trim, {"chars"}},
      Builtin{"truncate", &Truncate, {"length", "killwords", "end", "leeway"}},
      Builtin{"upper", &OfText<&Upper>},
      Builtin{"urlencode", &UrlEncode},
      Builtin{"wordcount", &WordCount},
      Builtin{"xmlattr", &XmlAttributes, {"autospace"}},
  };
  return kFilters;
}

}  // namespace chorale::jinja
