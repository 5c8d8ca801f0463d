// The filters of sequences.
#include <algorithm>
#include <array>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "text/jinja/filters.h"
#include "text/jinja/values/operators.h"
#include "text/jinja/values/text.h"

namespace chorale::jinja {
namespace {

constexpr int64_t kGroupsMax = 100'000;

absl::StatusOr<Value> First(Rendering& r, const Bound& bound) {
  const Value none = Value::OfUndefined("No first item, sequence was empty.");
  if (const Sequence* s = bound.self->sequence(); s && s->type == Sequence::Type::kGenerator) {
    return TakeItem(*s).value_or(none);
  }
  ASSIGN_OR_RETURN(std::vector<Value> items, Items(r.budget, *bound.self));
  return items.empty() ? none : items.front();
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
  if (!Truthy(*bound.self)) return MakeSequence(r.budget, {}, Sequence::Type::kGenerator);
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
  if (!Truthy(*bound.self)) return MakeSequence(r.budget, {}, Sequence::Type::kGenerator);
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

// What sort, unique, min, max and groupby compare: strings without case, unless it counts.
Value WithoutCase(const Value& value, bool case_counts) {
  if (case_counts || !value.string()) return value;
  return Value::OfString(Lower(*value.string()));
}

// The keys of `items`: themselves, or what the paths of `attribute`, with commas between, lead to.
absl::StatusOr<std::vector<Value>> KeysOf(Rendering& r, const std::vector<Value>& items,
                                          const Value* attribute, bool case_counts,
                                          const Value* otherwise = nullptr) {
  std::vector<Value> paths;
  if (attribute && attribute->string()) {
    for (std::string& path : std::vector<std::string>(absl::StrSplit(*attribute->string(), ','))) {
      paths.push_back(Value::OfString(std::move(path)));
    }
  } else if (attribute && !attribute->is_none()) {
    paths.push_back(*attribute);
  }
  std::vector<Value> keys;
  for (const Value& item : items) {
    std::vector<Value> parts;
    for (const Value& path : paths) {
      ASSIGN_OR_RETURN(Value part, AtPath(r, item, path));
      if (part.is_undefined() && otherwise) part = *otherwise;
      parts.push_back(WithoutCase(part, case_counts));
    }
    if (parts.size() > 1) {
      ASSIGN_OR_RETURN(Value key, MakeSequence(r.budget, std::move(parts)));
      keys.push_back(std::move(key));
    } else {
      keys.push_back(parts.empty() ? WithoutCase(item, case_counts) : std::move(parts[0]));
    }
  }
  return keys;
}

// The places of `keys` in order, equal ones as they were.
absl::StatusOr<std::vector<size_t>> Sorted(Rendering& r, const std::vector<Value>& keys,
                                           bool reverse) {
  std::vector<size_t> places(keys.size());
  for (size_t i = 0; i < places.size(); ++i) places[i] = i;
  absl::Status failed;
  std::stable_sort(places.begin(), places.end(), [&](size_t a, size_t b) {
    if (!failed.ok()) return false;
    const absl::StatusOr<int> order = Order(r.budget, keys[a], keys[b]);
    if (!order.ok()) failed = order.status();
    return order.ok() && (reverse ? *order > 0 && *order < 2 : *order < 0);
  });
  RETURN_IF_ERROR(failed);
  return places;
}

bool Flag(const Bound& bound, size_t slot) { return bound.has(slot) && Truthy(bound[slot]); }
const Value* Slot(const Bound& bound, size_t slot) {
  return bound.has(slot) ? &bound[slot] : nullptr;
}

// sort(reverse, case_sensitive, attribute)
absl::StatusOr<Value> Sort(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Items(r.budget, *bound.self));
  ASSIGN_OR_RETURN(const auto keys, KeysOf(r, items, Slot(bound, 2), Flag(bound, 1)));
  ASSIGN_OR_RETURN(const auto places, Sorted(r, keys, Flag(bound, 0)));
  std::vector<Value> sorted;
  for (size_t place : places) sorted.push_back(items[place]);
  return MakeSequence(r.budget, std::move(sorted));
}

// dictsort(case_sensitive, by, reverse)
absl::StatusOr<Value> DictSort(Rendering& r, const Bound& bound) {
  const Dictionary* dictionary = bound.self->dictionary();
  if (!dictionary) return WrongSubject("dictsort", *bound.self);
  const std::string by = bound.has(1) && bound[1].string() ? *bound[1].string() : "key";
  if (by != "key" && by != "value") return Fault("dictsort: by must be 'key' or 'value'");
  std::vector<Value> keys;
  for (const auto& [key, value] : dictionary->entries) {
    keys.push_back(WithoutCase(by == "key" ? key : value, Flag(bound, 0)));
  }
  ASSIGN_OR_RETURN(const auto places, Sorted(r, keys, Flag(bound, 2)));
  std::vector<Value> pairs;
  for (size_t place : places) {
    const auto& [key, value] = dictionary->entries[place];
    ASSIGN_OR_RETURN(Value pair, MakeSequence(r.budget, {key, value}, Sequence::Type::kTuple));
    pairs.push_back(std::move(pair));
  }
  return MakeSequence(r.budget, std::move(pairs));
}

// groupby(attribute, default, case_sensitive): pairs of a key and the items that have it.
absl::StatusOr<Value> GroupBy(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Items(r.budget, *bound.self));
  ASSIGN_OR_RETURN(const auto keys, KeysOf(r, items, &bound[0], Flag(bound, 2), Slot(bound, 1)));
  ASSIGN_OR_RETURN(const auto shown, KeysOf(r, items, &bound[0], true, Slot(bound, 1)));
  ASSIGN_OR_RETURN(const auto places, Sorted(r, keys, false));
  std::vector<Value> groups;
  for (size_t begin = 0, end = 0; begin < places.size(); begin = end) {
    std::vector<Value> members;
    for (end = begin; end < places.size(); ++end) {
      ASSIGN_OR_RETURN(const bool same, Equal(r.budget, keys[places[begin]], keys[places[end]]));
      if (!same) break;
      members.push_back(items[places[end]]);
    }
    ASSIGN_OR_RETURN(Value list, MakeSequence(r.budget, std::move(members)));
    ASSIGN_OR_RETURN(Value group, MakeGroup(r.budget, shown[places[begin]], std::move(list)));
    groups.push_back(std::move(group));
  }
  return MakeSequence(r.budget, std::move(groups));
}

// unique(case_sensitive, attribute)
absl::StatusOr<Value> Unique(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Items(r.budget, *bound.self));
  ASSIGN_OR_RETURN(const auto keys, KeysOf(r, items, Slot(bound, 1), Flag(bound, 0)));
  std::vector<Value> seen;
  std::vector<Value> kept;
  for (size_t i = 0; i < items.size(); ++i) {
    bool known = false;
    for (size_t j = 0; j < seen.size() && !known; ++j) {
      ASSIGN_OR_RETURN(known, Equal(r.budget, seen[j], keys[i]));
    }
    if (known) continue;
    seen.push_back(keys[i]);
    kept.push_back(items[i]);
  }
  return MakeSequence(r.budget, std::move(kept), Sequence::Type::kGenerator);
}

