#include "cli/commands.h"

#include "absl/strings/str_format.h"
#include "cli/interrupt.h"

namespace chorale::cli {

int Fail(const absl::Status& status) {
  if (absl::IsCancelled(status)) {
    absl::FPrintF(stderr, "chorale: interrupted\n");
    return kExitInterrupted;
  }
  absl::FPrintF(stderr, "chorale: %s\n", status.message());
  return absl::IsInvalidArgument(status) ? kExitBadConfiguration : kExitFailed;
}

}  // namespace chorale::cli
