// The methods of strings.
#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/builtins.h"
#include "text/jinja/values/format.h"
#include "text/jinja/values/text.h"

namespace chorale::jinja {
namespace {

absl::StatusOr<const std::string*> TextSlot(const Bound& bound, size_t slot) {
  if (bound[slot].is_undefined()) return UndefinedFault(bound[slot]);
  if (const std::string* text = bound[slot].string()) return text;
  return Fault(
      absl::StrCat("a method of strings takes a string, not '", bound[slot].type_name(), "'"));
}

// The count in a slot; the default, below zero, means no limit.
absl::StatusOr<int64_t> CountSlot(const Bound& bound, size_t slot) {
  if (!bound.has(slot)) return -1;
  if (bound[slot].is_integer()) return bound[slot].integer();
  return Fault(absl::StrCat("expected an integer, found '", bound[slot].type_name(), "'"));
}

template <bool kLeft, bool kRight>
absl::StatusOr<Value> StripMethod(Rendering& r, const Bound& bound) {
  const std::string& text = *bound.self->string();
  const std::string* characters = nullptr;
  if (bound.has(0) && !bound[0].is_none()) {
    ASSIGN_OR_RETURN(characters, TextSlot(bound, 0));
    RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(text.size()) *
                                   (static_cast<int64_t>(characters->size() / 32) + 1)));
  }
  return MakeString(r.budget, std::string(Strip(text, characters, kLeft, kRight)));
}

template <auto kFunction>
absl::StatusOr<Value> CaseMethod(Rendering& r, const Bound& bound) {
  return MakeString(r.budget, kFunction(*bound.self->string()));
}

// The part of a text that the bounds in two slots leave, and how many characters come before it.
// Where the first bound lies behind the second or the text's end, not even an empty text is found.
struct TextPart {
  std::string_view text;
  int64_t before = 0;
  bool is_there = true;
};
absl::StatusOr<TextPart> PartOf(Rendering& r, const Bound& bound, size_t slot) {
  const std::string_view text = *bound.self->string();
  if (!bound.has(slot)) return TextPart{text};
  RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(text.size())));
  const int64_t count = CharacterCount(text);
  int64_t ends[2] = {0, count};
  for (size_t i = 0; i < 2; ++i) {
    if (!bound.has(slot + i) || bound[slot + i].is_none()) continue;
    if (!bound[slot + i].is_integer()) return Fault("the bounds of a search are integers");
    const int64_t at = bound[slot + i].integer();
    ends[i] = std::max<int64_t>(at < 0 ? at + count : at, 0);
  }
  ends[1] = std::min(ends[1], count);
  if (ends[0] > ends[1]) return TextPart{.is_there = false};
  size_t begin = 0;
  for (int64_t i = 0; i < ends[0]; ++i) begin += CharacterBytes(text, begin);
  size_t end = begin;
  for (int64_t i = ends[0]; i < ends[1]; ++i) end += CharacterBytes(text, end);
  return TextPart{text.substr(begin, end - begin), ends[0]};
}

template <bool kStart>
absl::StatusOr<Value> EdgeMethod(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const TextPart part, PartOf(r, bound, 1));
  const std::string_view text = part.text;
  std::vector<Value> choices = {bound[0]};
  if (const Sequence* tuple = bound[0].sequence(); tuple && tuple->type == Sequence::Type::kTuple) {
    choices = tuple->items;
  }
  RETURN_IF_ERROR(r.budget.Steps(static_cast<int64_t>(choices.size())));
  for (const Value& choice : choices) {
    const std::string* edge = choice.string();
    if (!edge) return Fault("startswith and endswith take a string or a tuple of strings");
    RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(edge->size())));
    if (!part.is_there || edge->size() > text.size()) continue;
    const size_t at = kStart ? 0 : text.size() - edge->size();
    if (text.substr(at, edge->size()) == *edge) return Value::OfBool(true);
  }
  return Value::OfBool(false);
}

