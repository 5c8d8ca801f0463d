#include "services/common/metrics.h"

#include <map>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "rpc/server.h"
#include "tests/e2e/fixtures/http_client.h"

namespace chorale {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

// The samples of a scrape: what stands before the last space, and the number behind it.
using Samples = std::map<std::string, double>;

Samples Scrape(const std::string& address) {
  const HttpReply reply = HttpGet(address, "/metrics");
  EXPECT_EQ(reply.status, 200);
  Samples samples;
  std::istringstream in(reply.body);
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || absl::StartsWith(line, "#")) continue;
    const size_t space = line.rfind(' ');
    double value = 0;
    EXPECT_TRUE(absl::SimpleAtod(line.substr(space + 1), &value)) << line;
    EXPECT_TRUE(samples.emplace(line.substr(0, space), value).second) << "twice: " << line;
  }
  return samples;
}

std::unique_ptr<MetricsServer> Serve(CollectFn collect) {
  auto server = MetricsServer::Start("127.0.0.1:0", std::move(collect));
  EXPECT_TRUE(server.ok()) << server.status();
  return *std::move(server);
}

v1::StatBlocksReply TwoTiers() {
  v1::StatBlocksReply stat;
  stat.set_id("store-0");
  stat.set_sequence(77);
  v1::TierStat& dram = *stat.add_tiers();
  dram.set_tier("dram");
  dram.set_blocks(12);
  dram.set_bytes(3 << 20);
  dram.set_bytes_max(int64_t{1} << 40);
  dram.set_holds(2);
  dram.set_state("ok");
  (*dram.mutable_counters())["hits"] = 100;
  (*dram.mutable_counters())["corrupt"] = 1;
  v1::TierStat& disk = *stat.add_tiers();
  disk.set_tier("disk");
  disk.set_state("read-only");
  (*disk.mutable_counters())["hits"] = 5;
  return stat;
}

class FakeStore : public v1::Blocks::Service {
 public:
  grpc::Status Stat(grpc::ServerContext*, const v1::StatBlocksRequest*,
                    v1::StatBlocksReply* reply) override {
    *reply = TwoTiers();
    return grpc::Status::OK;
  }
};

TEST(MetricsServerTest, AsksTheProcessAnewForEachScrape) {
  int asked = 0;
  const auto server = Serve([&](MetricSet& metrics) {
    metrics.Counter("chorale_asked_total", "How often.", ++asked);
    metrics.Gauge("chorale_depth", "Of something.", 1.5, {{"tier", "dram"}});
  });
  // Nothing else: no series of the libraries that serve it.
  const std::string depth = "chorale_depth{tier=\"dram\"}";
  EXPECT_EQ(Scrape(server->address()), (Samples{{"chorale_asked_total", 1}, {depth, 1.5}}));
  EXPECT_EQ(Scrape(server->address()), (Samples{{"chorale_asked_total", 2}, {depth, 1.5}}));
  const std::string body = HttpGet(server->address(), "/metrics").body;
  EXPECT_THAT(body, AllOf(HasSubstr("# TYPE chorale_asked_total counter"),
                          HasSubstr("# TYPE chorale_depth gauge"),
                          HasSubstr("# HELP chorale_depth Of something.")));
}

TEST(MetricsServerTest, SaysWhichFlagToChangeWhenTheAddressIsInUse) {
  const auto first = Serve([](MetricSet&) {});
  const auto second = MetricsServer::Start(first->address(), [](MetricSet&) {});
  EXPECT_TRUE(absl::IsInvalidArgument(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()),
              AllOf(HasSubstr("--metrics"), HasSubstr(first->address()), HasSubstr("in use")));
}

TEST(MetricsServerTest, RefusesWhatIsNoAddress) {
  for (const char* text : {"9400", ":9400", "127.0.0.1:http", "127.0.0.1:70000", "127.0.0.1:-1",
                           "127.0.0.1:0,127.0.0.1:0", "127.0.0.1:0 x", "203.0.113.7:0"}) {
    const auto server = MetricsServer::Start(text, [](MetricSet&) {});
    EXPECT_TRUE(absl::IsInvalidArgument(server.status())) << text;
    EXPECT_THAT(std::string(server.status().message()), HasSubstr(text));
  }
}

TEST(MetricsServerTest, IsOnlyStartedWhenItHasAnAddressAndSaysWhere) {
  std::vector<std::string> lines = {"grpc=unix:here"};
  const auto none = StartMetrics(
      "", [](MetricSet&) {}, lines);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(*none, nullptr);
  EXPECT_EQ(lines.size(), 1u);
  const auto some = StartMetrics(
      "127.0.0.1:0", [](MetricSet&) {}, lines);
  ASSERT_TRUE(some.ok()) << some.status();
  EXPECT_EQ(lines.back(), "metrics=" + (*some)->address());
}

