#include "orchestrator/routing.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_format.h"
#include "base/names.h"

namespace chorale {
namespace {

int LoadOf(const WorkerInfo& worker, const RequestsUnderWay& under_way) {
  auto it = under_way.find(worker.id);
  return std::max(worker.requests_running + worker.requests_waiting,
                  it == under_way.end() ? 0 : it->second);
}

// The least loaded of `candidates`; equals take turns.
const WorkerInfo* LeastLoaded(const std::vector<const WorkerInfo*>& candidates,
                              const RequestsUnderWay& under_way, uint64_t turn) {
  std::vector<const WorkerInfo*> best;
  int load_min = 0;
  for (const WorkerInfo* worker : candidates) {
    const int load = LoadOf(*worker, under_way);
    if (!best.empty() && load > load_min) continue;
    if (best.empty() || load < load_min) best.clear();
    load_min = load;
    best.push_back(worker);
  }
  return best.empty() ? nullptr : best[turn % best.size()];
}

}  // namespace

const ServedModelInfo* FindModel(const WorkerInfo& worker, std::string_view name) {
  for (const ServedModelInfo& model : worker.models) {
    if (model.name == name) return &model;
  }
  return nullptr;
}

absl::StatusOr<Route> ChooseRoute(std::span<const WorkerInfo> workers, std::string_view model,
                                  std::string_view avoid, const RequestsUnderWay& under_way,
                                  uint64_t turn) {
  std::vector<const WorkerInfo*> decoders;
  bool known = false;
  for (const WorkerInfo& worker : workers) {
    if (FindModel(worker, model) == nullptr) continue;
    known = true;
    if (worker.role == WorkerRole::kDecode && worker.ready && !worker.draining &&
        worker.id != avoid) {
      decoders.push_back(&worker);
    }
  }
  if (!known) {
    std::set<std::string> names;
    for (const WorkerInfo& worker : workers) {
      for (const ServedModelInfo& served : worker.models) names.insert(served.name);
    }
    if (!names.empty()) {
      return absl::NotFoundError(absl::StrFormat("model '%s' does not exist; there is: %s", model,
                                                 ListNames({names.begin(), names.end()})));
    }
  }
  const WorkerInfo* decode = LeastLoaded(decoders, under_way, turn);
  if (decode == nullptr) {
    return absl::UnavailableError(
        absl::StrFormat("no decode worker is ready for model '%s'", model));
  }
  const Digest& writer = FindModel(*decode, model)->prompt_writer;
  std::vector<const WorkerInfo*> prefillers;
  for (const WorkerInfo& worker : workers) {
    const ServedModelInfo* served = FindModel(worker, model);
    if (worker.role == WorkerRole::kPrefill && worker.ready && !worker.draining &&
        served != nullptr && served->prompt_writer == writer) {
      prefillers.push_back(&worker);
    }
  }
  return Route{.decode = decode, .prefill = LeastLoaded(prefillers, under_way, turn)};
}

}  // namespace chorale
