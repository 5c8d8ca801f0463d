// Metrics: the numbers of a process for Prometheus, at http://HOST:PORT/metrics.
//
// Nothing is counted here: when somebody asks, the process is asked for what it counts anyway, so
// that `chorale status`, `chorale cache stat` and Prometheus can only agree.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "chorale/v1/blocks.pb.h"
#include "chorale/v1/control.pb.h"
#include "chorale/v1/worker.pb.h"

class CivetServer;

namespace chorale {

// The answer to one scrape. One thread at a time.
class MetricSet {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;
  struct Sample {
    Labels labels;
    double value = 0;
  };
  struct Family {
    std::string help;
    bool counter = false;  // only grows; else a gauge
    std::vector<Sample> samples;
  };

  // The first one's `help` stays. A counter's name ends with _total. Characters that Prometheus
  // does not have in names become _; a sample with the labels of another is left out.
  void Gauge(const std::string& name, const std::string& help, double value, Labels labels = {});
  void Counter(const std::string& name, const std::string& help, double value, Labels labels = {});

  const std::map<std::string, Family>& families() const { return families_; }

 private:
  void Add(const std::string& name, const std::string& help, double value, Labels labels,
           bool counter);

  std::map<std::string, Family> families_;  // by name
};

// Fills in what a process has to tell. Called on a thread of the server's, one at a time.
using CollectFn = std::function<void(MetricSet&)>;

class MetricsServer {
 public:
  // Serves `collect` at `address`, HOST:PORT; port 0 picks one. InvalidArgument: it is in use, or
  // cannot be listened on.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& address,
                                                              CollectFn collect);
  // Waits for the scrape under way, if there is one, and until the server looks whether it is to
  // stop, which it does every 2 s.
  ~MetricsServer();

  // HOST:PORT, with the port that was picked.
  const std::string& address() const { return address_; }

 private:
  class Handler;

  MetricsServer();

  std::unique_ptr<Handler> handler_;  // outlives the server, which calls it
  std::unique_ptr<CivetServer> server_;
  std::string address_;
};

// For the flag --metrics: null when `address` is empty. Adds metrics=ADDRESS to `address_lines`.
absl::StatusOr<std::unique_ptr<MetricsServer>> StartMetrics(
    const std::string& address, CollectFn collect, std::vector<std::string>& address_lines);

// What the process that serves chorale.v1.Blocks at `address` says of its tiers. The call is made
// when `collect` runs; chorale_kv_up tells whether it was answered.
CollectFn CollectBlocks(const std::string& address);

// The same, of what is there already.
void AddStat(const v1::StatBlocksReply& stat, MetricSet& metrics);
void AddWorkerStatus(const v1::WorkerStatusResponse& status, MetricSet& metrics);
void AddRouting(const v1::RoutingTable& table, MetricSet& metrics);

}  // namespace chorale
