// Real processes for end-to-end tests: started on unix sockets in a folder of their own, stopped by
// their pids.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

#include "absl/time/time.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "chorale/v1/control.grpc.pb.h"
#include "chorale/v1/inference.grpc.pb.h"
#include "chorale/v1/worker.grpc.pb.h"
#include "tests/net/redis/redis_fixture.h"
#include "tests/testing/temp_folder.h"

namespace chorale {

// A child process, killed when the object goes. Its output goes to a log file.
class Process {
 public:
  // `program` is a binary of this build.
  Process(const std::string& program, const std::vector<std::string>& arguments,
          const std::string& log_path);
  ~Process();

  void Signal(int signal);
  // Waits for the end; the exit code, or -signal. CHECKs that it ends within a minute.
  int Wait();
  bool running();
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

struct ClusterOptions {
  std::string model_folder;   // served as model "m"
  std::string family_folder;  // with a chorale.yaml; instead of a model folder
  int prefill = 1;
  int decode = 2;
  std::vector<std::string> worker_flags;  // for every worker
  std::vector<std::string> decode_flags;
  std::vector<std::string> prefill_flags;
  int stores = 0;           // nodes of chorale-kvstore, used by every worker
  bool store_disk = false;  // each with a folder of its own
  std::vector<std::string> store_flags;
  bool redis = false;  // a redis-server, used by the stores and the router
  std::vector<std::string> redis_flags;
  std::vector<std::string> router_flags;
};

// Orchestrator, workers, stores and router, ready to serve.
class TestCluster {
 public:
  explicit TestCluster(const ClusterOptions& options);
  ~TestCluster();

  v1::Inference::Stub& inference() { return *inference_; }
  v1::Control::Stub& control() { return *control_; }
  const std::string& http() const { return http_; }  // host:port
  const std::string& grpc() const { return grpc_; }
  const std::string& folder() const { return folder_.path(); }

  // Where a process listens, by its name: "decode-1", "store-0", ...
  std::string SocketOf(const std::string& name) const;

  // "prefill-0", "decode-1", ...
  Process& worker(const std::string& id) { return *workers_.at(id); }
  // Anew too, once it has ended.
  void StartWorker(const std::string& id);
  // "store-0", ...
  Process& store(const std::string& id) { return *stores_.at(id); }
  // Anew too, once it has ended; waits until it answers.
  void StartStore(const std::string& id);
  std::string StoreFolder(const std::string& id) const { return folder() + "/" + id; }
  RedisProcess& redis() { return *redis_; }
  void StartOrchestrator();
  // Waits until the routing table has this many ready workers; CHECKs that it comes to that.
  void WaitForWorkers(int ready);
  // Waits until the router lists a model on all decode workers.
  void WaitForModel(const std::string& name);
  // What a worker counts.
  v1::WorkerStatusResponse Status(const std::string& id);
  // Counters and gauges of a worker's engine.
  std::map<std::string, int64_t> Metrics(const std::string& id);
  // What a worker or a store says of its blocks.
  v1::StatBlocksReply BlockStat(const std::string& id);
  // Waits until no block is held on any worker, and returns whether free + held = total on each.
  bool AllBlocksComeBack();
  Process& router() { return *router_; }
  Process& orchestrator() { return *orchestrator_; }

 private:
  std::string LogOf(const std::string& name) const;

  const ClusterOptions options_;
  TempFolder folder_;
  std::unique_ptr<Process> orchestrator_;
  std::unique_ptr<Process> router_;
  std::map<std::string, std::unique_ptr<Process>> workers_;
  std::map<std::string, std::unique_ptr<Process>> stores_;
  std::unique_ptr<RedisProcess> redis_;
  std::string http_;
  std::string grpc_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Control::Stub> control_;
};

// NAME=ADDRESS lines of an address file, waited for.
std::map<std::string, std::string> ReadAddressFile(const std::string& path);

// Asks `done` until it says so; false when patience ends, after a minute.
bool WaitFor(const std::function<bool()>& done);

// All that a generation gave.
struct Generation {
  std::map<int, std::vector<int>> tokens;  // by index
  std::map<int, std::string> text;
  std::map<int, v1::FinishReason> finish;
  v1::Usage usage;
  v1::Timing timing;
  grpc::Status status;
};
// Runs a generation; cancels it after `chunks_max` chunks. Expects sequence numbers without gaps.
Generation Generate(v1::Inference::Stub& stub, const v1::GenerateRequest& request,
                    int chunks_max = 1 << 30, absl::Duration timeout = absl::Seconds(60));
// The same on a decode worker, without a router.
Generation Generate(v1::Decode::Stub& stub, const v1::DecodeRequest& request);

}  // namespace chorale
