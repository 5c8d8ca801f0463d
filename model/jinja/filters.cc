// The filters: what may stand after '|'.

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/jinja/builtins.h"
#include "model/jinja/operators.h"
#include "model/jinja/text.h"

namespace chorale::jinja {
namespace {

constexpr int64_t kIndentMax = 100;

absl::Status WrongSubject(std::string_view filter, const Value& value) {
  if (value.is_undefined()) return UndefinedFault(value);
  return Fault(absl::StrCat("the filter '", std::string(filter),
                            "' does not apply to a value of type '", value.type_name(), "'"));
}

absl::StatusOr<int64_t> IntegerSlot(const Bound& bound, size_t slot, std::string_view name) {
  if (bound[slot].is_integer()) return bound[slot].integer();
  return Fault(absl::StrCat("the argument '", std::string(name), "' must be an integer, not '",
                            bound[slot].type_name(), "'"));
}

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

absl::StatusOr<Value> Safe(Rendering& r, const Bound& bound) { return String(r, bound); }

// Unlike the method of strings, takes only white space, '-' and opening brackets for the end of a
// word.
std::string TitleOfWords(std::string_view text) {
  std::string result = Lower(text);
  bool starts_word = true;
  for (size_t at = 0; at < result.size(); at += CharacterBytes(result, at)) {
    if (starts_word) result[at] = absl::ascii_toupper(result[at]);
    const uint32_t c = CodePointAt(result, at);
    starts_word = IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
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
  if (bound.has(1) && !bound[1].is_none()) {
    ASSIGN_OR_RETURN(style.indent, IntegerSlot(bound, 1, "indent"));
    if (style.indent < 0 || style.indent > kIndentMax) {
      return Fault(absl::StrCat("tojson: indent ", style.indent, " is not from 0 to ", kIndentMax));
    }
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

absl::StatusOr<Value> Length(Rendering&, const Bound& bound) {
  const Value& value = *bound.self;
  if (value.is_undefined()) return Value::OfInt(0);
  if (const std::string* text = value.string()) return Value::OfInt(CharacterCount(*text));
  if (const Dictionary* dictionary = value.dictionary()) {
    return Value::OfInt(static_cast<int64_t>(dictionary->entries.size()));
  }
  const Sequence* sequence = value.sequence();
  if (sequence && sequence->type != Sequence::Type::kGenerator) {
    return Value::OfInt(static_cast<int64_t>(sequence->items.size()));
  }
  return WrongSubject("length", value);
}

absl::StatusOr<Value> Default(Rendering&, const Bound& bound) {
  const bool any_false = bound.has(1) && Truthy(bound[1]);
  if (!bound.self->is_undefined() && !(any_false && !Truthy(*bound.self))) return *bound.self;
  return bound.has(0) ? bound[0] : Value::OfString("");
}

absl::StatusOr<Value> First(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(std::vector<Value> items, Items(r.budget, *bound.self));
  if (items.empty()) return Value::OfUndefined("No first item, sequence was empty.");
  return items.front();
}

absl::StatusOr<Value> Last(Rendering& r, const Bound& bound) {
  if (const Sequence* s = bound.self->sequence(); s && s->type == Sequence::Type::kGenerator) {
    return WrongSubject("last", *bound.self);
  }
  ASSIGN_OR_RETURN(std::vector<Value> items, Items(r.budget, *bound.self));
  if (items.empty()) return Value::OfUndefined("No last item, sequence was empty.");
  return items.back();
}

absl::StatusOr<Value> List(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(std::vector<Value> items, Items(r.budget, *bound.self));
  return MakeSequence(r.budget, std::move(items));
}

absl::StatusOr<Value> Reverse(Rendering& r, const Bound& bound) {
  const Value minus_one = Value::OfInt(-1);
  if (bound.self->string()) return Slice(r, *bound.self, nullptr, nullptr, &minus_one);
  ASSIGN_OR_RETURN(std::vector<Value> items, Items(r.budget, *bound.self));
  std::reverse(items.begin(), items.end());
  return MakeSequence(r.budget, std::move(items), Sequence::Type::kGenerator);
}

absl::StatusOr<Value> Entries(Rendering& r, const Bound& bound) {
  std::vector<Value> items;
  if (const Dictionary* dictionary = bound.self->dictionary()) {
    for (const auto& [key, value] : dictionary->entries) {
      ASSIGN_OR_RETURN(Value pair, MakeSequence(r.budget, {key, value}, Sequence::Type::kTuple));
      items.push_back(std::move(pair));
    }
  } else if (!bound.self->is_undefined()) {
    return WrongSubject("items", *bound.self);
  }
  return MakeSequence(r.budget, std::move(items), Sequence::Type::kGenerator);
}

// item[path], where a path is an index, or names joined by dots as in 'function.name'.
absl::StatusOr<Value> AtPath(Rendering& r, Value item, const Value& path) {
  if (!path.string()) return Subscript(r, item, path);
  const std::string& text = *path.string();
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('.', begin), text.size());
    const std::string name = text.substr(begin, end - begin);
    int64_t index = 0;
    const bool is_index = !name.empty() &&
                          name.find_first_not_of("0123456789") == std::string::npos &&
                          absl::SimpleAtoi(name, &index);
    ASSIGN_OR_RETURN(item,
                     Subscript(r, item, is_index ? Value::OfInt(index) : Value::OfString(name)));
    begin = end + 1;
  }
  return item;
}

absl::StatusOr<Value> Join(Rendering& r, const Bound& bound) {
  std::string separator;
  if (bound.has(0)) {
    ASSIGN_OR_RETURN(separator, ToText(r.budget, bound[0]));
  }
  ASSIGN_OR_RETURN(std::vector<Value> items, Items(r.budget, *bound.self));
  std::string text;
  for (size_t i = 0; i < items.size(); ++i) {
    Value item = std::move(items[i]);
    if (bound.has(1) && !bound[1].is_none()) {
      ASSIGN_OR_RETURN(item, AtPath(r, item, bound[1]));
    }
    ASSIGN_OR_RETURN(const std::string part, ToText(r.budget, item));
    RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(separator.size() + part.size())));
    if (i > 0) text += separator;
    text += part;
  }
  return MakeString(r.budget, std::move(text));
}

absl::StatusOr<Value> ByAttribute(Rendering& r, std::vector<Value> items, const Arguments& rest) {
  const Value* path = nullptr;
  const Value* otherwise = nullptr;
  for (const auto& [name, value] : rest.named) {
    if (name != "attribute" && name != "default") {
      return Fault(absl::StrCat("the filter 'map' does not take the argument '", name, "'"));
    }
    (name == "attribute" ? path : otherwise) = &value;
  }
  if (!path) return Fault("the filter 'map' needs a filter's name or an attribute");
  for (Value& item : items) {
    ASSIGN_OR_RETURN(item, AtPath(r, item, *path));
    if (otherwise && item.is_undefined()) item = *otherwise;
  }
  return MakeSequence(r.budget, std::move(items), Sequence::Type::kGenerator);
}

absl::StatusOr<Value> Map(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(std::vector<Value> items, Items(r.budget, *bound.self));
  if (bound.rest.positional.empty()) return ByAttribute(r, std::move(items), bound.rest);
  const std::string* name = bound.rest.positional[0].string();
  const Builtin* filter = name ? FindFilter(*name) : nullptr;
  if (!filter) return absl::UnimplementedError("the filter 'map' names an unknown filter");
  Arguments arguments = bound.rest;
  arguments.positional.erase(arguments.positional.begin());
  if (filter->run == &Map) return Fault("the filter 'map' cannot apply itself");
  for (Value& item : items) {
    ASSIGN_OR_RETURN(item, RunBuiltin(r, *filter, &item, arguments));
  }
  return MakeSequence(r.budget, std::move(items), Sequence::Type::kGenerator);
}

// select, reject, selectattr and rejectattr.
template <bool kByAttribute, bool kKeeps>
absl::StatusOr<Value> Select(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(std::vector<Value> items, Items(r.budget, *bound.self));
  Arguments arguments = bound.rest;
  Value path;
  if (kByAttribute) {
    if (arguments.positional.empty()) return Fault("the name of an attribute is missing");
    path = arguments.positional[0];
    arguments.positional.erase(arguments.positional.begin());
  }
  const Builtin* test = nullptr;
  if (!arguments.positional.empty()) {
    const std::string* name = arguments.positional[0].string();
    test = name ? FindTest(*name) : nullptr;
    if (!test) return absl::UnimplementedError("a filter names an unknown test");
    arguments.positional.erase(arguments.positional.begin());
  }
  std::vector<Value> kept;
  for (Value& item : items) {
    Value subject = item;
    if (kByAttribute) {
      ASSIGN_OR_RETURN(subject, AtPath(r, item, path));
    }
    if (test) {
      ASSIGN_OR_RETURN(subject, RunBuiltin(r, *test, &subject, arguments));
    }
    if (Truthy(subject) == kKeeps) kept.push_back(std::move(item));
  }
  return MakeSequence(r.budget, std::move(kept), Sequence::Type::kGenerator);
}

// The number that a text shows in Python's notation, if it does.
std::optional<double> NumberIn(const std::string& text) {
  std::string plain(Strip(text, nullptr, true, true));
  if (plain.find_first_of("xXpP_") != std::string::npos) return std::nullopt;
  double number = 0;
  if (!absl::SimpleAtod(plain, &number)) return std::nullopt;
  return number;
}

absl::StatusOr<Value> Int(Rendering&, const Bound& bound) {
  const Value& value = *bound.self;
  const Value otherwise = bound.has(0) ? bound[0] : Value::OfInt(0);
  if (bound.has(1) && (!bound[1].is_integer() || bound[1].integer() != 10)) {
    return absl::UnimplementedError("the filter 'int' supports only base 10");
  }
  if (value.is_undefined()) return UndefinedFault(value);
  if (value.is_integer()) return Value::OfInt(value.integer());
  double number = 0;
  if (const std::string* text = value.string()) {
    int64_t integer = 0;
    if (absl::SimpleAtoi(std::string(Strip(*text, nullptr, true, true)), &integer)) {
      return Value::OfInt(integer);
    }
    const std::optional<double> shown = NumberIn(*text);
    if (!shown) return otherwise;
    number = *shown;
  } else if (value.is_number()) {
    number = value.number();
  } else {
    return otherwise;
  }
  if (!std::isfinite(number)) return otherwise;
  if (std::abs(number) >= 9.2e18) return Fault("an integer exceeds 64 bits");
  return Value::OfInt(static_cast<int64_t>(number));
}

absl::StatusOr<Value> Float(Rendering&, const Bound& bound) {
  const Value& value = *bound.self;
  if (value.is_undefined()) return UndefinedFault(value);
  if (value.is_number()) return Value::OfFloat(value.number());
  if (value.string()) {
    if (const std::optional<double> number = NumberIn(*value.string())) {
      return Value::OfFloat(*number);
    }
  }
  return bound.has(0) ? bound[0] : Value::OfFloat(0);
}

absl::StatusOr<Value> Abs(Rendering&, const Bound& bound) {
  const Value& value = *bound.self;
  if (!value.is_number()) return WrongSubject("abs", value);
  return Negative(value, value.number() < 0);
}

}  // namespace

