#include "services/common/metrics.h"

#include <algorithm>
#include <cctype>
#include <exception>
#include <mutex>

#include <CivetServer.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace chorale {
namespace {

constexpr char kThreads[] = "2";

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

// Answers GET /metrics. civetweb and the serializer are used without prometheus-cpp's Exposer,
// which adds series of its own to every scrape.
class MetricsServer::Handler : public CivetHandler {
 public:
  explicit Handler(CollectFn collect) : collect_(std::move(collect)) {}

  bool handleGet(CivetServer*, mg_connection* connection) override {
    const std::string text = prometheus::TextSerializer().Serialize(Collect());
    mg_printf(connection,
              "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
              "Content-Length: %zu\r\n\r\n",
              text.size());
    mg_write(connection, text.data(), text.size());
    return true;
  }

 private:
  std::vector<prometheus::MetricFamily> Collect() {
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

  std::mutex mutex_;  // scrapes come on several threads
  const CollectFn collect_;
};

MetricsServer::MetricsServer() = default;
MetricsServer::~MetricsServer() = default;

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address,
                                                                    CollectFn collect) {
  if (absl::Status status = CheckAddress(address); !status.ok()) return status;
  std::unique_ptr<MetricsServer> metrics(new MetricsServer());
  metrics->handler_ = std::make_unique<Handler>(std::move(collect));
  std::vector<int> ports;
  try {
    metrics->server_ = std::make_unique<CivetServer>(
        std::vector<std::string>{"listening_ports", address, "num_threads", kThreads});
    metrics->server_->addHandler("/metrics", metrics->handler_.get());
    ports = metrics->server_->getListeningPorts();
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
