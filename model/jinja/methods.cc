// The methods of strings, lists, mappings and loops.

#include <algorithm>
#include <array>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/jinja/builtins.h"
#include "model/jinja/text.h"

namespace chorale::jinja {
namespace {

enum class Receiver { kString, kList, kMapping, kLoop, kOther };

Receiver ReceiverOf(const Value& value) {
  if (value.string()) return Receiver::kString;
  if (value.dictionary()) return Receiver::kMapping;
  if (value.As<std::shared_ptr<Loop>>()) return Receiver::kLoop;
  const Sequence* sequence = value.sequence();
  return sequence && sequence->type != Sequence::Type::kGenerator ? Receiver::kList
                                                                  : Receiver::kOther;
}

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

template <bool kStart>
absl::StatusOr<Value> EdgeMethod(Rendering& r, const Bound& bound) {
  const std::string_view text = *bound.self->string();
  std::vector<Value> choices = {bound[0]};
  if (const Sequence* tuple = bound[0].sequence(); tuple && tuple->type == Sequence::Type::kTuple) {
    choices = tuple->items;
  }
  RETURN_IF_ERROR(r.budget.Steps(static_cast<int64_t>(choices.size())));
  for (const Value& choice : choices) {
    const std::string* edge = choice.string();
    if (!edge) return Fault("startswith and endswith take a string or a tuple of strings");
    RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(edge->size())));
    if (edge->size() > text.size()) continue;
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

template <bool kFromRight>
absl::StatusOr<Value> FindText(Rendering& r, const Bound& bound) {
  const std::string& text = *bound.self->string();
  ASSIGN_OR_RETURN(const std::string* part, TextSlot(bound, 0));
  RETURN_IF_ERROR(ChargeSearch(r.budget, text, *part));
  const size_t at = kFromRight ? text.rfind(*part) : text.find(*part);
  if (at == std::string::npos) return Value::OfInt(-1);
  return Value::OfInt(CharacterCount(std::string_view(text).substr(0, at)));
}

absl::StatusOr<Value> CountText(Rendering& r, const Bound& bound) {
  const std::string& text = *bound.self->string();
  ASSIGN_OR_RETURN(const std::string* part, TextSlot(bound, 0));
  if (part->empty()) return Value::OfInt(CharacterCount(text) + 1);
  RETURN_IF_ERROR(ChargeSearch(r.budget, text, *part));
  int64_t count = 0;
  for (size_t at = text.find(*part); at != std::string::npos;
       at = text.find(*part, at + part->size())) {
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

template <bool (*kPredicate)(unsigned char)>
absl::StatusOr<Value> AllAscii(Rendering& r, const Bound& bound) {
  const std::string& text = *bound.self->string();
  RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(text.size())));
  return Value::OfBool(!text.empty() && std::all_of(text.begin(), text.end(), kPredicate));
}

template <bool kIndex>
absl::StatusOr<Value> CountOrIndex(Rendering& r, const Bound& bound) {
  int64_t count = 0;
  const std::vector<Value>& items = bound.self->sequence()->items;
  for (size_t i = 0; i < items.size(); ++i) {
    ASSIGN_OR_RETURN(const bool same, Equal(r.budget, items[i], bound[0]));
    if (same && kIndex) return Value::OfInt(static_cast<int64_t>(i));
    if (same) ++count;
  }
  if (kIndex) return Fault("index(): the value is not in the list");
  return Value::OfInt(count);
}

enum class Part { kItems, kKeys, kValues };

template <Part kPart>
absl::StatusOr<Value> PartsOf(Rendering& r, const Bound& bound) {
  std::vector<Value> items;
  for (const auto& [key, value] : bound.self->dictionary()->entries) {
    if (kPart != Part::kItems) {
      items.push_back(kPart == Part::kKeys ? key : value);
      continue;
    }
    ASSIGN_OR_RETURN(Value pair, MakeSequence(r.budget, {key, value}, Sequence::Type::kTuple));
    items.push_back(std::move(pair));
  }
  return MakeSequence(r.budget, std::move(items));
}

absl::StatusOr<Value> Get(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const Value* found, FindKey(r.budget, *bound.self->dictionary(), bound[0]));
  if (found) return *found;
  return bound.has(1) ? bound[1] : Value::OfNone();
}

absl::StatusOr<Value> Cycle(Rendering&, const Bound& bound) {
  const std::vector<Value>& choices = bound.rest.positional;
  if (choices.empty()) return Fault("loop.cycle() needs values to choose from");
  const Loop& loop = **bound.self->As<std::shared_ptr<Loop>>();
  return choices[static_cast<size_t>(loop.index) % choices.size()];
}

struct MethodEntry {
  Receiver receiver;
  Builtin builtin;
};

const auto& Methods() {
  using R = Receiver;
  static const std::array kMethods = {
      MethodEntry{R::kString, {"capitalize", &CaseMethod<&Capitalize>}},
      MethodEntry{R::kString, {"count", &CountText, {"sub"}, 1}},
      MethodEntry{R::kString, {"endswith", &EdgeMethod<false>, {"suffix"}, 1}},
      MethodEntry{R::kString, {"find", &FindText<false>, {"sub"}, 1}},
      MethodEntry{R::kString, {"isalnum", &AllAscii<&absl::ascii_isalnum>}},
      MethodEntry{R::kString, {"isalpha", &AllAscii<&absl::ascii_isalpha>}},
      MethodEntry{R::kString, {"isdigit", &AllAscii<&absl::ascii_isdigit>}},
      MethodEntry{R::kString, {"join", &JoinMethod, {"iterable"}, 1}},
      MethodEntry{R::kString, {"lower", &CaseMethod<&Lower>}},
      MethodEntry{R::kString, {"lstrip", &StripMethod<true, false>, {"chars"}}},
      MethodEntry{R::kString, {"replace", &ReplaceMethod, {"old", "new", "count"}, 2}},
      MethodEntry{R::kString, {"rfind", &FindText<true>, {"sub"}, 1}},
      MethodEntry{R::kString, {"rsplit", &Split<true>, {"sep", "maxsplit"}}},
      MethodEntry{R::kString, {"rstrip", &StripMethod<false, true>, {"chars"}}},
      MethodEntry{R::kString, {"split", &Split<false>, {"sep", "maxsplit"}}},
      MethodEntry{R::kString, {"splitlines", &SplitLines, {"keepends"}}},
      MethodEntry{R::kString, {"startswith", &EdgeMethod<true>, {"prefix"}, 1}},
      MethodEntry{R::kString, {"strip", &StripMethod<true, true>, {"chars"}}},
      MethodEntry{R::kString, {"title", &CaseMethod<&Title>}},
      MethodEntry{R::kString, {"upper", &CaseMethod<&Upper>}},
      MethodEntry{R::kList, {"count", &CountOrIndex<false>, {"value"}, 1}},
      MethodEntry{R::kList, {"index", &CountOrIndex<true>, {"value"}, 1}},
      MethodEntry{R::kMapping, {"get", &Get, {"key", "default"}, 1}},
      MethodEntry{R::kMapping, {"items", &PartsOf<Part::kItems>}},
      MethodEntry{R::kMapping, {"keys", &PartsOf<Part::kKeys>}},
      MethodEntry{R::kMapping, {"values", &PartsOf<Part::kValues>}},
      MethodEntry{R::kLoop, {"cycle", &Cycle, {}, 0, true}},
  };
  return kMethods;
}

}  // namespace

