// ClusterBackend: generations on the decode workers of a cluster, over gRPC.
//
// A worker that is lost while it generates ends its calls with Unavailable at once; a call that has
// not produced anything yet is first tried on one other worker.
#pragma once

#include <memory>
#include <string>

#include "rpc/channels.h"
#include "services/router/backend.h"
#include "services/router/routing_watch.h"

namespace chorale {

class ClusterBackend : public Backend {
 public:
  explicit ClusterBackend(const std::string& orchestrator);

  std::vector<BackendModel> Models() const override;
  std::function<void()> Start(v1::DecodeRequest request, absl::Time deadline, ChunkFn on_chunk,
                              DoneFn on_done) override;
  bool connected() const { return watch_->connected(); }

 private:
  // Shared with the calls under way, whose last words may come from gRPC's threads at any time.
  const std::shared_ptr<RoutingWatch> watch_;
  const std::shared_ptr<Channels> channels_;
};

}  // namespace chorale
