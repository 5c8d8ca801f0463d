// ClusterView: what a router knows of the cluster: one routing table, and the models it serves. It
// is made once, when the table comes, then shared and never changed.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/membership.h"

namespace chorale {

// A model that can be asked for, and how many workers take requests for it now.
struct ModelEntry {
  ServedModelInfo served;
  int prefill_workers = 0;
  int decode_workers = 0;
};

// Models by name.
class ModelTable {
 public:
  ModelTable() = default;
  explicit ModelTable(std::vector<ModelEntry> entries);
  // What the workers serve. Where they differ, what a decode worker says of a model counts, and of
  // several the shortest context: any of them may be chosen.
  static ModelTable Of(std::span<const WorkerInfo> workers);

  const ModelEntry* Find(std::string_view name) const;  // null: there is none
  std::vector<std::string> names() const;
  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }

 private:
  std::vector<ModelEntry> entries_;  // in order of name
};

struct ClusterView {
  std::vector<WorkerInfo> workers;
  std::shared_ptr<const ModelTable> models = std::make_shared<ModelTable>();
};

}  // namespace chorale