bool IsMethod(std::string_view name) {
  return std::any_of(Methods().begin(), Methods().end(),
                     [&](const MethodEntry& entry) { return entry.builtin.name == name; });
}

bool HasAttribute(const Value& self, std::string_view name) {
  static const std::set<std::string_view> kOfString = {
      "casefold",     "center",       "encode",    "expandtabs",   "format",   "format_map",
      "index",        "isascii",      "isdecimal", "isidentifier", "islower",  "isnumeric",
      "isprintable",  "isspace",      "istitle",   "isupper",      "ljust",    "maketrans",
      "partition",    "rindex",       "rjust",     "rpartition",   "swapcase", "translate",
      "removeprefix", "removesuffix", "zfill"};
  static const std::set<std::string_view> kOfList = {
      "append", "clear", "copy", "extend", "insert", "pop", "remove", "reverse", "sort"};
  static const std::set<std::string_view> kOfMapping = {"clear",   "copy",       "fromkeys", "pop",
                                                        "popitem", "setdefault", "update"};
  const Receiver receiver = ReceiverOf(self);
  if (receiver == Receiver::kString && kOfString.count(name) > 0) return true;
  if (receiver == Receiver::kMapping && kOfMapping.count(name) > 0) return true;
  if (receiver == Receiver::kList && self.sequence()->type == Sequence::Type::kList &&
      kOfList.count(name) > 0) {
    return true;
  }
  return std::any_of(Methods().begin(), Methods().end(), [&](const MethodEntry& entry) {
    return entry.receiver == receiver && entry.builtin.name == name;
  });
}

absl::StatusOr<Value> RunMethod(Rendering& rendering, const Value& self, std::string_view name,
                                Arguments arguments) {
  for (const MethodEntry& entry : Methods()) {
    if (entry.receiver == ReceiverOf(self) && entry.builtin.name == name) {
      return RunBuiltin(rendering, entry.builtin, &self, std::move(arguments));
    }
  }
  return absl::UnimplementedError(absl::StrCat("the method '", std::string(name), "' of a ",
                                               self.type_name(), " is not supported"));
}

}  // namespace chorale::jinja
