// WorkerBlocks: how a worker's blocks come and go: what it tells of them, lends, pulls and stores.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "rpc/channels.h"
#include "services/common/block_feed.h"
#include "services/worker/block_fetch.h"
#include "services/worker/calls/blocks_service.h"
#include "services/worker/store_client.h"
#include "services/worker/store_publisher.h"
#include "services/worker/worker.h"

namespace chorale {

struct WorkerBlocksOptions {
  std::vector<std::string> stores;  // addresses of the store's nodes
  int store_replicas = 1;           // nodes that keep a block
  BlockFetcherOptions fetch;
};

void AddBlockFlags(CLI::App& app, WorkerBlocksOptions& options);

class WorkerBlocks {
 public:
  // `worker` outlives it.
  WorkerBlocks(const WorkerBlocksOptions& options, Worker& worker, const std::string& worker_id);
  ~WorkerBlocks();

  // The worker is loaded: begins to tell and to store.
  void Start();
  // The process goes: whoever watches is told, so that nobody is waited for.
  void Close() { feed_.Close(); }

  BlockFetcher& fetcher() { return fetcher_; }
  grpc::Service* service() { return &service_; }
  // Counters by name.
  void Describe(v1::WorkerStatusResponse& response) const;

 private:
  Worker& worker_;
  Channels channels_;
  BlockFeed feed_;
  std::unique_ptr<StoreClient> stores_;  // null: there is no store
  std::unique_ptr<StorePublisher> publisher_;
  BlockFetcher fetcher_;
  BlocksService service_;
};

}  // namespace chorale