// min and max (case_sensitive, attribute): the first of equals.
template <bool kMax>
absl::StatusOr<Value> Extreme(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Items(r.budget, *bound.self));
  if (items.empty()) return Value::OfUndefined("No aggregated item, sequence was empty.");
  ASSIGN_OR_RETURN(const auto keys, KeysOf(r, items, Slot(bound, 1), Flag(bound, 0)));
  size_t best = 0;
  for (size_t i = 1; i < items.size(); ++i) {
    ASSIGN_OR_RETURN(const int order, Order(r.budget, keys[i], keys[best]));
    if (kMax ? order == 1 : order == -1) best = i;
  }
  return items[best];
}

// sum(attribute, start)
absl::StatusOr<Value> Sum(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Items(r.budget, *bound.self));
  Value sum = bound.has(1) ? bound[1] : Value::OfInt(0);
  if (sum.string()) return Fault("sum: strings cannot be summed; use join");
  for (const Value& item : items) {
    Value part = item;
    if (bound.has(0) && !bound[0].is_none()) {
      ASSIGN_OR_RETURN(part, AtPath(r, item, bound[0]));
    }
    ASSIGN_OR_RETURN(sum, Arithmetic(r.budget, "+", sum, part));
  }
  return sum;
}

// batch(linecount, fill_with)
absl::StatusOr<Value> Batch(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Items(r.budget, *bound.self));
  ASSIGN_OR_RETURN(const int64_t count, IntegerSlot(bound, 0, "linecount"));
  if (count < 1 || count > kGroupsMax) return Fault("batch: linecount is out of range");
  std::vector<Value> batches;
  for (size_t begin = 0; begin < items.size(); begin += static_cast<size_t>(count)) {
    const size_t end = std::min(items.size(), begin + static_cast<size_t>(count));
    std::vector<Value> batch(items.begin() + static_cast<ptrdiff_t>(begin),
                             items.begin() + static_cast<ptrdiff_t>(end));
    if (bound.has(1) && !bound[1].is_none()) batch.resize(static_cast<size_t>(count), bound[1]);
    ASSIGN_OR_RETURN(Value list, MakeSequence(r.budget, std::move(batch)));
    batches.push_back(std::move(list));
  }
  return MakeSequence(r.budget, std::move(batches), Sequence::Type::kGenerator);
}

