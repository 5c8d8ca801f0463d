// ClusterBackend: generations on the decode workers of a cluster, over gRPC.
//
// A worker that is lost while it generates ends its calls with Unavailable at once; a call that has
// not produced anything yet is first tried on one other worker. Each request names the workers that
// are known to hold leading blocks of its prompt, so that they can be pulled instead of computed.
#pragma once

#include <memory>
#include <string>

#include "rpc/channels.h"
#include "services/gateway/backend.h"
#include "services/router/block_directory.h"
#include "services/router/routing_watch.h"

namespace chorale {

class ClusterBackend : public Backend {
 public:
  // `redis_url` empty: no Redis. InvalidArgument: it is no URL.
  static absl::StatusOr<std::unique_ptr<ClusterBackend>> Create(const std::string& orchestrator,
                                                                const std::string& redis_url);

  std::shared_ptr<const ModelTable> models() const override { return watch_->view()->models; }
  std::function<void()> Start(GenerateRequest request, ChunkFn on_chunk, DoneFn on_done) override;
  bool connected() const { return watch_->connected(); }
  const BlockDirectory& directory() const { return *directory_; }

 private:
  ClusterBackend(const std::string& orchestrator, std::shared_ptr<Channels> channels,
                 std::shared_ptr<BlockDirectory> directory);

  // Shared with the calls under way, whose last words may come from gRPC's threads at any time.
  const std::shared_ptr<Channels> channels_;
  const std::shared_ptr<BlockDirectory> directory_;
  const std::shared_ptr<RoutingWatch> watch_;  // ends first: it tells the directory
};

}  // namespace chorale
