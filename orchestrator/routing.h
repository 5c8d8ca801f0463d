// Routing: which workers take a request. Values in, a decision out.
#pragma once

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

// Of the workers that were chosen from.
struct Route {
  const WorkerInfo* decode = nullptr;
  const WorkerInfo* prefill = nullptr;  // writes prompts with the same weights; null: D prefills
};

// What `worker` serves under a name; null: nothing.
const ServedModelInfo* FindModel(const WorkerInfo& worker, std::string_view name);

// The least loaded decode worker that serves `model`, and the least loaded prefill worker whose
// weights for it are the same. `avoid` names a decode worker that is passed over; empty: none. Among
// equals, `turn` picks: a counter of the caller's. NotFound: no
// worker knows the model, the message lists the names that are known; Unavailable: none is ready.
absl::StatusOr<Route> ChooseRoute(std::span<const WorkerInfo> workers, std::string_view model,
                                  std::string_view avoid, const RequestsUnderWay& under_way,
                                  uint64_t turn);

}  // namespace chorale
