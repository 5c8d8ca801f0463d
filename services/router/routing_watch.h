// RoutingWatch: the newest routing table of the orchestrator, and what this router has under way.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "chorale/v1/control.grpc.pb.h"
#include "orchestrator/cluster_view.h"
#include "orchestrator/routing.h"

namespace chorale {

// Thread safe. When the orchestrator is lost, the last table stays in use and the watch is opened
// again until it succeeds.
class RoutingWatch {
 public:
  // A choice, and the table it was made from.
  struct Lease {
    std::shared_ptr<const ClusterView> view;
    Route route;
  };

  // `on_workers` hears of every table, on the watch's thread.
  RoutingWatch(const std::string& orchestrator,
               std::function<void(const std::vector<WorkerInfo>&)> on_workers);
  ~RoutingWatch();

  std::shared_ptr<const ClusterView> view() const;
  bool connected() const;  // a table has been received

  // Chooses workers and counts the request as under way on them until Release. `avoid` names a
  // decode worker that has just failed; empty: none.
  absl::StatusOr<Lease> Acquire(std::string_view model, std::string_view avoid);
  void Release(const Lease& lease);

 private:
  void Run();

  const std::string address_;
  const std::unique_ptr<v1::Control::Stub> stub_;
  const std::function<void(const std::vector<WorkerInfo>&)> on_workers_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::shared_ptr<const ClusterView> view_ = std::make_shared<ClusterView>();  // under mutex_
  RequestsUnderWay under_way_;              // under mutex_
  uint64_t turn_ = 0;                       // under mutex_
  bool connected_ = false;                  // under mutex_
  bool stopping_ = false;                   // under mutex_
  grpc::ClientContext* context_ = nullptr;  // of the watch under way; under mutex_
  std::thread thread_;
};

}  // namespace chorale
