#include "services/worker/worker_blocks.h"

#include <utility>

namespace chorale {

void AddBlockFlags(CLI::App& app, WorkerBlocksOptions& options) {
  app.add_option("--store", options.stores, "address of a store node, repeatable; none: no store");
  app.add_option("--store-replicas", options.store_replicas, "store nodes that keep a block")
      ->capture_default_str()
      ->check(CLI::Range(1, 16));
  app.add_option("--local-prefill-tokens", options.fetch.local_prefill_tokens,
                 "uncached prompt tails up to this long are prefilled here")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--pull-channels", options.fetch.channels,
                 "connections that a large pull of blocks is spread over")
      ->capture_default_str()
      ->check(CLI::Range(1, 4));
}

WorkerBlocks::WorkerBlocks(const WorkerBlocksOptions& options, Worker& worker,
                           const std::string& worker_id)
    : worker_(worker),
      stores_(options.stores.empty() ? nullptr
                                     : std::make_unique<StoreClient>(
                                           options.stores, options.store_replicas, channels_)),
      publisher_(stores_ == nullptr
                     ? nullptr
                     : std::make_unique<StorePublisher>(worker, *stores_, channels_)),
      fetcher_(options.fetch, worker, channels_, stores_.get()),
      service_(worker, feed_, worker_id) {}

// The engine's thread tells the feed and the publisher of blocks: it ends first.
WorkerBlocks::~WorkerBlocks() {
  if (worker_.ready()) worker_.host()->Stop();
}

void WorkerBlocks::Start() {
  worker_.host()->OnBlockEvents([this](std::span<const BlockEvent> events) {
    feed_.Append(events);
    if (publisher_ != nullptr) publisher_->Offer(events);
  });
}

void WorkerBlocks::Describe(v1::WorkerStatusResponse& response) const {
  auto& counters = *response.mutable_engine();
  const BlockFetcher::Stats fetched = fetcher_.stats();
  counters["pulls"] = fetched.pulls;
  counters["pulls_failed"] = fetched.pulls_failed;
  counters["pulls_declined"] = fetched.pulls_declined;
  counters["blocks_pulled"] = fetched.blocks_pulled;
  counters["blocks_shared"] = fetched.blocks_shared;
  counters["block_watchers"] = feed_.watchers();
  if (publisher_ == nullptr) return;
  const StorePublisher::Stats stored = publisher_->stats();
  counters["store_blocks_pushed"] = stored.blocks_pushed;
  counters["store_blocks_present"] = stored.blocks_present;
  counters["store_blocks_dropped"] = stored.blocks_dropped;
  counters["store_blocks_queued"] = stored.queued;
  counters["store_nodes_down"] = stores_->nodes_down();
}

}  // namespace chorale
