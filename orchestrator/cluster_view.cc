#include "orchestrator/cluster_view.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace chorale {

ModelTable::ModelTable(std::vector<ModelEntry> entries) : entries_(std::move(entries)) {
  std::sort(entries_.begin(), entries_.end(), [](const ModelEntry& a, const ModelEntry& b) {
    return a.served.name < b.served.name;
  });
}

ModelTable ModelTable::Of(std::span<const WorkerInfo> workers) {
  std::map<std::string, ModelEntry> models;
  std::set<std::string> of_decode;  // models of which a decode worker has spoken
  for (const WorkerInfo& worker : workers) {
    const bool decodes = worker.role == WorkerRole::kDecode;
    for (const ServedModelInfo& served : worker.models) {
      ModelEntry& model = models[served.name];
      // What a prefill worker says of a model is about its prompt writer only.
      if (model.served.name.empty() ||
          (decodes && (!of_decode.contains(served.name) ||
                       served.context_tokens < model.served.context_tokens))) {
        model.served = served;
      }
      if (decodes) of_decode.insert(served.name);
      if (!worker.ready || worker.draining) continue;
      ++(decodes ? model.decode_workers : model.prefill_workers);
    }
  }
  std::vector<ModelEntry> entries;
  for (auto& [name, model] : models) entries.push_back(std::move(model));
  return ModelTable(std::move(entries));
}

const ModelEntry* ModelTable::Find(std::string_view name) const {
  const auto it = std::lower_bound(
      entries_.begin(), entries_.end(), name,
      [](const ModelEntry& entry, std::string_view name) { return entry.served.name < name; });
  return it != entries_.end() && it->served.name == name ? &*it : nullptr;
}

std::vector<std::string> ModelTable::names() const {
  std::vector<std::string> names;
  for (const ModelEntry& entry : entries_) names.push_back(entry.served.name);
  return names;
}

}  // namespace chorale