// slice(slices, fill_with): so many lists, the first of them longer by one where it does not
// divide.
absl::StatusOr<Value> SliceInto(Rendering& r, const Bound& bound) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, Items(r.budget, *bound.self));
  ASSIGN_OR_RETURN(const int64_t slices, IntegerSlot(bound, 0, "slices"));
  if (slices < 1 || slices > kGroupsMax) return Fault("slice: slices is out of range");
  const auto count = static_cast<int64_t>(items.size());
  const int64_t each = count / slices;
  const int64_t longer = count % slices;
  std::vector<Value> lists;
  int64_t at = 0;
  for (int64_t i = 0; i < slices; ++i) {
    const int64_t size = each + (i < longer ? 1 : 0);
    std::vector<Value> list(items.begin() + at, items.begin() + at + size);
    at += size;
    if (bound.has(1) && !bound[1].is_none() && i >= longer) list.push_back(bound[1]);
    ASSIGN_OR_RETURN(Value value, MakeSequence(r.budget, std::move(list)));
    lists.push_back(std::move(value));
  }
  return MakeSequence(r.budget, std::move(lists), Sequence::Type::kGenerator);
}

}  // namespace

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

std::span<const Builtin> SequenceFilters() {
  static const std::array kFilters = {
      Builtin{"batch", &Batch, {"linecount", "fill_with"}, 1},
      Builtin{"dictsort", &DictSort, {"case_sensitive", "by", "reverse"}},
      Builtin{"first", &First},
      Builtin{"groupby", &GroupBy, {"attribute", "default", "case_sensitive"}, 1},
      Builtin{"join", &Join, {"d", "attribute"}},
      Builtin{"last", &Last},
      Builtin{"list", &List},
      Builtin{"map", &Map, {}, 0, true},
      Builtin{"max", &Extreme<true>, {"case_sensitive", "attribute"}},
      Builtin{"min", &Extreme<false>, {"case_sensitive", "attribute"}},
      Builtin{"reject", &Select<false, false>, {}, 0, true},
      Builtin{"rejectattr", &Select<true, false>, {}, 0, true},
      Builtin{"reverse", &Reverse},
      Builtin{"select", &Select<false, true>, {}, 0, true},
      Builtin{"selectattr", &Select<true, true>, {}, 0, true},
      Builtin{"slice", &SliceInto, {"slices", "fill_with"}, 1},
      Builtin{"sort", &Sort, {"reverse", "case_sensitive", "attribute"}},
      Builtin{"sum", &Sum, {"attribute", "start"}},
      Builtin{"unique", &Unique, {"case_sensitive", "attribute"}},
  };
  return kFilters;
}

}  // namespace chorale::jinja
