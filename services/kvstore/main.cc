// chorale-kvstore: keeps K/V blocks in memory and on disk for the workers of a cluster.
#include <CLI/CLI.hpp>

#include "absl/time/clock.h"
#include "process/log.h"
#include "process/process.h"
#include "rpc/blocks/shared_region.h"
#include "rpc/server.h"
#include "services/common/metrics.h"
#include "services/kvstore/kvstore_service.h"
#include "services/kvstore/redis/redis_backing.h"

namespace chorale {
namespace {

struct Flags {
  ProcessOptions process;
  int64_t dram_mib = 1024;
  int64_t disk_mib = 4096;
  int64_t write_behind_mib = 256;
  int64_t slab_mib = 4;
  std::string dir;
  std::string redis;
};

int Run(const Flags& flags) {
  std::unique_ptr<RedisBacking> redis;
  if (!flags.redis.empty()) {
    auto opened = RedisBacking::Open(flags.redis);
    if (!opened.ok()) return ExitCodeOf(opened.status());
    redis = *std::move(opened);
  }
  auto store = BlockStore::Create({.dram_bytes = flags.dram_mib << 20,
                                   .slab_bytes = flags.slab_mib << 20,
                                   .dir = flags.dir,
                                   .disk_bytes = flags.disk_mib << 20,
                                   .write_behind_bytes = flags.write_behind_mib << 20,
                                   .record_events = true},
                                  redis == nullptr ? BackingTier() : redis->tier());
  if (!store.ok()) return ExitCodeOf(store.status());
  auto region = RegionServer::Start((*store)->region());
  if (!region.ok()) LogWarning("blocks travel as bytes only: ", region.status().message());

  KvstoreService service(**store, {.region = region.ok() ? (*region)->address() : ""});
  auto server = RpcServer::Start(flags.process.listen, {&service});
  if (!server.ok()) return ExitCodeOf(server.status());
  const std::string address = (*server)->address();
  std::vector<std::string> lines = {"grpc=" + address};
  const auto metrics = StartMetrics(
      flags.process.metrics, [&service](MetricSet& set) { AddStat(service.Describe(), set); },
      lines);
  if (!metrics.ok()) return ExitCodeOf(metrics.status());
  if (absl::Status status = WriteAddressFile(flags.process.address_file, lines); !status.ok()) {
    return ExitCodeOf(status);
  }
  LogInfo("kvstore listens on ", address);
  service.SetId(address);
  (*server)->SetServing(true);
  WaitForTermination();

  LogInfo("stopping");
  const absl::Time deadline = absl::Now() + absl::Seconds(flags.process.drain_seconds);
  service.Stop();
  (*server)->Drain(deadline);
  server->reset();
  if (!(*store)->Flush(deadline - absl::Now())) LogWarning("some blocks did not reach the disk");
  return 0;
}

int Main(int argc, char** argv) {
  BlockTerminationSignals();
  Flags flags;
  CLI::App app("chorale-kvstore: keeps K/V blocks in memory and on disk");
  AddProcessFlags(app, flags.process);
  const auto mib = CLI::Range(int64_t{0}, int64_t{1} << 30);
  app.add_option("--dram-mib", flags.dram_mib, "memory for blocks")
      ->capture_default_str()
      ->check(mib);
  app.add_option("--dir", flags.dir, "folder of the disk tier; without it there is none");
  app.add_option("--disk-mib", flags.disk_mib, "disk for blocks")
      ->capture_default_str()
      ->check(mib);
  app.add_option("--slab-mib", flags.slab_mib,
                 "the largest block; memory and disk are divided by it among sizes of blocks")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  app.add_option(
         "--redis", flags.redis,
         "redis://[user:password@]host[:port][,host...][/db]: a tier behind memory and disk")
      ->envname("CHORALE_REDIS");
  app.add_option("--write-behind-mib", flags.write_behind_mib,
                 "what may wait to be written; beyond it blocks stay in memory only")
      ->capture_default_str()
      ->check(mib);
  if (const auto exit_code = ParseCommandLine(app, argc, argv, flags.process)) return *exit_code;
  return Run(flags);
}

}  // namespace
}  // namespace chorale

int main(int argc, char** argv) { return chorale::Main(argc, argv); }
