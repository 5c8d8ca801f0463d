// The limits of one rendering of a chat template.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace chorale::jinja {

inline constexpr int64_t kStepsMax = 4'000'000;      // evaluated nodes and visited elements
inline constexpr int64_t kWorkBytesMax = 256 << 20;  // bytes of strings built or searched
inline constexpr int64_t kTextBytesMax = 4 << 20;    // the output, or any one string
inline constexpr int kValueDepthMax = 150;           // lists within lists
inline constexpr int kEvaluationDepthMax = 400;      // expressions, statements, macros in progress

// What one rendering may still spend. InvalidArgument once it is spent.
class Budget {
 public:
  absl::Status Steps(int64_t count);
  absl::Status Bytes(int64_t count);

 private:
  int64_t steps_left_ = kStepsMax;
  int64_t bytes_left_ = kWorkBytesMax;
};

}  // namespace chorale::jinja
