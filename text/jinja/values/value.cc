#include "text/jinja/values/value.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "text/jinja/values/text.h"

namespace chorale::jinja {
namespace {

constexpr int64_t kRangeMax = 100'000;  // as the sandbox of Jinja2
constexpr int64_t kBytesPerComparison = 16;
constexpr int64_t kStepsPerCharacter = 4;  // each becomes a string of its own

std::string QuotedName(const Value& value) { return absl::StrCat("'", value.type_name(), "'"); }

// -1, 0 or 1; 2 when they have no order (NaN). Nothing when one is no number.
std::optional<int> OrderNumbers(const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) return std::nullopt;
  const auto three_way = [](auto x, auto y) { return x < y ? -1 : y < x ? 1 : x == y ? 0 : 2; };
  if (a.is_integer() && b.is_integer()) return three_way(a.integer(), b.integer());
  if (a.As<double>() || b.As<double>()) return three_way(a.number(), b.number());
  return three_way(BigInteger::Compare(a.big(), b.big()), 0);
}

bool IsHashable(const Value& value) {
  if (const Sequence* sequence = value.sequence()) {
    return sequence->type == Sequence::Type::kTuple &&
           std::all_of(sequence->items.begin(), sequence->items.end(), IsHashable);
  }
  return value.string() || value.is_number() || value.is_none();
}

absl::StatusOr<bool> EqualSequences(Budget& budget, const Sequence& a, const Sequence& b) {
  if (&a == &b) return true;
  if (a.type != b.type || a.type == Sequence::Type::kGenerator ||
      a.type == Sequence::Type::kValues) {
    return false;
  }
  if (a.items.size() != b.items.size()) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    ASSIGN_OR_RETURN(const bool same, Equal(budget, a.items[i], b.items[i]));
    if (!same) return false;
  }
  return true;
}

absl::StatusOr<bool> EqualDictionaries(Budget& budget, const Dictionary& a, const Dictionary& b) {
  if (&a == &b) return true;
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    ASSIGN_OR_RETURN(const Value* other, FindKey(budget, b, key));
    if (other == nullptr) return false;
    ASSIGN_OR_RETURN(const bool same, Equal(budget, value, *other));
    if (!same) return false;
  }
  return true;
}

}  // namespace

absl::Status Fault(std::string message) { return absl::InvalidArgumentError(message); }

absl::Status UndefinedFault(const Value& undefined) {
  const auto* data = undefined.As<Undefined>();
  return Fault(data && data->reason ? *data->reason : "the value is undefined");
}

Value Value::OfUndefined(std::string reason) {
  return Value(Data(Undefined{std::make_shared<const std::string>(std::move(reason))}));
}

Value Value::OfString(std::string value) {
  return Value(Data(std::make_shared<const std::string>(std::move(value))));
}

Value Value::OfMarkup(std::string value) {
  Value text = OfString(std::move(value));
  text.markup_ = true;
  return text;
}

Value Value::OfBig(const BigInteger& value) {
  const std::optional<int64_t> small = value.ToInt64();
  return small ? OfInt(*small) : Value(Data(value));
}

Value IntegerOf(std::string_view digits) {
  const std::optional<BigInteger> value = BigInteger::Parse(digits);
  CHECK(value.has_value()) << digits;
  return Value::OfBig(*value);
}

const std::string* Value::string() const {
  const auto* text = As<Text>();
  return text ? text->get() : nullptr;
}

const Sequence* Value::sequence() const {
  const auto* sequence = As<std::shared_ptr<const Sequence>>();
  return sequence ? sequence->get() : nullptr;
}

const Dictionary* Value::dictionary() const {
  const auto* dictionary = As<std::shared_ptr<const Dictionary>>();
  return dictionary ? dictionary->get() : nullptr;
}

int64_t Value::integer() const {
  if (const bool* flag = As<bool>()) return *flag ? 1 : 0;
  CHECK(As<int64_t>() != nullptr) << type_name();
  return *As<int64_t>();
}

BigInteger Value::big() const {
  const auto* big = As<BigInteger>();
  return big ? *big : BigInteger::Of(integer());
}

double Value::number() const {
  if (const double* real = As<double>()) return *real;
  if (const auto* big = As<BigInteger>()) return big->ToDouble();
  return static_cast<double>(integer());
}

