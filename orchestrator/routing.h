// Routing: which workers take a request. Values in, a decision out.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "orchestrator/membership.h"

namespace chorale {

// Requests that this router has under way, by worker id: newer than what the workers reported.
using RequestsUnderWay = absl::flat_hash_map<std::string, int>;

struct Route {
  WorkerInfo decode;
  std::optional<WorkerInfo> prefill;  // writes prompts with the same weights; none: D prefills
};

// What `worker` serves under a name; null: nothing.
const ServedModelInfo* FindModel(const WorkerInfo& worker, std::string_view name);

// The least loaded decode worker that serves `model`, and the least loaded prefill worker whose
// weights for it are the same. Among equals, `turn` picks: a counter of the caller's. NotFound: no
// worker knows the model, the message lists the names that are known; Unavailable: none is ready.
absl::StatusOr<Route> ChooseRoute(std::span<const WorkerInfo> workers, std::string_view model,
                                  const RequestsUnderWay& under_way, uint64_t turn);

}  // namespace chorale
