// The block store under load: a real chorale-kvstore, clients that get blocks by a Zipf law and put
// those that are missing, as workers do, and a client of its own that times gets of blocks that are
// always in memory. Says whether the store kept its limits of memory and disk, and how long it
// takes to start again on what it had when it was killed.
//
// Napkin: a get of 64 KiB over a unix socket is two copies by the kernel and one each by gRPC on
// both sides, about 60 us of a core; two cores that are shared with the clients move 1 to 1.5 GB/s.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/json.h"
#include "bench/fixtures/sample_blocks.h"
#include "bench/fixtures/store_process.h"

namespace chorale::bench {
namespace {

struct Options {
  double gb = 30;
  int64_t dram_mib = 1024;
  int64_t disk_mib = 4096;
  uint64_t keys = 120'000;  // about 10 GB
  double zipf = 0.99;
  int clients = 2;
  uint64_t seed = 1;
  std::string folder;
  bool json = false;
  std::string machine;
  std::string commit;
};

constexpr uint64_t kProbed = 16;     // blocks that are always in memory
constexpr uint64_t kVerifiedOf = 8;  // one get in so many has its content compared by the client
constexpr double kGetP99MaxMs = 2;
constexpr double kStartMaxSeconds = 5;

int64_t one_size_kib = 0;  // --block-kib

// Most blocks have 64 KiB, some 128, few 256, unless all have one size.
int64_t SizeOf(uint64_t number) {
  if (one_size_kib > 0) return one_size_kib << 10;
  const uint64_t draw = MixBits(number) % 100;
  return draw < 80 ? 64 << 10 : draw < 95 ? 128 << 10 : 256 << 10;
}

// Numbers from 0 on, each less likely than the one before, by a power law.
class Zipf {
 public:
  Zipf(uint64_t count, double exponent) {
    double sum = 0;
    for (uint64_t i = 0; i < count; ++i) {
      sum += std::pow(static_cast<double>(i + 1), -exponent);
      sums_.push_back(sum);
    }
  }
  uint64_t Draw(double uniform) const {
    const auto it = std::upper_bound(sums_.begin(), sums_.end(), uniform * sums_.back());
    return static_cast<uint64_t>(
        std::min<ptrdiff_t>(it - sums_.begin(), static_cast<ptrdiff_t>(sums_.size()) - 1));
  }