int Value::depth() const {
  if (const Sequence* s = sequence()) return s->depth;
  if (const Dictionary* d = dictionary()) return d->depth;
  if (const auto* method = As<std::shared_ptr<const Method>>()) return (*method)->self->depth() + 1;
  if (const auto* loop = As<std::shared_ptr<Loop>>()) return (*loop)->depth;
  if (const auto* cycler = As<std::shared_ptr<Cycler>>()) return (*cycler)->depth;
  return 0;
}

const char* Value::type_name() const {
  static constexpr const char* kNames[] = {
      "undefined", "none", "boolean", "integer",  "float",  "string",  "list",  "mapping",
      "namespace", "loop", "macro",   "function", "method", "integer", "cycler"};
  return kNames[data_.index()];
}

const char* Value::python_type() const {
  if (is_none()) return "NoneType";
  if (As<bool>()) return "bool";
  if (is_integer() || is_big()) return "int";
  if (As<double>()) return "float";
  if (string()) return is_markup() ? "Markup" : "str";
  if (dictionary()) return "dict";
  if (const Sequence* s = sequence()) {
    return s->is_list() ? "list" : s->type == Sequence::Type::kTuple ? "tuple" : "iterator";
  }
  return type_name();
}

absl::StatusOr<Value> MakeSequence(Budget& budget, std::vector<Value> items, Sequence::Type type) {
  RETURN_IF_ERROR(budget.Steps(static_cast<int64_t>(items.size())));
  auto sequence = std::make_shared<Sequence>();
  for (const Value& item : items) sequence->depth = std::max(sequence->depth, item.depth() + 1);
  if (sequence->depth > kValueDepthMax) {
    return Fault(absl::StrCat("a list is nested deeper than ", kValueDepthMax, " levels"));
  }
  sequence->type = type;
  sequence->items = std::move(items);
  return Value(Value::Data(std::shared_ptr<const Sequence>(std::move(sequence))));
}

absl::StatusOr<Value> MakeGroup(Budget& budget, Value grouper, Value list) {
  ASSIGN_OR_RETURN(const Value pair, MakeSequence(budget, {std::move(grouper), std::move(list)},
                                                  Sequence::Type::kTuple));
  auto group = std::make_shared<Sequence>(*pair.sequence());
  group->is_group = true;
  return Value(Value::Data(std::shared_ptr<const Sequence>(std::move(group))));
}

