#include "services/common/metrics.h"

#include <algorithm>
#include <cctype>
#include <exception>
#include <mutex>

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace chorale {
namespace {

constexpr int kThreads = 2;

// [a-zA-Z_:][a-zA-Z0-9_:]*, of any text.
std::string AsName(std::string text) {
  for (char& c : text) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_' && c != ':') c = '_';
  }
  if (text.empty() || std::isdigit(static_cast<unsigned char>(text.front()))) text.insert(0, "_");
  return text;
}

absl::Status CheckAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 || port > 65535 ||
      // The server would read more than an address into these.
      address.find_first_of(", \t") != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--metrics '%s': expected HOST:PORT, for example 127.0.0.1:9400", address));
  }
  return absl::OkStatus();
}

}  // namespace

void MetricSet::Gauge(const std::string& name, const std::string& help, double value,
                      Labels labels) {
  Add(name, help, value, std::move(labels), /*counter=*/false);
}

void MetricSet::Counter(const std::string& name, const std::string& help, double value,
                        Labels labels) {
  Add(name, help, value, std::move(labels), /*counter=*/true);
}

void MetricSet::Add(const std::string& name, const std::string& help, double value, Labels labels,
                    bool counter) {
  const auto [it, fresh] = families_.try_emplace(AsName(name));
  Family& family = it->second;
  if (fresh) {
    family.help = help;
    family.counter = counter;
  }
  for (const Sample& sample : family.samples) {
    if (sample.labels == labels) return;
  }
  family.samples.push_back({std::move(labels), value});
}

class MetricsServer::Collector : public prometheus::Collectable {
 public:
  explicit Collector(CollectFn collect) : collect_(std::move(collect)) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    MetricSet metrics;
    {
      std::lock_guard lock(mutex_);
      collect_(metrics);
    }
    std::vector<prometheus::MetricFamily> families;
    for (const auto& [name, family] : metrics.families()) {
      prometheus::MetricFamily& out = families.emplace_back();
      out.name = name;
      out.help = family.help;
      out.type = family.counter ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge;
      for (const MetricSet::Sample& sample : family.samples) {
        prometheus::ClientMetric& metric = out.metric.emplace_back();
        for (const auto& [label, value] : sample.labels) metric.label.push_back({label, value});
        (family.counter ? metric.counter.value : metric.gauge.value) = sample.value;
      }
    }
    return families;
  }

 private:
  mutable std::mutex mutex_;  // scrapes come on several threads
  const CollectFn collect_;
};

struct MetricsServer::Server {
  explicit Server(const std::string& address) : exposer(address, kThreads) {}
  prometheus::Exposer exposer;
};

MetricsServer::MetricsServer() = default;
MetricsServer::~MetricsServer() = default;

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address,
                                                                    CollectFn collect) {
  if (absl::Status status = CheckAddress(address); !status.ok()) return status;
  std::unique_ptr<MetricsServer> metrics(new MetricsServer());
  metrics->collector_ = std::make_shared<Collector>(std::move(collect));
  std::vector<int> ports;
  try {
    metrics->server_ = std::make_unique<Server>(address);
    metrics->server_->exposer.RegisterCollectable(metrics->collector_);
    ports = metrics->server_->exposer.GetListeningPorts();
  } catch (const std::exception& error) {  // CivetException says nothing of the reason
    ports.clear();
  }
  if (ports.empty() || ports.front() <= 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--metrics %s cannot be listened on: is it in use, or not an address of this machine? "
        "Choose another (port 0 picks a free one)",
        address));
  }
  metrics->address_ = absl::StrCat(address.substr(0, address.rfind(':')), ":", ports.front());
  return metrics;
}

absl::StatusOr<std::unique_ptr<MetricsServer>> StartMetrics(
    const std::string& address, CollectFn collect, std::vector<std::string>& address_lines) {
  if (address.empty()) return nullptr;
  auto metrics = MetricsServer::Start(address, std::move(collect));
  if (metrics.ok()) address_lines.push_back("metrics=" + (*metrics)->address());
  return metrics;
}

}  // namespace chorale
