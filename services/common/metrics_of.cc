// What the messages by which processes tell of themselves come to as metrics.
//
// Counters and gauges arrive by the names that the processes give them, and a new one there is a
// new metric here; only gauges, and what belongs together under one name, are known by name.
#include <algorithm>
#include <iterator>
#include <string_view>

#include <grpcpp/client_context.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "rpc/channels.h"
#include "rpc/deadline.h"
#include "services/common/metrics.h"

namespace chorale {
namespace {

// Prometheus gives up on a scrape after 10 s unless it is told otherwise.
constexpr absl::Duration kStatTimeout = absl::Seconds(3);

// Of a worker's numbers: those that also fall.
constexpr std::string_view kGauges[] = {"block_bytes",     "block_watchers", "blocks_on_loan",
                                        "loans",           "requests_live",  "store_blocks_queued",
                                        "store_nodes_down"};
// Told of with the tier, or by state.
constexpr std::string_view kElsewhere[] = {"blocks_total", "blocks_free",     "blocks_cached",
                                           "blocks_held",  "blocks_rejected", "blocks_corrupt",
                                           "blocks_lent",  "leases_expired"};

template <size_t kSize>
bool Contains(const std::string_view (&names)[kSize], const std::string& name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

int64_t Value(const v1::WorkerStatusResponse& status, const std::string& name) {
  const auto found = status.engine().find(name);
  return found == status.engine().end() ? 0 : found->second;
}

// The pool's blocks by state. They sum up to all there are.
void AddBlocksByState(const v1::WorkerStatusResponse& status, MetricSet& metrics) {
  if (!status.engine().contains("blocks_total")) return;  // it is loading
  const int64_t cached = Value(status, "blocks_cached");
  const int64_t held = Value(status, "blocks_held");
  const std::pair<const char*, int64_t> states[] = {
      {"cached", cached},
      {"held", held},
      {"free", std::max<int64_t>(0, Value(status, "blocks_total") - cached - held)}};
  for (const auto& [state, blocks] : states) {
    metrics.Gauge("chorale_kv_blocks", "K/V blocks by state.", blocks,
                  {{"tier", "pool"}, {"state", state}});
  }
}

// "pulls_failed" is chorale_pulls_failed_total, "store_blocks_pushed" is
// chorale_store_blocks_pushed_total, "steps" is chorale_engine_steps_total.
std::string NameOfCounter(const std::string& name) {
  const bool has_home = absl::StartsWith(name, "pulls") || absl::StartsWith(name, "store_") ||
                        absl::StartsWith(name, "requests_") || absl::StartsWith(name, "kv_");
  return absl::StrCat("chorale_", has_home ? "" : "engine_", name);
}

}  // namespace

CollectFn CollectBlocks(const std::string& address) {
  const auto channel = OpenChannel(address);
  return [channel](MetricSet& metrics) {
    grpc::ClientContext context;
    SetDeadline(context, absl::Now() + kStatTimeout);
    v1::StatBlocksReply stat;
    const bool answered =
        v1::Blocks::NewStub(channel)->Stat(&context, v1::StatBlocksRequest(), &stat).ok();
    metrics.Gauge("chorale_kv_up", "Whether the process answers for its blocks.", answered);
    if (answered) AddStat(stat, metrics);
  };
}

void AddStat(const v1::StatBlocksReply& stat, MetricSet& metrics) {
  for (const v1::TierStat& tier : stat.tiers()) {
    const MetricSet::Labels of_tier = {{"tier", tier.tier()}};
    const bool counted = tier.blocks() >= 0;
    if (counted && tier.tier() != "pool") {  // the pool's are told of by AddWorkerStatus
      metrics.Gauge("chorale_kv_blocks", "K/V blocks by state.", tier.blocks(),
                    {{"tier", tier.tier()}, {"state", "cached"}});
    }
    if (counted) {
      metrics.Gauge("chorale_kv_bytes", "Bytes of the blocks in a tier.", tier.bytes(), of_tier);
      metrics.Gauge("chorale_kv_capacity_bytes", "Bytes that a tier may have.", tier.bytes_max(),
                    of_tier);
      metrics.Gauge("chorale_kv_holds", "Pins and leases on blocks.", tier.holds(), of_tier);
    }
    metrics.Gauge("chorale_kv_tier_up", "1 when nothing is wrong with the tier.",
                  tier.state() == "ok", of_tier);
    for (const auto& [name, value] : tier.counters()) {
      if (absl::EndsWith(name, "_queued")) {
        metrics.Gauge("chorale_kv_" + name, "What the tier has yet to write.", value, of_tier);
        continue;
      }
      metrics.Counter(
          absl::StrCat("chorale_kv_", std::string(absl::StripPrefix(name, "blocks_")), "_total"),
          "A counter of the tier; `chorale cache stat --counters` has the same.", value, of_tier);
    }
  }
  metrics.Counter("chorale_kv_events_total", "Blocks that came or went.",
                  static_cast<double>(stat.sequence()));
}

void AddWorkerStatus(const v1::WorkerStatusResponse& status, MetricSet& metrics) {
  metrics.Gauge("chorale_worker_state", "1 for the state that the worker is in.", 1,
                {{"worker", status.worker_id()}, {"state", status.state()}});
  metrics.Gauge("chorale_worker_load_ratio", "Part of the weights that is loaded.",
                status.load_progress());
  AddBlocksByState(status, metrics);
  constexpr std::string_view kSequences = "sequences_";
  for (const auto& [name, value] : status.engine()) {
    if (Contains(kElsewhere, name)) continue;
    if (absl::StartsWith(name, "sequences_")) {
      metrics.Gauge("chorale_sequences", "Sequences of requests by state.", value,
                    {{"state", name.substr(kSequences.size())}});
    } else if (Contains(kGauges, name)) {
      metrics.Gauge(NameOfCounter(name), "A gauge of the worker.", value);
    } else {
      metrics.Counter(NameOfCounter(name) + "_total", "A counter of the worker.", value);
    }
  }
  for (const auto& [model, counters] : status.models()) {
    const std::pair<const char*, int64_t> sources[] = {
        {"computed", counters.prompt_tokens_computed()},
        {"reused_own", counters.prompt_tokens_reused_own()},
        {"reused_shared", counters.prompt_tokens_reused_shared()},
        {"received", counters.prompt_tokens_received()}};
    for (const auto& [source, tokens] : sources) {
      metrics.Counter("chorale_model_prompt_tokens_total",
                      "Tokens of prompts by where their K/V came from.", tokens,
                      {{"model", model}, {"source", source}});
    }
    metrics.Counter("chorale_model_decode_rows_total", "Tokens generated.", counters.decode_rows(),
                    {{"model", model}});
  }
}

void AddRouting(const v1::RoutingTable& table, MetricSet& metrics) {
  for (const v1::WorkerReport& worker : table.workers()) {
    const MetricSet::Labels labels = {
        {"worker", worker.worker_id()},
        {"role", worker.role() == v1::ROLE_PREFILL ? "prefill" : "decode"}};
    metrics.Gauge("chorale_cluster_worker_ready", "Whether a member takes requests.",
                  worker.ready() && !worker.draining(), labels);
    metrics.Gauge("chorale_cluster_requests_running", "As members report.",
                  worker.requests_running(), labels);
    metrics.Gauge("chorale_cluster_requests_waiting", "As members report.",
                  worker.requests_waiting(), labels);
    metrics.Gauge("chorale_cluster_blocks_free", "As members report.", worker.blocks_free(),
                  labels);
  }
  metrics.Gauge("chorale_cluster_workers", "Members of the cluster.", table.workers_size());
  metrics.Counter("chorale_cluster_changes_total", "Changes of the routing table.",
                  table.version());
}

}  // namespace chorale