absl::StatusOr<Value> MakeRange(Budget& budget, int64_t start, int64_t stop, int64_t step) {
  if (step == 0) return Fault("the step of range() is zero");
  std::vector<Value> items;
  int64_t at = start;
  while (step > 0 ? at < stop : at > stop) {
    if (static_cast<int64_t>(items.size()) >= kRangeMax) {
      return Fault(absl::StrCat("range() gives more than ", kRangeMax, " numbers"));
    }
    items.push_back(Value::OfInt(at));
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  ASSIGN_OR_RETURN(const Value list, MakeSequence(budget, std::move(items)));
  auto range = std::make_shared<Sequence>(*list.sequence());
  range->type = Sequence::Type::kRange;
  range->start = start;
  range->stop = stop;
  range->step = step;
  return Value(Value::Data(std::shared_ptr<const Sequence>(std::move(range))));
}

absl::StatusOr<Value> MakeDictionary(Budget& budget, std::vector<std::pair<Value, Value>> entries) {
  auto dictionary = std::make_shared<Dictionary>();
  for (auto& [key, value] : entries) {
    RETURN_IF_ERROR(budget.Steps(1));
    if (!IsHashable(key)) {
      return Fault(absl::StrCat("a value of type ", QuotedName(key), " cannot be a key"));
    }
    dictionary->depth = std::max(dictionary->depth, value.depth() + 1);
    ASSIGN_OR_RETURN(const Value* present, FindKey(budget, *dictionary, key));
    if (present) {
      *const_cast<Value*>(present) = std::move(value);
    } else {
      dictionary->entries.emplace_back(std::move(key), std::move(value));
    }
  }
  if (dictionary->depth > kValueDepthMax) {
    return Fault(absl::StrCat("a mapping is nested deeper than ", kValueDepthMax, " levels"));
  }
  return Value(Value::Data(std::shared_ptr<const Dictionary>(std::move(dictionary))));
}

absl::StatusOr<Value> MakeString(Budget& budget, std::string text) {
  if (static_cast<int64_t>(text.size()) > kTextBytesMax) {
    return Fault(absl::StrCat("a string is longer than ", kTextBytesMax, " bytes"));
  }
  RETURN_IF_ERROR(budget.Bytes(static_cast<int64_t>(text.size())));
  return Value::OfString(std::move(text));
}

absl::StatusOr<Value> FromJson(const nlohmann::ordered_json& json, int depth) {
  if (depth >= kValueDepthMax) {
    return Fault(absl::StrCat("the context is nested deeper than ", kValueDepthMax, " levels"));
  }
  if (json.is_boolean()) return Value::OfBool(json.get<bool>());
  if (json.is_number_float()) return Value::OfFloat(json.get<double>());
  if (json.is_number_unsigned() && json.get<uint64_t>() > uint64_t{INT64_MAX}) {
    return IntegerOf(absl::StrCat(json.get<uint64_t>()));
  }
  if (json.is_number_integer()) return Value::OfInt(json.get<int64_t>());
  if (json.is_string()) return Value::OfString(json.get<std::string>());
  if (json.is_array()) {
    auto sequence = std::make_shared<Sequence>();
    for (const auto& element : json) {
      ASSIGN_OR_RETURN(Value item, FromJson(element, depth + 1));
      sequence->depth = std::max(sequence->depth, item.depth() + 1);
      sequence->items.push_back(std::move(item));
    }
    return Value(Value::Data(std::shared_ptr<const Sequence>(std::move(sequence))));
  }
  if (json.is_object()) {
    auto dictionary = std::make_shared<Dictionary>();
    for (const auto& [key, element] : json.items()) {
      ASSIGN_OR_RETURN(Value item, FromJson(element, depth + 1));
      dictionary->depth = std::max(dictionary->depth, item.depth() + 1);
      dictionary->entries.emplace_back(Value::OfString(key), std::move(item));
    }
    return Value(Value::Data(std::shared_ptr<const Dictionary>(std::move(dictionary))));
  }
  return Value::OfNone();
}

const Value* FindKey(const Dictionary& dictionary, std::string_view key) {
  for (const auto& [name, value] : dictionary.entries) {
    if (const std::string* text = name.string(); text && *text == key) return &value;
  }
  return nullptr;
}

absl::StatusOr<const Value*> FindKey(Budget& budget, const Dictionary& dictionary,
                                     const Value& key) {
  RETURN_IF_ERROR(
      budget.Bytes(static_cast<int64_t>(dictionary.entries.size()) * kBytesPerComparison));
  if (const std::string* text = key.string()) return FindKey(dictionary, *text);
  for (const auto& [name, value] : dictionary.entries) {
    if (name.string()) continue;
    ASSIGN_OR_RETURN(const bool same, Equal(budget, name, key));
    if (same) return &value;
  }
  return nullptr;
}

bool Truthy(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_integer()) return value.integer() != 0;
  if (value.is_big()) return true;
  if (const double* real = value.As<double>()) return *real != 0;
  if (const std::string* text = value.string()) return !text->empty();
  if (const Sequence* sequence = value.sequence()) {
    return sequence->type == Sequence::Type::kGenerator || !sequence->items.empty();
  }
  if (const Dictionary* dictionary = value.dictionary()) return !dictionary->entries.empty();
  return true;
}

absl::StatusOr<bool> Equal(Budget& budget, const Value& a, const Value& b) {
  RETURN_IF_ERROR(budget.Steps(1));
  if (const std::optional<int> order = OrderNumbers(a, b)) return *order == 0;
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.string() && b.string()) {
    RETURN_IF_ERROR(
        budget.Bytes(static_cast<int64_t>(std::min(a.string()->size(), b.string()->size()))));
    return *a.string() == *b.string();
  }
  if (a.sequence() && b.sequence()) return EqualSequences(budget, *a.sequence(), *b.sequence());
  if (a.dictionary() && b.dictionary()) {
    return EqualDictionaries(budget, *a.dictionary(), *b.dictionary());
  }
  const auto* left = a.As<Namespace*>();
  const auto* right = b.As<Namespace*>();
  return left && right && *left == *right;
}