absl::StatusOr<Value> MakeStrings(Rendering& r, const std::vector<std::string_view>& parts) {
  std::vector<Value> items;
  for (const std::string_view part : parts) {
    ASSIGN_OR_RETURN(Value item, MakeString(r.budget, std::string(part)));
    items.push_back(std::move(item));
  }
  return MakeSequence(r.budget, std::move(items));
}

// split and rsplit with no separator: at runs of white space, edges dropped.
std::vector<std::string_view> Words(std::string_view text, int64_t splits, bool from_right) {
  std::vector<std::string_view> words;
  text = Strip(text, nullptr, !from_right, from_right);
  while (!text.empty()) {
    if (splits == 0) {
      words.push_back(text);
      break;
    }
    size_t begin = 0, end = 0;  // of the white space beside the word
    if (from_right) {
      for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
        if (IsSpace(CodePointAt(text, at))) end = at + CharacterBytes(text, at);
      }
      words.push_back(text.substr(end));
      text = Strip(text.substr(0, end), nullptr, false, true);
    } else {
      while (begin < text.size() && !IsSpace(CodePointAt(text, begin))) {
        begin += CharacterBytes(text, begin);
      }
      words.push_back(text.substr(0, begin));
      text = Strip(text.substr(begin), nullptr, true, false);
    }
    if (splits > 0) --splits;
  }
  if (from_right) std::reverse(words.begin(), words.end());
  return words;
}

template <bool kFromRight>
absl::StatusOr<Value> Split(Rendering& r, const Bound& bound) {
  std::string_view text = *bound.self->string();
  ASSIGN_OR_RETURN(int64_t splits, CountSlot(bound, 1));
  if (!bound.has(0) || bound[0].is_none()) {
    if (kFromRight && splits >= 0) {
      // Every word found from the right costs a walk over what is left.
      RETURN_IF_ERROR(r.budget.Bytes(std::min(splits, static_cast<int64_t>(text.size())) *
                                     static_cast<int64_t>(text.size())));
    }
    RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(text.size())));
    return MakeStrings(r, Words(text, splits, kFromRight && splits >= 0));
  }
  ASSIGN_OR_RETURN(const std::string* separator, TextSlot(bound, 0));
  if (separator->empty()) return Fault("split by an empty separator");
  RETURN_IF_ERROR(ChargeSearch(r.budget, text, *separator));
  std::vector<std::string_view> parts;
  for (; splits != 0; --splits) {
    const size_t at = kFromRight ? text.rfind(*separator) : text.find(*separator);
    if (at == std::string_view::npos) break;
    RETURN_IF_ERROR(r.budget.Steps(1));
    parts.push_back(kFromRight ? text.substr(at + separator->size()) : text.substr(0, at));
    text = kFromRight ? text.substr(0, at) : text.substr(at + separator->size());
  }
  parts.push_back(text);
  if (kFromRight) std::reverse(parts.begin(), parts.end());
  return MakeStrings(r, parts);
}

absl::StatusOr<Value> SplitLines(Rendering& r, const Bound& bound) {
  const std::string_view text = *bound.self->string();
  const bool keeps_ends = bound.has(0) && Truthy(bound[0]);
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const uint32_t c = CodePointAt(text, at);
    size_t next = at + CharacterBytes(text, at);
    if ((c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
        c == 0x2029) {
      if (c == '\r' && next < text.size() && text[next] == '\n') ++next;
      lines.push_back(text.substr(begin, (keeps_ends ? next : at) - begin));
      begin = next;
    }
    at = next;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return MakeStrings(r, lines);
}

absl::StatusOr<Value> ReplaceMethod(Rendering& r, const Bound& bound) {
  const std::string& text = *bound.self->string();
  ASSIGN_OR_RETURN(const std::string* before, TextSlot(bound, 0));
  ASSIGN_OR_RETURN(const std::string* after, TextSlot(bound, 1));
  ASSIGN_OR_RETURN(int64_t count, CountSlot(bound, 2));
  RETURN_IF_ERROR(ChargeSearch(r.budget, text, *before));
  std::string result;
  size_t at = 0;
  while (count != 0) {
    const size_t found = text.find(*before, at);
    if (found == std::string::npos) break;
    RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(after->size()) + 1));
    if (static_cast<int64_t>(result.size()) > kTextBytesMax) break;  // MakeString refuses it
    result.append(text, at, found - at);
    result += *after;
    at = found + before->size();
    if (count > 0) --count;
    if (!before->empty()) continue;
    if (at >= text.size()) return MakeString(r.budget, std::move(result));
    const size_t character = CharacterBytes(text, at);
    result.append(text, at, character);
    at += character;
  }
  result.append(text, at);
  return MakeString(r.budget, std::move(result));
}