 private:
  std::vector<double> sums_;
};

struct Usage {
  int64_t rss_max = 0;
  int64_t disk_max = 0;
};

void Measure(pid_t pid, const std::string& dir, Usage& usage) {
  std::ifstream statm(absl::StrFormat("/proc/%d/statm", pid));
  int64_t pages = 0;
  int64_t resident = 0;
  statm >> pages >> resident;
  usage.rss_max = std::max(usage.rss_max, resident * sysconf(_SC_PAGESIZE));
  int64_t disk = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    struct stat stat {};
    if (lstat(entry.path().c_str(), &stat) == 0) disk += int64_t{stat.st_blocks} * 512;
  }
  usage.disk_max = std::max(usage.disk_max, disk);
}

struct Load {
  std::atomic<int64_t> bytes = 0;  // got and put
  std::atomic<int64_t> gets = 0;
  std::atomic<int64_t> hits = 0;
  std::atomic<int64_t> puts_failed = 0;
  std::vector<double> probe_ms;
  int64_t probe_misses = 0;
};

void RunClient(const Options& options, const Zipf& zipf, uint64_t client,
               std::unique_ptr<v1::Blocks::Stub> stub, Load& load) {
  const int64_t bytes_max = static_cast<int64_t>(options.gb * 1e9);
  for (uint64_t step = 0; load.bytes < bytes_max; ++step) {
    const uint64_t rank = zipf.Draw(RandomUniform(options.seed, client, step));
    const Pulled pulled = PullBlocks(*stub, {rank}, SizeOf, step % kVerifiedOf == 0);
    CHECK(pulled.status.ok()) << pulled.status.error_message();
    ++load.gets;
    load.hits += pulled.blocks;
    load.bytes += SizeOf(rank);
    if (pulled.blocks == 0 && !PushBlocks(*stub, {rank}, SizeOf)) ++load.puts_failed;
  }
}

void RunProbe(const Options& options, std::unique_ptr<v1::Blocks::Stub> stub, Load& load) {
  const int64_t bytes_max = static_cast<int64_t>(options.gb * 1e9);
  for (uint64_t step = 0; load.bytes < bytes_max; ++step) {
    const uint64_t number = options.keys + step % kProbed;
    const absl::Time begin = absl::Now();
    const Pulled pulled = PullBlocks(*stub, {number}, SizeOf, false);
    if (pulled.blocks == 1) {
      load.probe_ms.push_back(absl::ToDoubleMilliseconds(absl::Now() - begin));
    } else {
      ++load.probe_misses;
      PushBlocks(*stub, {number}, SizeOf);
    }
    poll(nullptr, 0, 1);
  }
}

double Quantile(std::vector<double> values, double q) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

struct Metric {
  std::string name;
  double value;
  std::string unit;
  double limit;  // NaN: none
};

void Print(const Options& options, const std::vector<Metric>& metrics) {
  if (!options.json) {
    for (const Metric& metric : metrics) {
      const std::string limit =
          std::isnan(metric.limit) ? "" : absl::StrFormat("   limit %g", metric.limit);
      printf("%-28s %12.3f %s%s\n", metric.name.c_str(), metric.value, metric.unit.c_str(),
             limit.c_str());
    }
    return;
  }
  Json list = Json::array();
  for (const Metric& metric : metrics) {
    list.push_back({{"metric", metric.name},
                    {"value", metric.value},
                    {"unit", metric.unit},
                    {"peer", nullptr},
                    {"peer_value", nullptr},
                    {"ratio", nullptr},
                    {"limit", std::isnan(metric.limit) ? Json() : Json(metric.limit)},
                    {"command", absl::StrFormat("bench_kvstore --gb %g --json", options.gb)},
                    {"machine", options.machine},
                    {"date", absl::FormatTime("%Y-%m-%d", absl::Now(), absl::UTCTimeZone())},
                    {"commit", options.commit}});
  }
  printf("%s\n", list.dump(2).c_str());
}

v1::StatBlocksReply StatOf(v1::Blocks::Stub& stub) {
  grpc::ClientContext context;
  v1::StatBlocksReply reply;
  CHECK(stub.Stat(&context, {}, &reply).ok());
  return reply;
}

void Run(const Options& options) {
  const std::string folder = options.folder.empty() ? MakeTempDir() : options.folder;
  const std::string program = CHORALE_BINARY_FOLDER "/chorale-kvstore";
  const std::vector<std::string> flags = {"--dram-mib",  std::to_string(options.dram_mib),
                                          "--disk-mib",  std::to_string(options.disk_mib),
                                          "--log-level", "warning"};
  StoreProcess process(program, folder, flags);
  const Zipf zipf(options.keys, options.zipf);
  const auto stub = process.Connect();
  for (uint64_t i = 0; i < kProbed; ++i) CHECK(PushBlocks(*stub, {options.keys + i}, SizeOf));
  Load load;
  Usage usage;
  const absl::Time begin = absl::Now();
  std::vector<std::thread> threads;
  for (int client = 0; client < options.clients; ++client) {
    threads.emplace_back([&, client] {
      RunClient(options, zipf, static_cast<uint64_t>(client), process.Connect(), load);
    });
  }
  threads.emplace_back([&] { RunProbe(options, process.Connect(), load); });
  const int64_t bytes_max = static_cast<int64_t>(options.gb * 1e9);
  while (load.bytes < bytes_max) {
    Measure(process.pid(), folder + "/disk", usage);
    poll(nullptr, 0, 100);
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  Measure(process.pid(), folder + "/disk", usage);
  const v1::StatBlocksReply stat = StatOf(*stub);
  const auto counter = [&](int tier, const char* name) {
    return static_cast<double>(stat.tiers(tier).counters().at(name));
  };
  const double gets = static_cast<double>(load.gets) + static_cast<double>(load.probe_ms.size());
  const double none = std::nan("");
  process.Stop(SIGKILL);
  const StoreProcess again(program, folder, flags);
  const v1::StatBlocksReply stat_again = StatOf(*again.Connect());
  Print(
      options,
      {{"traffic", static_cast<double>(load.bytes) / 1e9, "GB", none},
       {"throughput", static_cast<double>(load.bytes) / 1e9 / seconds, "GB/s", none},
       {"rss max", static_cast<double>(usage.rss_max) / (1 << 20), "MiB", none},
       {"blocks in memory", static_cast<double>(stat.tiers(0).bytes()) / (1 << 20), "MiB",
        static_cast<double>(options.dram_mib)},
       // The data file, and 64 bytes for every 4096 of it at most.
       {"disk max", static_cast<double>(usage.disk_max) / (1 << 20), "MiB",
        static_cast<double>(options.disk_mib) * (1 + 1.0 / 64) + 1},
       {"get from memory p50", Quantile(load.probe_ms, 0.5), "ms", none},
       {"get from memory p99", Quantile(load.probe_ms, 0.99), "ms", kGetP99MaxMs},
       {"gets", gets, "", none},
       {"hit rate", static_cast<double>(load.hits) / static_cast<double>(load.gets), "", none},
       {"hits from disk", counter(1, "hits") / gets, "of gets", none},
       {"writes left out", counter(0, "unqueued"), "blocks", none},
       {"puts refused", static_cast<double>(load.puts_failed), "", none},
       {"corrupt", counter(0, "corrupt") + counter(1, "corrupt"), "blocks", 0},
       {"probe misses", static_cast<double>(load.probe_misses), "", none},
       {"start after kill -9", absl::ToDoubleSeconds(again.start_time()), "s", kStartMaxSeconds},
       {"blocks it comes back with", static_cast<double>(stat_again.tiers(1).blocks()), "", none}});
  if (options.folder.empty()) std::filesystem::remove_all(folder);
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("bench_kvstore: the block store under load");
  app.add_option("--gb", options.gb, "traffic, gets and puts")->capture_default_str();
  app.add_option("--dram-mib", options.dram_mib, "of the store")->capture_default_str();
  app.add_option("--disk-mib", options.disk_mib, "of the store")->capture_default_str();
  app.add_option("--keys", options.keys, "different blocks")->capture_default_str();
  app.add_option("--zipf", options.zipf, "exponent of the law")->capture_default_str();
  app.add_option("--clients", options.clients, "that load the store")->capture_default_str();
  app.add_option("--block-kib", one_size_kib, "of all blocks; 0: 64 for most, 128, 256")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of the draws")->capture_default_str();
  app.add_option("--folder", options.folder, "for the store's files; a temporary one if not set");
  app.add_flag("--json", options.json, "print a list of JSON objects");
  app.add_option("--machine", options.machine, "named in the JSON");
  app.add_option("--commit", options.commit, "named in the JSON");
  CLI11_PARSE(app, argc, argv);
  Run(options);
  return 0;
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) { return chorale::bench::Main(argc, argv); }
