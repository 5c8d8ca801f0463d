#include "base/names.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace chorale {
namespace {

constexpr size_t kListedMax = 20;

}  // namespace

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kNameBytesMax &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

std::string ListNames(const std::vector<std::string>& names) {
  if (names.size() <= kListedMax) return absl::StrJoin(names, ", ");
  return absl::StrCat(absl::StrJoin(names.begin(), names.begin() + kListedMax, ", "), " and ",
                      names.size() - kListedMax, " more");
}

}  // namespace chorale