const Builtin* FindFilter(std::string_view name) {
  static const std::array kFilters = {
      Builtin{"abs", &Abs},
      Builtin{"capitalize", &OfText<&Capitalize>},
      Builtin{"count", &Length},
      Builtin{"d", &Default, {"default_value", "boolean"}},
      Builtin{"default", &Default, {"default_value", "boolean"}},
      Builtin{"first", &First},
      Builtin{"float", &Float, {"default"}},
      Builtin{"int", &Int, {"default", "base"}},
      Builtin{"items", &Entries},
      Builtin{"join", &Join, {"d", "attribute"}},
      Builtin{"last", &Last},
      Builtin{"length", &Length},
      Builtin{"list", &List},
      Builtin{"lower", &OfText<&Lower>},
      Builtin{"map", &Map, {}, 0, true},
      Builtin{"reject", &Select<false, false>, {}, 0, true},
      Builtin{"rejectattr", &Select<true, false>, {}, 0, true},
      Builtin{"replace", &Replace, {"old", "new", "count"}, 2},
      Builtin{"reverse", &Reverse},
      Builtin{"safe", &Safe},
      Builtin{"select", &Select<false, true>, {}, 0, true},
      Builtin{"selectattr", &Select<true, true>, {}, 0, true},
      Builtin{"string", &String},
      Builtin{"title", &OfText<&TitleOfWords>},
      Builtin{"tojson", &ToJsonText, {"ensure_ascii", "indent", "separators", "sort_keys"}},
      Builtin{"trim", &Trim, {"chars"}},
      Builtin{"upper", &OfText<&Upper>},
  };
  const auto found = std::find_if(kFilters.begin(), kFilters.end(),
                                  [&](const Builtin& filter) { return filter.name == name; });
  return found == kFilters.end() ? nullptr : &*found;
}

}  // namespace chorale::jinja
