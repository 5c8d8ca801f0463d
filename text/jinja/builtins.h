// The filters, tests, functions and methods that templates may name.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "text/jinja/values/value.h"

namespace chorale::jinja {

// What belongs to one rendering and is not a variable.
struct Rendering {
  Budget budget;
  std::vector<std::unique_ptr<Namespace>> namespaces;
  std::optional<int64_t> current_time_unix;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Arguments by place. Of a variadic builtin, as given.
struct Bound {
  const Value* self = nullptr;  // what stands before '|', 'is' or '.'; null for a function
  std::vector<std::optional<Value>> slots;
  Arguments rest;

  bool has(size_t slot) const { return slot < slots.size() && slots[slot].has_value(); }
  const Value& operator[](size_t slot) const { return *slots[slot]; }
};

struct Builtin {
  std::string_view name;
  absl::StatusOr<Value> (*run)(Rendering&, const Bound&);
  std::vector<std::string_view> parameters = {};
  size_t required = 0;
  bool variadic = false;
  bool by_place = false;  // takes no arguments by name
};

// Null for an unknown name.
const Builtin* FindFilter(std::string_view name);
const Builtin* FindTest(std::string_view name);
const Builtin* FindFunction(std::string_view name);
// A method of strings.
const Builtin* FindTextMethod(std::string_view name);
// dict.fromkeys
const Builtin& DictFromKeys();
// Whether the method would change a list or a mapping, which others may share: it is undefined.
bool IsUnsafe(const Value& self, std::string_view name);
// Whether Python's type of `self` has an attribute of the name, known here or not.
bool HasAttribute(const Value& self, std::string_view name);

absl::StatusOr<Value> RunBuiltin(Rendering& rendering, const Builtin& builtin, const Value* self,
                                 Arguments arguments);
absl::StatusOr<Value> RunMethod(Rendering& rendering, const Value& self, std::string_view name,
                                Arguments arguments);

// raise_exception's own status is told from a fault of the template by this payload.
inline constexpr char kRaisedByTemplate[] = "chorale.raised_by_template";

// Value[key] and value.name; undefined when there is none.
absl::StatusOr<Value> Subscript(Rendering& rendering, const Value& value, const Value& key);
absl::StatusOr<Value> Attribute(Rendering& rendering, const Value& value, const std::string& name);
// value[start:stop:step]; a null bound is absent.
absl::StatusOr<Value> Slice(Rendering& rendering, const Value& value, const Value* start,
                            const Value* stop, const Value* step);

}  // namespace chorale::jinja
