// The methods of lists, mappings, loops and cyclers; those of strings are in methods_text.cc.

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/builtins.h"

namespace chorale::jinja {
namespace {

enum class Receiver { kString, kList, kMapping, kLoop, kCycler, kFloat, kOther };

Receiver ReceiverOf(const Value& value) {
  if (value.string()) return Receiver::kString;
  if (value.dictionary()) return Receiver::kMapping;
  if (value.As<std::shared_ptr<Loop>>()) return Receiver::kLoop;
  if (const auto* cycler = value.As<std::shared_ptr<Cycler>>(); cycler && !(*cycler)->is_joiner) {
    return Receiver::kCycler;
  }
  if (value.As<double>()) return Receiver::kFloat;
  const Sequence* sequence = value.sequence();
  return sequence && sequence->is_indexed() ? Receiver::kList : Receiver::kOther;
}

absl::StatusOr<Value> Copy(Rendering&, const Bound& bound) { return *bound.self; }

absl::StatusOr<Value> Changed(Rendering& r, const Bound& bound) {
  Loop& loop = **bound.self->As<std::shared_ptr<Loop>>();
  const std::vector<Value>& now = bound.rest.positional;
  bool same = loop.was_asked && now.size() == loop.changed.size();
  for (size_t i = 0; same && i < now.size(); ++i) {
    ASSIGN_OR_RETURN(same, Equal(r.budget, now[i], loop.changed[i]));
  }
  for (const Value& value : now) {
    if (value.depth() >= kValueDepthMax) return Fault("loop.changed: a value is nested too deep");
  }
  loop.was_asked = true;
  loop.changed = now;
  return Value::OfBool(!same);
}

absl::StatusOr<Value> Next(Rendering&, const Bound& bound) {
  Cycler& cycler = **bound.self->As<std::shared_ptr<Cycler>>();
  const Value now = cycler.items[cycler.at];
  cycler.at = (cycler.at + 1) % cycler.items.size();
  return now;
}
absl::StatusOr<Value> Reset(Rendering&, const Bound& bound) {
  (*bound.self->As<std::shared_ptr<Cycler>>())->at = 0;
  return Value::OfNone();
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
  return MakeSequence(r.budget, std::move(items),
                      kPart == Part::kItems  ? Sequence::Type::kItems
                      : kPart == Part::kKeys ? Sequence::Type::kKeys
                                             : Sequence::Type::kValues);
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

absl::StatusOr<Value> IsWhole(Rendering&, const Bound& bound) {
  const double value = bound.self->number();
  return Value::OfBool(std::isfinite(value) && std::trunc(value) == value);
}

struct MethodEntry {
  Receiver receiver;
  Builtin builtin;
};

const auto& Methods() {
  using R = Receiver;
  static const std::array kMethods = {
      MethodEntry{R::kList, {"count", &CountOrIndex<false>, {"value"}, 1}},
      MethodEntry{R::kList, {"index", &CountOrIndex<true>, {"value"}, 1}},
      MethodEntry{R::kList, {"copy", &Copy}},
      MethodEntry{R::kMapping, {"copy", &Copy}},
      MethodEntry{R::kMapping, {"get", &Get, {"key", "default"}, 1}},
      MethodEntry{R::kMapping, {"items", &PartsOf<Part::kItems>}},
      MethodEntry{R::kMapping, {"keys", &PartsOf<Part::kKeys>}},
      MethodEntry{R::kMapping, {"values", &PartsOf<Part::kValues>}},
      MethodEntry{R::kMapping, DictFromKeys()},
      MethodEntry{R::kFloat, {"is_integer", &IsWhole}},
      MethodEntry{R::kLoop, {"changed", &Changed, {}, 0, true}},
      MethodEntry{R::kLoop, {"cycle", &Cycle, {}, 0, true}},
      MethodEntry{R::kCycler, {"next", &Next}},
      MethodEntry{R::kCycler, {"reset", &Reset}},
  };
  return kMethods;
}

// The methods of strings, lists and mappings take arguments by place, as those of Python that are
// written in C; these take names too.
bool TakesNames(std::string_view name) {
  static constexpr std::string_view kNames[] = {"expandtabs", "format", "rsplit", "split",
                                                "splitlines"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

}  // namespace

bool IsUnsafe(const Value& self, std::string_view name) {
  static const std::set<std::string_view> kOfList = {"append", "clear",  "extend",  "insert",
                                                     "pop",    "remove", "reverse", "sort"};
  static const std::set<std::string_view> kOfMapping = {"clear", "pop", "popitem", "setdefault",
                                                        "update"};
  const Receiver receiver = ReceiverOf(self);
  if (receiver == Receiver::kMapping) return kOfMapping.contains(name);
  return receiver == Receiver::kList && self.sequence()->is_list() && kOfList.contains(name);
}

bool HasAttribute(const Value& self, std::string_view name) {
  // Of Python's, but not known here.
  static const std::set<std::string_view> kUnknown = {"encode", "isidentifier", "maketrans",
                                                      "translate"};
  const Receiver receiver = ReceiverOf(self);
  if (receiver == Receiver::kString && (kUnknown.contains(name) || FindTextMethod(name)))
    return true;
  if (IsUnsafe(self, name)) return true;
  const bool tuple = receiver == Receiver::kList && !self.sequence()->is_list();
  if (tuple && name != "count" && name != "index") return false;
  return std::any_of(Methods().begin(), Methods().end(), [&](const MethodEntry& entry) {
    return entry.receiver == receiver && entry.builtin.name == name;
  });
}

absl::StatusOr<Value> RunMethod(Rendering& rendering, const Value& self, std::string_view name,
                                Arguments arguments) {
  if (!arguments.named.empty() && !TakesNames(name)) {
    return Fault(absl::StrCat("the method '", std::string(name), "' takes no arguments by name"));
  }
  if (const Builtin* method = self.string() ? FindTextMethod(name) : nullptr) {
    return RunBuiltin(rendering, *method, &self, std::move(arguments));
  }
  for (const MethodEntry& entry : Methods()) {
    if (entry.receiver == ReceiverOf(self) && entry.builtin.name == name) {
      return RunBuiltin(rendering, entry.builtin, &self, std::move(arguments));
    }
  }
  return absl::UnimplementedError(absl::StrCat("the method '", std::string(name), "' of a ",
                                               self.type_name(), " is not supported"));
}

}  // namespace chorale::jinja
