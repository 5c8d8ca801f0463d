// Worker: what a prefill worker, a decode worker and the single process have in common: the models
// of a catalog, loaded while the process already answers, and the engine that runs them.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "chorale/v1/worker.pb.h"
#include "model/model_loader.h"
#include "orchestrator/membership.h"
#include "rpc/blocks/shared_region.h"
#include "services/worker/engine_host.h"

namespace chorale {

struct WorkerOptions {
  CatalogSpec catalog;
  // Only prompts are written here: of every model the prompt writer is loaded, nothing else.
  bool prompt_writers_only = false;
  std::string kernels = "cpu";
  std::string dtype = "auto";         // auto, f32, bf16
  std::string kv = "exact";           // exact, int8: K/V are rounded where they are written
  std::string cache_dir;              // for digests of weights; empty: none
  int threads = 0;                    // 0: one for every processor
  int64_t kv_mib = 0;                 // memory for K/V blocks; 0: 512, or what blocks says
  bool shared_memory = true;          // let workers on this host read blocks where they lie
  EngineOptions engine{.blocks = 0};  // 0 blocks: as many as kv_mib holds
};

// Thread safe after construction.
class Worker {
 public:
  explicit Worker(WorkerOptions options);
  ~Worker();

  // Reads weights and tokenizer and starts the engine. Blocks; call once.
  absl::Status Load();
  bool ready() const { return ready_; }
  double load_progress() const { return load_progress_; }
  // Unavailable while loading.
  absl::Status CheckReady() const;

  // How long requests on a model that is replaced or unloaded may go on: until then, or until the
  // one who asked has gone.
  struct Drain {
    absl::Time until;
    std::function<bool()> is_cancelled;
  };
  // Reads a model's files and serves it in place of what its name stood for; blocks until no
  // request runs on that any more. Those that outlive the drain are ended with Aborted.
  // ResourceExhausted: another change is under way. Unavailable: loading, or shutting down.
  absl::StatusOr<v1::ModelChange> LoadModel(const v1::ModelSpec& spec, const Drain& drain);
  // Serves it no longer. NotFound: no such model; FailedPrecondition: it is the last one.
  absl::StatusOr<v1::ModelChange> UnloadModel(const std::string& name, const Drain& drain);

  // Valid once ready.
  // Shared with hand-offs under way: their last word may come after the worker stopped.
  std::shared_ptr<EngineHost> host() { return host_; }
  const Transformer& base() const { return *loader_->base().transformer; }
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  // Of K/V blocks here; without a writer.
  const v1::KvFormat& format() const { return format_; }
  // The name of the shared memory that the blocks lie in; empty: others cannot map it.
  const std::string& region() const { return region_name_; }

  std::vector<ServedModelInfo> ServedModels() const;
  // Fills in load, blocks and progress.
  void Describe(WorkerInfo& report) const;
  // The engine's counters and gauges by name, and those of each model.
  void Describe(v1::WorkerStatusResponse& response) const;

 private:
  absl::Status LoadTokenizer();
  absl::Status MakeRegion();
  absl::StatusOr<ServedModelInfo> InfoOf(const Model& model) const;
  absl::Status Serve(std::shared_ptr<const Model> model, ServedModelInfo served);
  void SetContext(ServedModelInfo& served) const;
  int EndRetired(const std::string& name, const Drain& drain);

  WorkerOptions options_;
  std::unique_ptr<kernels::ThreadPool> pool_;
  std::optional<ModelLoader> loader_;
  std::unique_ptr<const Tokenizer> tokenizer_;  // null: the base folder has none
  v1::KvFormat format_;
  std::unique_ptr<SharedRegion> region_;  // the engine's blocks
  std::unique_ptr<RegionServer> region_server_;
  std::string region_name_;
  std::shared_ptr<EngineHost> host_;
  std::atomic<bool> ready_ = false;
  std::atomic<double> load_progress_ = 0;
  std::mutex changing_;  // held by the change under way
  mutable std::mutex mutex_;
  std::map<std::string, ServedModelInfo> served_;  // under mutex_
};

}  // namespace chorale
