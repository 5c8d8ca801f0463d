// chorale-router: the front door of a cluster.
#include <CLI/CLI.hpp>

#include "absl/time/clock.h"
#include "process/log.h"
#include "process/process.h"
#include "services/common/metrics.h"
#include "services/gateway/front_door.h"
#include "services/router/cluster_backend.h"
#include "services/router/counted_backend.h"

namespace chorale {
namespace {

void AddDirectory(const BlockDirectory::Stats& stats, MetricSet& metrics) {
  metrics.Gauge("chorale_directory_holders", "Workers whose blocks are watched.", stats.holders);
  metrics.Gauge("chorale_directory_holders_whole", "Of them, those whose view is proven complete.",
                stats.holders_whole);
  metrics.Gauge("chorale_directory_blocks", "Blocks known, once for each holder.", stats.blocks);
  metrics.Gauge("chorale_directory_bytes", "Memory of the index.", stats.bytes);
  metrics.Counter("chorale_directory_views_broken_total", "Views that missed an event.",
                  stats.views_broken);
  if (stats.redis_state.empty()) return;
  metrics.Gauge("chorale_redis_up", "1 when nothing is wrong with Redis.",
                stats.redis_state == "ok");
  const std::pair<const char*, int64_t> searches[] = {
      {"hit", stats.redis.hits}, {"miss", stats.redis.misses}, {"failed", stats.redis.failed}};
  for (const auto& [result, count] : searches) {
    metrics.Counter("chorale_redis_searches_total", "Searches of the shared directory.", count,
                    {{"result", result}});
  }
  metrics.Counter("chorale_redis_written_total", "Changes written to the shared directory.",
                  stats.redis.written);
  metrics.Counter("chorale_redis_dropped_total", "Changes that found no room or were refused.",
                  stats.redis.dropped);
  metrics.Counter("chorale_redis_losses_total", "Times that everything was announced again.",
                  stats.redis.losses);
  const RedisCounters& commands = stats.redis_commands;
  const std::pair<const char*, int64_t> outcomes[] = {{"sent", commands.commands},
                                                      {"skipped", commands.skipped},
                                                      {"refused", commands.errors},
                                                      {"timed_out", commands.timeouts},
                                                      {"lost", commands.lost}};
  for (const auto& [outcome, count] : outcomes) {
    metrics.Counter("chorale_redis_commands_total",
                    "Commands sent, and of them or instead of them those that failed.", count,
                    {{"outcome", outcome}});
  }
  metrics.Gauge("chorale_redis_keys_queued", "Changes not written yet.", stats.redis.keys_queued);
}

int Main(int argc, char** argv) {
  BlockTerminationSignals();
  ProcessOptions options;
  FrontDoorOptions door_options;
  std::string orchestrator;
  std::string redis;
  CLI::App app("chorale-router: OpenAI-compatible HTTP and gRPC in front of a cluster");
  AddProcessFlags(app, options);
  AddFrontDoorFlags(app, door_options);
  app.add_option("--orchestrator", orchestrator, "address of the orchestrator")->required();
  app.add_option("--redis", redis,
                 "redis://[user:password@]host[:port][,host...][/db]: shares with other routers "
                 "which worker has which blocks")
      ->envname("CHORALE_REDIS");
  if (const auto exit_code = ParseCommandLine(app, argc, argv, options)) return *exit_code;

  auto created = ClusterBackend::Create(orchestrator, redis);
  if (!created.ok()) return ExitCodeOf(created.status());
  ClusterBackend& backend = **created;
  door_options.grpc = options.listen;
  CountedBackend counted(backend);
  auto door = FrontDoor::Open(door_options, counted);
  if (!door.ok()) return ExitCodeOf(door.status());
  std::vector<std::string> lines = (*door)->AddressLines();
  const auto metrics = StartMetrics(
      options.metrics,
      [&](MetricSet& set) {
        counted.Describe(set);
        AddDirectory(backend.directory().stats(), set);
      },
      lines);
  if (!metrics.ok()) return ExitCodeOf(metrics.status());
  for (const std::string& line : lines) LogInfo("listening: ", line);
  if (absl::Status status = WriteAddressFile(options.address_file, lines); !status.ok()) {
    return ExitCodeOf(status);
  }
  // Ready once the cluster is known; what it can serve is another question, answered per model.
  if (!WaitForTermination([&] { return backend.connected(); })) {
    (*door)->SetServing(true);
    WaitForTermination();
  }
  LogInfo("draining");
  (*door)->Drain(absl::Now() + absl::Seconds(options.drain_seconds));
  return 0;
}

}  // namespace
}  // namespace chorale

int main(int argc, char** argv) { return chorale::Main(argc, argv); }
