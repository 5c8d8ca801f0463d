// absl::Status <-> grpc::Status. The codes are the same on both sides; this is the only place that
// knows it.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace chorale {

grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace chorale