// find, rfind, index and rindex.
template <bool kFromRight, bool kMust>
absl::StatusOr<Value> FindText(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const TextPart part, PartOf(r, bound, 1));
  ASSIGN_OR_RETURN(const std::string* wanted, TextSlot(bound, 0));
  RETURN_IF_ERROR(ChargeSearch(r.budget, part.text, *wanted));
  const size_t at = kFromRight ? part.text.rfind(*wanted) : part.text.find(*wanted);
  if (!part.is_there || at == std::string_view::npos) {
    if (kMust) return Fault("index: the text is not found");
    return Value::OfInt(-1);
  }
  return Value::OfInt(part.before + CharacterCount(part.text.substr(0, at)));
}

absl::StatusOr<Value> CountText(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const TextPart in, PartOf(r, bound, 1));
  ASSIGN_OR_RETURN(const std::string* part, TextSlot(bound, 0));
  if (!in.is_there) return Value::OfInt(0);
  if (part->empty()) return Value::OfInt(CharacterCount(in.text) + 1);
  RETURN_IF_ERROR(ChargeSearch(r.budget, in.text, *part));
  int64_t count = 0;
  for (size_t at = in.text.find(*part); at != std::string_view::npos;
       at = in.text.find(*part, at + part->size())) {
    ++count;
  }
  return Value::OfInt(count);
}

absl::StatusOr<Value> JoinMethod(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Items(r.budget, bound[0]));
  std::string text;
  for (size_t i = 0; i < items.size(); ++i) {
    const std::string* part = items[i].string();
    if (!part) return Fault("join takes strings only");
    RETURN_IF_ERROR(
        r.budget.Bytes(static_cast<int64_t>(bound.self->string()->size() + part->size())));
    if (i > 0) text += *bound.self->string();
    text += *part;
  }
  return MakeString(r.budget, std::move(text));
}

// Whether there are characters, and all are of one of these kinds.
template <CharacterKind... kKinds>
absl::StatusOr<Value> AllAre(Rendering& r, const Bound& bound) {
  const std::string& text = *bound.self->string();
  RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(text.size())));
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    const uint32_t c = CodePointAt(text, at);
    if (!(Is(kKinds, c) || ...)) return Value::OfBool(false);
  }
  return Value::OfBool(!text.empty());
}

absl::StatusOr<Value> IsPrintable(Rendering& r, const Bound& bound) {
  if (bound.self->string()->empty()) return Value::OfBool(true);
  return AllAre<CharacterKind::kPrintable>(r, bound);
}

absl::StatusOr<Value> IsAscii(Rendering&, const Bound& bound) {
  const std::string& text = *bound.self->string();
  return Value::OfBool(
      std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; }));
}

absl::StatusOr<Value> IsSpaceMethod(Rendering&, const Bound& bound) {
  const std::string& text = *bound.self->string();
  return Value::OfBool(!text.empty() && Strip(text, nullptr, true, true).empty());
}

// islower, isupper and istitle are tests too, or title's own fixed point.
template <bool kUpper>
absl::StatusOr<Value> IsCase(Rendering& r, const Bound& bound) {
  return RunBuiltin(r, *FindTest(kUpper ? "upper" : "lower"), bound.self, {});
}
absl::StatusOr<Value> IsTitle(Rendering& r, const Bound& bound) {
  const std::string& text = *bound.self->string();
  RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(text.size())));
  return Value::OfBool(Title(text) == text && Lower(text) != text);
}

enum class Side { kLeft, kCenter, kRight };

