#include "text/jinja/values/budget.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace chorale::jinja {

absl::Status Budget::Steps(int64_t count) {
  steps_left_ -= std::min(count, kStepsMax + 1);
  if (steps_left_ >= 0) return absl::OkStatus();
  steps_left_ = 0;
  return absl::InvalidArgumentError(
      absl::StrCat("rendering takes more than ", kStepsMax, " steps"));
}

absl::Status Budget::Bytes(int64_t count) {
  bytes_left_ -= std::min(count, kWorkBytesMax + 1);
  if (bytes_left_ >= 0) return absl::OkStatus();
  bytes_left_ = 0;
  return absl::InvalidArgumentError(
      absl::StrCat("rendering builds more than ", kWorkBytesMax, " bytes of text"));
}

}  // namespace chorale::jinja
