// Reports and routing tables: the wire's messages to the orchestrator's types and back.
#pragma once

#include "absl/status/statusor.h"
#include "chorale/v1/control.pb.h"
#include "orchestrator/membership.h"

namespace chorale {

// InvalidArgument names the field at fault.
absl::StatusOr<WorkerInfo> FromProto(const v1::WorkerReport& report);
v1::WorkerReport ToProto(const WorkerInfo& worker);

}  // namespace chorale