// ljust, center and rjust.
template <Side kSide>
absl::StatusOr<Value> Justify(Rendering& r, const Bound& bound) {
  const std::string& text = *bound.self->string();
  ASSIGN_OR_RETURN(const int64_t width, CountSlot(bound, 0));
  std::string fill = " ";
  if (bound.has(1)) {
    ASSIGN_OR_RETURN(const std::string* given, TextSlot(bound, 1));
    if (CharacterCount(*given) != 1) return Fault("the fill is one character");
    fill = *given;
  }
  const int64_t missing = std::max<int64_t>(0, width - CharacterCount(text));
  if (missing > kTextBytesMax) return Fault("a text would be padded beyond its limit");
  RETURN_IF_ERROR(r.budget.Bytes(missing * static_cast<int64_t>(fill.size())));
  // As CPython shares out what is odd.
  const int64_t left = kSide == Side::kRight  ? missing
                       : kSide == Side::kLeft ? 0
                                              : missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += text;
  for (int64_t i = left; i < missing; ++i) out += fill;
  return MakeString(r.budget, std::move(out));
}

absl::StatusOr<Value> ZeroFill(Rendering& r, const Bound& bound) {
  const std::string& text = *bound.self->string();
  ASSIGN_OR_RETURN(const int64_t width, CountSlot(bound, 0));
  const int64_t missing = std::max<int64_t>(0, width - CharacterCount(text));
  if (missing > kTextBytesMax) return Fault("a text would be padded beyond its limit");
  const size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  return MakeString(
      r.budget,
      text.substr(0, sign) + std::string(static_cast<size_t>(missing), '0') + text.substr(sign));
}

template <bool kFromRight>
absl::StatusOr<Value> Partition(Rendering& r, const Bound& bound) {
  const std::string_view text = *bound.self->string();
  ASSIGN_OR_RETURN(const std::string* separator, TextSlot(bound, 0));
  if (separator->empty()) return Fault("partition by an empty separator");
  RETURN_IF_ERROR(ChargeSearch(r.budget, text, *separator));
  const size_t at = kFromRight ? text.rfind(*separator) : text.find(*separator);
  std::vector<std::string_view> parts = {text, "", ""};
  if (at != std::string_view::npos) {
    parts = {text.substr(0, at), *separator, text.substr(at + separator->size())};
  } else if (kFromRight) {
    parts = {"", "", text};
  }
  std::vector<Value> values;
  for (const std::string_view part : parts) {
    ASSIGN_OR_RETURN(Value value, MakeString(r.budget, std::string(part)));
    values.push_back(std::move(value));
  }
  return MakeSequence(r.budget, std::move(values), Sequence::Type::kTuple);
}

template <bool kStart>
absl::StatusOr<Value> RemoveEdge(Rendering& r, const Bound& bound) {
  std::string_view text = *bound.self->string();
  ASSIGN_OR_RETURN(const std::string* edge, TextSlot(bound, 0));
  if (kStart ? text.starts_with(*edge) : text.ends_with(*edge)) {
    kStart ? text.remove_prefix(edge->size()) : text.remove_suffix(edge->size());
  }
  return MakeString(r.budget, std::string(text));
}

absl::StatusOr<Value> ExpandTabs(Rendering& r, const Bound& bound) {
  const std::string& text = *bound.self->string();
  int64_t size = 8;
  if (bound.has(0)) {
    ASSIGN_OR_RETURN(size, CountSlot(bound, 0));
  }
  if (size > kTextBytesMax) return Fault("expandtabs: the size is too large");
  std::string out;
  int64_t column = 0;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    const std::string_view character = std::string_view(text).substr(at, CharacterBytes(text, at));
    if (character == "\t") {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      RETURN_IF_ERROR(r.budget.Bytes(spaces));
      out.append(static_cast<size_t>(spaces), ' ');
      column += spaces;
      continue;
    }
    out += character;
    column = character == "\n" || character == "\r" ? 0 : column + 1;
  }
  return MakeString(r.budget, std::move(out));
}

absl::StatusOr<Value> FormatMethod(Rendering& r, const Bound& bound) {
  return FormatBraces(r, *bound.self->string(), bound.rest);
}