TEST(MetricSetTest, KeepsNamesAndLabelsFromBreakingTheLine) {
  const auto server = Serve([](MetricSet& metrics) {
    metrics.Gauge("chorale_no such-name\n1", "No such name.", 1,
                  {{"model", "a\"b\\c\nchorale_forged 7"}});
    metrics.Gauge("chorale_twice", "", 1);
    metrics.Gauge("chorale_twice", "", 2);
  });
  const Samples samples = Scrape(server->address());
  EXPECT_EQ(samples.count("chorale_forged"), 0u);
  EXPECT_THAT(samples, IsSupersetOf(Samples{{"chorale_twice", 1}}));
  EXPECT_THAT(samples,
              IsSupersetOf(Samples{
                  {"chorale_no_such_name_1{model=\"a\\\"b\\\\c\\nchorale_forged 7\"}", 1}}));
}

TEST(CollectBlocksTest, TellsOfTheTiersWhatStatDoes) {
  FakeStore store;
  auto rpc = RpcServer::Start("127.0.0.1:0", {&store});
  ASSERT_TRUE(rpc.ok()) << rpc.status();
  const auto server = Serve(CollectBlocks((*rpc)->address()));
  const Samples samples = Scrape(server->address());
  EXPECT_THAT(samples, IsSupersetOf(Samples{{"chorale_kv_up", 1},
                                            {"chorale_kv_events_total", 77},
                                            {"chorale_kv_tier_up{tier=\"dram\"}", 1},
                                            {"chorale_kv_tier_up{tier=\"disk\"}", 0}}));
  const v1::StatBlocksReply stat = TwoTiers();
  for (const v1::TierStat& tier : stat.tiers()) {
    const std::string label = absl::StrCat("{tier=\"", tier.tier(), "\"}");
    const auto at = [&](const std::string& name) { return samples.at(name + label); };
    EXPECT_EQ(
        samples.at(absl::StrCat("chorale_kv_blocks{tier=\"", tier.tier(), "\",state=\"cached\"}")),
        tier.blocks());
    EXPECT_EQ(at("chorale_kv_bytes"), tier.bytes());
    EXPECT_EQ(at("chorale_kv_capacity_bytes"), tier.bytes_max());
    EXPECT_EQ(at("chorale_kv_holds"), tier.holds());
    for (const auto& [name, value] : tier.counters()) {
      EXPECT_EQ(at(absl::StrCat("chorale_kv_", name, "_total")), value);
    }
  }
}

TEST(CollectBlocksTest, SaysWhenTheProcessDoesNotAnswer) {
  const auto server = Serve(CollectBlocks("unix:/nowhere/nobody.sock"));
  const Samples samples = Scrape(server->address());
  EXPECT_THAT(samples, IsSupersetOf(Samples{{"chorale_kv_up", 0}}));
  EXPECT_EQ(samples.count("chorale_kv_events_total"), 0u);
}

TEST(WorkerMetricsTest, KnowsBlocksByStateAndCountersThatItNeverHeardOf) {
  v1::WorkerStatusResponse status;
  status.set_worker_id("decode-0");
  status.set_state("serving");
  const std::pair<const char*, int64_t> counters[] = {
      {"blocks_total", 100},  {"blocks_cached", 30},
      {"blocks_held", 20},    {"sequences_decoding", 4},
      {"pulls", 9},           {"steps", 1000},
      {"requests_live", 3},   {"some_new_counter", 42},
      {"store_nodes_down", 1}};
  for (const auto& [name, value] : counters) (*status.mutable_engine())[name] = value;
  (*status.mutable_models())["coder"].set_prompt_tokens_reused_shared(640);
  const auto server = Serve([&](MetricSet& metrics) { AddWorkerStatus(status, metrics); });
  EXPECT_THAT(
      Scrape(server->address()),
      IsSupersetOf(Samples{
          {"chorale_kv_blocks{tier=\"pool\",state=\"cached\"}", 30},
          {"chorale_kv_blocks{tier=\"pool\",state=\"held\"}", 20},
          {"chorale_kv_blocks{tier=\"pool\",state=\"free\"}", 50},
          {"chorale_sequences{state=\"decoding\"}", 4},
          {"chorale_pulls_total", 9},
          {"chorale_engine_steps_total", 1000},
          {"chorale_requests_live", 3},
          {"chorale_engine_some_new_counter_total", 42},
          {"chorale_store_nodes_down", 1},
          {"chorale_worker_state{worker=\"decode-0\",state=\"serving\"}", 1},
          {"chorale_model_prompt_tokens_total{model=\"coder\",source=\"reused_shared\"}", 640}}));
}

TEST(RoutingMetricsTest, TellsOfEveryMember) {
  v1::RoutingTable table;
  table.set_version(5);
  v1::WorkerReport& worker = *table.add_workers();
  worker.set_worker_id("prefill-0");
  worker.set_role(v1::ROLE_PREFILL);
  worker.set_ready(true);
  worker.set_requests_running(2);
  const auto server = Serve([&](MetricSet& metrics) { AddRouting(table, metrics); });
  EXPECT_THAT(Scrape(server->address()),
              IsSupersetOf(Samples{
                  {"chorale_cluster_workers", 1},
                  {"chorale_cluster_changes_total", 5},
                  {"chorale_cluster_worker_ready{worker=\"prefill-0\",role=\"prefill\"}", 1},
                  {"chorale_cluster_requests_running{worker=\"prefill-0\",role=\"prefill\"}", 2}}));
}

}  // namespace
}  // namespace chorale