absl::StatusOr<int> Order(Budget& budget, const Value& a, const Value& b) {
  RETURN_IF_ERROR(budget.Steps(1));
  if (a.is_undefined()) return UndefinedFault(a);
  if (b.is_undefined()) return UndefinedFault(b);
  const auto three_way = [](auto x, auto y) { return x < y ? -1 : (y < x ? 1 : 0); };
  if (const std::optional<int> order = OrderNumbers(a, b)) return *order;
  if (a.string() && b.string()) {
    RETURN_IF_ERROR(
        budget.Bytes(static_cast<int64_t>(std::min(a.string()->size(), b.string()->size()))));
    return three_way(a.string()->compare(*b.string()), 0);
  }
  const Sequence* left = a.sequence();
  const Sequence* right = b.sequence();
  if (left && right && left->type == right->type &&
      (left->is_list() || left->type == Sequence::Type::kTuple)) {
    for (size_t i = 0; i < std::min(left->items.size(), right->items.size()); ++i) {
      ASSIGN_OR_RETURN(const bool same, Equal(budget, left->items[i], right->items[i]));
      if (!same) return Order(budget, left->items[i], right->items[i]);
    }
    return three_way(left->items.size(), right->items.size());
  }
  return Fault(absl::StrCat("values of types ", QuotedName(a), " and ", QuotedName(b),
                            " cannot be ordered"));
}

absl::StatusOr<bool> Contains(Budget& budget, const Value& container, const Value& item) {
  if (const std::string* text = container.string()) {
    const std::string* part = item.string();
    if (item.is_undefined()) return UndefinedFault(item);
    if (!part) return Fault(absl::StrCat("'in <string>' needs a string, not ", QuotedName(item)));
    RETURN_IF_ERROR(ChargeSearch(budget, *text, *part));
    return text->find(*part) != std::string::npos;
  }
  if (const Dictionary* dictionary = container.dictionary()) {
    ASSIGN_OR_RETURN(const Value* found, FindKey(budget, *dictionary, item));
    return found != nullptr;
  }
  if (const Sequence* sequence = container.sequence();
      sequence && sequence->type == Sequence::Type::kGenerator) {
    while (const std::optional<Value> candidate = TakeItem(*sequence)) {
      ASSIGN_OR_RETURN(const bool same, Equal(budget, *candidate, item));
      if (same) return true;
    }
    return false;
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, Items(budget, container));
  for (const Value& candidate : items) {
    ASSIGN_OR_RETURN(const bool same, Equal(budget, candidate, item));
    if (same) return true;
  }
  return false;
}

std::optional<Value> TakeItem(const Sequence& generator) {
  if (generator.taken == generator.items.size()) return std::nullopt;
  return generator.items[generator.taken++];
}

absl::StatusOr<std::vector<Value>> Items(Budget& budget, const Value& value) {
  std::vector<Value> items;
  if (value.is_undefined()) return items;
  if (const Sequence* sequence = value.sequence()) {
    RETURN_IF_ERROR(budget.Steps(static_cast<int64_t>(sequence->items.size())));
    if (sequence->type != Sequence::Type::kGenerator) return sequence->items;
    const size_t from = std::exchange(sequence->taken, sequence->items.size());
    return std::vector<Value>(sequence->items.begin() + static_cast<int64_t>(from),
                              sequence->items.end());
  }
  if (const auto* loop = value.As<std::shared_ptr<Loop>>()) {
    RETURN_IF_ERROR(budget.Steps(static_cast<int64_t>((*loop)->items.size())));
    return (*loop)->items;
  }
  if (const Dictionary* dictionary = value.dictionary()) {
    RETURN_IF_ERROR(budget.Steps(static_cast<int64_t>(dictionary->entries.size())));
    for (const auto& [key, unused] : dictionary->entries) items.push_back(key);
    return items;
  }
  if (const std::string* text = value.string()) {
    RETURN_IF_ERROR(budget.Steps(static_cast<int64_t>(text->size()) * kStepsPerCharacter));
    for (size_t at = 0; at < text->size();) {
      const size_t size = CharacterBytes(*text, at);
      items.push_back(Value::OfString(text->substr(at, size)));
      at += size;
    }
    return items;
  }
  return Fault(absl::StrCat("'", value.python_type(), "' object is not iterable"));
}

}  // namespace chorale::jinja
