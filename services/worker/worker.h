// Worker: what a prefill worker, a decode worker and the single process have in common: a model
// with its adapters, loaded while the process already answers, and the engine that runs them.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "chorale/v1/control.pb.h"
#include "chorale/v1/worker.pb.h"
#include "services/common/named_folder.h"
#include "services/worker/engine_host.h"

namespace chorale {

struct WorkerOptions {
  NamedFolder model;
  std::vector<NamedFolder> adapters;
  std::string kernels = "cpu";
  std::string dtype = "auto";         // auto, f32, bf16
  int threads = 0;                    // 0: one for every processor
  int64_t kv_mib = 0;                 // memory for K/V blocks; 0: 512, or what blocks says
  EngineOptions engine{.blocks = 0};  // 0 blocks: as many as kv_mib holds
};

// Thread safe after construction.
class Worker {
 public:
  explicit Worker(WorkerOptions options);
  ~Worker();

  // Reads weights, tokenizer and adapters and starts the engine. Blocks; call once.
  absl::Status Load();
  bool ready() const { return ready_; }
  double load_progress() const { return load_progress_; }

  // Which weights a model's name stands for. Unavailable while loading; NotFound lists the names.
  struct Target {
    const Adapter* adapter = nullptr;
    Digest writer;
  };
  absl::StatusOr<Target> Find(const std::string& name) const;

  // Valid once ready.
  // Shared with hand-offs under way: their last word may come after the worker stopped.
  std::shared_ptr<EngineHost> host() { return host_; }
  const Model& model() const { return *model_; }
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }

  std::vector<v1::ServedModel> ServedModels() const;
  // Fills in load, blocks and progress.
  void Describe(v1::WorkerReport& report) const;
  // The engine's counters and gauges by name.
  std::vector<std::pair<std::string, int64_t>> Metrics() const;

 private:
  WorkerOptions options_;
  std::unique_ptr<kernels::ThreadPool> pool_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<const Tokenizer> tokenizer_;  // null: the model folder has none
  absl::flat_hash_map<std::string, std::unique_ptr<const Adapter>> adapters_;
  std::shared_ptr<EngineHost> host_;
  std::atomic<bool> ready_ = false;
  std::atomic<double> load_progress_ = 0;
};

}  // namespace chorale
