// A cluster on this machine, from processes that listen to a canary that has passed through all of
// them.
#pragma once

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "chorale/v1/common.pb.h"
#include "cli/cluster/launch.h"
#include "cli/output.h"

namespace chorale::cli {

// What a successful start took.
struct Started {
  absl::Duration loading;
  absl::Duration canary;
  absl::Duration total;
  v1::Usage canary_usage;
};

// Starts the cluster of `launch` and returns when every worker has loaded its weights, the router
// knows all of them, and one token came back through prefill, hand-off and decode. Cancelled when
// interrupted; DeadlineExceeded after `timeout`; else as for Launch. What was started runs on, also
// after an error.
absl::StatusOr<Started> StartCluster(Launch& launch, absl::Duration timeout, ProgressLine& line);

}  // namespace chorale::cli