absl::StatusOr<Value> FormatMap(Rendering& r, const Bound& bound) {
  const Dictionary* mapping = bound[0].dictionary();
  if (!mapping) return Fault("format_map takes a mapping");
  Arguments arguments;
  for (const auto& [key, value] : mapping->entries) {
    if (key.string()) arguments.named.emplace_back(*key.string(), value);
  }
  return FormatBraces(r, *bound.self->string(), arguments);
}

}  // namespace

const Builtin* FindTextMethod(std::string_view name) {
  using K = CharacterKind;
  static const std::array kMethods = {
      Builtin{"capitalize", &CaseMethod<&Capitalize>},
      Builtin{"casefold", &CaseMethod<&CaseFold>},
      Builtin{"center", &Justify<Side::kCenter>, {"width", "fillchar"}, 1},
      Builtin{"count", &CountText, {"sub", "start", "end"}, 1},
      Builtin{"endswith", &EdgeMethod<false>, {"suffix", "start", "end"}, 1},
      Builtin{"expandtabs", &ExpandTabs, {"tabsize"}},
      Builtin{"find", &FindText<false, false>, {"sub", "start", "end"}, 1},
      Builtin{"format", &FormatMethod, {}, 0, true},
      Builtin{"format_map", &FormatMap, {"mapping"}, 1},
      Builtin{"index", &FindText<false, true>, {"sub", "start", "end"}, 1},
      Builtin{"isalnum", &AllAre<K::kAlpha, K::kDecimal, K::kDigit, K::kNumeric>},
      Builtin{"isalpha", &AllAre<K::kAlpha>},
      Builtin{"isascii", &IsAscii},
      Builtin{"isdecimal", &AllAre<K::kDecimal>},
      Builtin{"isdigit", &AllAre<K::kDecimal, K::kDigit>},
      Builtin{"islower", &IsCase<false>},
      Builtin{"isnumeric", &AllAre<K::kNumeric, K::kDigit>},
      Builtin{"isprintable", &IsPrintable},
      Builtin{"isspace", &IsSpaceMethod},
      Builtin{"istitle", &IsTitle},
      Builtin{"isupper", &IsCase<true>},
      Builtin{"join", &JoinMethod, {"iterable"}, 1},
      Builtin{"ljust", &Justify<Side::kLeft>, {"width", "fillchar"}, 1},
      Builtin{"lower", &CaseMethod<&Lower>},
      Builtin{"lstrip", &StripMethod<true, false>, {"chars"}},
      Builtin{"partition", &Partition<false>, {"sep"}, 1},
      Builtin{"removeprefix", &RemoveEdge<true>, {"prefix"}, 1},
      Builtin{"removesuffix", &RemoveEdge<false>, {"suffix"}, 1},
      Builtin{"replace", &ReplaceMethod, {"old", "new", "count"}, 2},
      Builtin{"rfind", &FindText<true, false>, {"sub", "start", "end"}, 1},
      Builtin{"rindex", &FindText<true, true>, {"sub", "start", "end"}, 1},
      Builtin{"rjust", &Justify<Side::kRight>, {"width", "fillchar"}, 1},
      Builtin{"rpartition", &Partition<true>, {"sep"}, 1},
      Builtin{"rsplit", &Split<true>, {"sep", "maxsplit"}},
      Builtin{"rstrip", &StripMethod<false, true>, {"chars"}},
      Builtin{"split", &Split<false>, {"sep", "maxsplit"}},
      Builtin{"splitlines", &SplitLines, {"keepends"}},
      Builtin{"startswith", &EdgeMethod<true>, {"prefix", "start", "end"}, 1},
      Builtin{"strip", &StripMethod<true, true>, {"chars"}},
      Builtin{"swapcase", &CaseMethod<&SwapCase>},
      Builtin{"title", &CaseMethod<&Title>},
      Builtin{"upper", &CaseMethod<&Upper>},
      Builtin{"zfill", &ZeroFill, {"width"}, 1},
  };
  const auto found = std::find_if(kMethods.begin(), kMethods.end(),
                                  [&](const Builtin& method) { return method.name == name; });
  return found == kMethods.end() ? nullptr : &*found;
}

}  // namespace chorale::jinja
