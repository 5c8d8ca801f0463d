// What '.', '[ ]' and slices give.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/builtins.h"
#include "text/jinja/syntax/ast.h"
#include "text/jinja/values/text.h"

namespace chorale::jinja {
namespace {

Value NoAttribute(const Value& value, std::string_view name) {
  return Value::OfUndefined(
      absl::StrCat("a ", value.type_name(), " has no attribute '", std::string(name), "'"));
}

Value LoopAttribute(const Value& value, std::string_view name) {
  const Loop& loop = **value.As<std::shared_ptr<Loop>>();
  const auto count = static_cast<int64_t>(loop.items.size());
  if (name == "index") return Value::OfInt(loop.index + 1);
  if (name == "index0") return Value::OfInt(loop.index);
  if (name == "revindex") return Value::OfInt(count - loop.index);
  if (name == "revindex0") return Value::OfInt(count - loop.index - 1);
  if (name == "first") return Value::OfBool(loop.index == 0);
  if (name == "last") return Value::OfBool(loop.index == count - 1);
  if (name == "length") return Value::OfInt(count);
  if (name == "depth") return Value::OfInt(loop.level + 1);
  if (name == "depth0") return Value::OfInt(loop.level);
  if (name == "previtem") {
    if (loop.index == 0) return Value::OfUndefined("there is no previous item");
    return loop.items[static_cast<size_t>(loop.index - 1)];
  }
  if (name == "nextitem") {
    if (loop.index + 1 >= count) return Value::OfUndefined("there is no next item");
    return loop.items[static_cast<size_t>(loop.index + 1)];
  }
  return NoAttribute(value, name);
}

// What Python's numbers have and no template was seen to read.
bool IsNumberAttribute(std::string_view name) {
  static constexpr std::string_view kNames[] = {
      "as_integer_ratio", "bit_count",  "bit_length", "conjugate", "denominator",
      "fromhex",          "from_bytes", "hex",        "imag",      "is_integer",
      "numerator",        "real",       "to_bytes"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

absl::StatusOr<Value> MacroAttribute(Rendering& r, const Value& value, std::string_view name) {
  const Statement& macro = *(*value.As<const Macro*>())->statement;
  if (name == "name") return Value::OfString(macro.text);
  if (name == "catch_kwargs") return Value::OfBool(macro.uses_kwargs);
  if (name == "catch_varargs") return Value::OfBool(macro.uses_varargs);
  if (name == "caller") return Value::OfBool(macro.uses_caller);
  if (name != "arguments") return NoAttribute(value, name);
  std::vector<Value> names;
  for (const std::string& argument : macro.names) names.push_back(Value::OfString(argument));
  return MakeSequence(r.budget, std::move(names), Sequence::Type::kTuple);
}

absl::StatusOr<Value> ItemAt(Rendering& r, const Value& value, int64_t index) {
  const Value missing =
      Value::OfUndefined(absl::StrCat("a ", value.type_name(), " has no element ", index));
  if (const Sequence* sequence = value.sequence()) {
    const auto count = static_cast<int64_t>(sequence->items.size());
    if (index < 0) index += count;
    if (!sequence->is_indexed() || index < 0 || index >= count) return missing;
    return sequence->items[static_cast<size_t>(index)];
  }
  const std::string& text = *value.string();
  RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(text.size())));
  if (index < 0) index += CharacterCount(text);
  if (index < 0 || index >= static_cast<int64_t>(text.size())) return missing;
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += CharacterBytes(text, at);
  if (at >= text.size()) return missing;
  return Value::OfString(text.substr(at, CharacterBytes(text, at)));
}

absl::StatusOr<int64_t> SliceBound(const Value* bound, int64_t otherwise) {
  if (!bound || bound->is_none()) return otherwise;
  if (bound->is_integer()) return bound->integer();
  return Fault(absl::StrCat("the bounds of a slice are integers, not '", bound->type_name(), "'"));
}

// From which place to which other a slice goes, and how far at a time.
struct Span {
  int64_t first = 0;
  int64_t end = 0;  // behind the last one
  int64_t stride = 1;
};

// Of a slice of `count` elements, by the rules of Python.
absl::StatusOr<Span> SpanOf(int64_t count, const Value* start, const Value* stop,
                            const Value* step) {
  Span span;
  ASSIGN_OR_RETURN(span.stride, SliceBound(step, 1));
  if (span.stride == 0) return Fault("the step of a slice is zero");
  const bool forward = span.stride > 0;
  ASSIGN_OR_RETURN(const int64_t first, SliceBound(start, forward ? 0 : count - 1));
  ASSIGN_OR_RETURN(const int64_t end, SliceBound(stop, forward ? count : -count - 1));
  const auto settle = [&](int64_t at) {
    if (at < 0) at = at < -count ? -1 : at + count;
    return forward ? std::clamp<int64_t>(at, 0, count) : std::clamp<int64_t>(at, -1, count - 1);
  };
  span.first = settle(first);
  span.end = settle(end);
  return span;
}

// The places that a slice of `count` elements takes.
absl::StatusOr<std::vector<int64_t>> SlicePlaces(Budget& budget, int64_t count, const Value* start,
                                                 const Value* stop, const Value* step) {
  ASSIGN_OR_RETURN(Span span, SpanOf(count, start, stop, step));
  span.stride = std::clamp(span.stride, -(count + 1), count + 1);
  std::vector<int64_t> places;
  for (int64_t at = span.first; span.stride > 0 ? at < span.end : at > span.end;
       at += span.stride) {
    places.push_back(at);
  }
  RETURN_IF_ERROR(budget.Steps(static_cast<int64_t>(places.size()) / 16));
  return places;
}

// A slice of a range is a range.
absl::StatusOr<Value> SliceRange(Rendering& r, const Sequence& range, const Value* start,
                                 const Value* stop, const Value* step) {
  ASSIGN_OR_RETURN(const Span span,
                   SpanOf(static_cast<int64_t>(range.items.size()), start, stop, step));
  int64_t first, end, stride;
  if (__builtin_mul_overflow(span.first, range.step, &first) ||
      __builtin_add_overflow(first, range.start, &first) ||
      __builtin_mul_overflow(span.end, range.step, &end) ||
      __builtin_add_overflow(end, range.start, &end) ||
      __builtin_mul_overflow(span.stride, range.step, &stride)) {
    return Fault("a slice of a range goes beyond 64 bits");
  }
  return MakeRange(r.budget, first, end, stride);
}

absl::StatusOr<Value> SliceText(Rendering& r, const std::string& text, const Value* start,
                                const Value* stop, const Value* step) {
  RETURN_IF_ERROR(r.budget.Bytes(static_cast<int64_t>(text.size()) * 4));
  std::vector<size_t> begins;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) begins.push_back(at);
  const auto count = static_cast<int64_t>(begins.size());
  ASSIGN_OR_RETURN(const std::vector<int64_t> places,
                   SlicePlaces(r.budget, count, start, stop, step));
  std::string result;
  for (const int64_t place : places) {
    const size_t at = begins[static_cast<size_t>(place)];
    result.append(text, at, CharacterBytes(text, at));
  }
  return MakeString(r.budget, std::move(result));
}

}  // namespace

