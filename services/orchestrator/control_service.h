// chorale.v1.Control: workers join, routers watch, operators change models.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "chorale/v1/control.grpc.pb.h"
#include "chorale/v1/worker.grpc.pb.h"
#include "orchestrator/membership.h"
#include "rpc/channels.h"

namespace chorale {

struct ControlOptions {
  absl::Duration report_interval = absl::Milliseconds(250);  // asked of workers
  absl::Duration silence_max = absl::Seconds(3);             // then a worker is dropped
};

// Synchronous handlers: a call per worker and per router, each with a thread of gRPC's for its
// lifetime, is a few dozen for the clusters this serves. Thread safe.
class ControlService : public v1::Control::Service {
 public:
  explicit ControlService(const ControlOptions& options);
  ~ControlService() override;

  // Ends the streams under way, so that the server can shut down.
  void Stop();

  grpc::Status Join(grpc::ServerContext* context,
                    grpc::ServerReaderWriter<v1::JoinReply, v1::WorkerReport>* stream) override;
  grpc::Status WatchRouting(grpc::ServerContext* context, const v1::WatchRoutingRequest* request,
                            grpc::ServerWriter<v1::RoutingTable>* writer) override;
  grpc::Status GetRouting(grpc::ServerContext* context, const v1::GetRoutingRequest* request,
                          v1::RoutingTable* table) override;
  grpc::Status LoadModel(grpc::ServerContext* context, const v1::LoadModelRequest* request,
                         v1::ModelChanges* changes) override;
  grpc::Status UnloadModel(grpc::ServerContext* context, const v1::UnloadModelRequest* request,
                           v1::ModelChanges* changes) override;

 private:
  // The last change of a name: what it was loaded as, or that it was unloaded.
  struct Change {
    int64_t number = 0;  // they count from 1
    std::optional<v1::LoadModelRequest> load;
  };
  grpc::Status ChangeWorkers(const grpc::ServerContext& context, const std::string& name,
                             const std::optional<v1::LoadModelRequest>& load, int64_t drain_ms,
                             v1::ModelChanges* changes);
  grpc::Status ChangeWorker(const std::string& address, const std::string& name,
                            const std::optional<v1::LoadModelRequest>& load, int64_t drain_ms,
                            grpc::ClientContext& call, v1::ModelChange* change);
  // Brings a worker that has joined, or refused a change, to what the others serve. False: it does
  // not get there, and may not be sent requests.
  bool CatchUp(const WorkerInfo& worker);
  v1::RoutingTable TableLocked() const;
  void ExpireLoop();

  const ControlOptions options_;
  Channels channels_;    // to workers
  std::mutex changing_;  // held by the change under way
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Membership members_;                        // under mutex_
  int64_t next_session_ = 1;                  // under mutex_
  bool stopping_ = false;                     // under mutex_
  int64_t changes_count_ = 0;                 // under mutex_
  std::map<std::string, Change> changes_;     // by name of the model; under mutex_
  std::map<std::string, int64_t> caught_up_;  // number of the last change, by worker; under mutex_
  std::thread expirer_;
};

}  // namespace chorale