absl::StatusOr<Value> Subscript(Rendering& rendering, const Value& value, const Value& key) {
  if (value.is_undefined()) return UndefinedFault(value);
  if (const Dictionary* dictionary = value.dictionary()) {
    ASSIGN_OR_RETURN(const Value* found, FindKey(rendering.budget, *dictionary, key));
    if (found) return *found;
  } else if (key.is_integer() && (value.sequence() || value.string())) {
    return ItemAt(rendering, value, key.integer());
  }
  if (!key.string()) return NoAttribute(value, key.type_name());
  if (value.dictionary() && !HasAttribute(value, *key.string())) {
    return NoAttribute(value, *key.string());
  }
  return Attribute(rendering, value, *key.string());
}

absl::StatusOr<Value> Attribute(Rendering& rendering, const Value& value, const std::string& name) {
  if (value.is_undefined()) return UndefinedFault(value);
  if (IsUnsafe(value, name)) {
    return Value::OfUndefined(absl::StrCat("access to attribute '", name, "' of '",
                                           value.python_type(), "' object is unsafe."));
  }
  if (HasAttribute(value, name)) {
    return Value(Value::Data(
        std::make_shared<const Method>(Method{std::make_shared<const Value>(value), name})));
  }
  if (const Dictionary* dictionary = value.dictionary()) {
    ASSIGN_OR_RETURN(const Value* found,
                     FindKey(rendering.budget, *dictionary, Value::OfString(name)));
    if (found) return *found;
  }
  if (const auto* space = value.As<Namespace*>()) {
    for (const auto& [key, attribute] : (*space)->attributes) {
      if (key == name) return attribute;
    }
  }
  if (const Sequence* group = value.sequence(); group && group->is_group) {
    if (name == "grouper") return group->items[0];
    if (name == "list") return group->items[1];
  }
  if (const auto* cycler = value.As<std::shared_ptr<Cycler>>();
      cycler && !(*cycler)->is_joiner && name == "current") {
    return (*cycler)->items[(*cycler)->at];
  }
  if (const auto* function = value.As<const Builtin*>();
      function && (*function)->name == "dict" && name == "fromkeys") {
    return Value(Value::Data(&DictFromKeys()));
  }
  if (value.is_number() && IsNumberAttribute(name)) {
    return absl::UnimplementedError(
        absl::StrCat("the attribute '", name, "' of a number is not supported"));
  }
  if (value.As<const Macro*>()) return MacroAttribute(rendering, value, name);
  if (value.As<std::shared_ptr<Loop>>()) return LoopAttribute(value, name);
  return NoAttribute(value, name);
}

absl::StatusOr<Value> Slice(Rendering& rendering, const Value& value, const Value* start,
                            const Value* stop, const Value* step) {
  if (value.is_undefined()) return UndefinedFault(value);
  if (const std::string* text = value.string()) {
    return SliceText(rendering, *text, start, stop, step);
  }
  const Sequence* sequence = value.sequence();
  if (!sequence || !sequence->is_indexed()) {
    return Fault(absl::StrCat("a value of type '", value.type_name(), "' cannot be sliced"));
  }
  if (sequence->type == Sequence::Type::kRange) {
    return SliceRange(rendering, *sequence, start, stop, step);
  }
  const auto count = static_cast<int64_t>(sequence->items.size());
  ASSIGN_OR_RETURN(const std::vector<int64_t> places,
                   SlicePlaces(rendering.budget, count, start, stop, step));
  std::vector<Value> items;
  items.reserve(places.size());
  for (const int64_t place : places) items.push_back(sequence->items[static_cast<size_t>(place)]);
  return MakeSequence(rendering.budget, std::move(items),
                      sequence->is_list() ? Sequence::Type::kList : Sequence::Type::kTuple);
}

}  // namespace chorale::jinja
