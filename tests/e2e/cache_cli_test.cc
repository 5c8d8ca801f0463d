// `chorale up --stores --metrics`, `chorale cache` and the metrics, on real processes.
#include <algorithm>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "tests/e2e/fixtures/http_client.h"
#include "tests/e2e/fixtures/processes.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  int exit_code = 0;
  std::string text;  // stdout and stderr

  // The JSON object in it.
  Json json() const {
    const size_t begin = text.find('{');
    const size_t end = text.rfind('}');
    CHECK(begin != std::string::npos && end != std::string::npos) << text;
    absl::StatusOr<Json> parsed = ParseJson(text.substr(begin, end + 1 - begin), "output");
    CHECK(parsed.ok()) << parsed.status() << "\n" << text;
    return *std::move(parsed);
  }
};

// A cluster that `chorale up` started; `chorale down` ends it.
class CacheCliTest : public ::testing::Test {
 protected:
  CacheCliTest() { WriteTinyModel(folder_.path()); }
  ~CacheCliTest() override { Chorale({"down", "--grace-seconds", "5"}); }

  // Runs `chorale ARGUMENTS` on the cluster to its end.
  Outcome Chorale(std::vector<std::string> arguments) {
    const std::string log = absl::StrCat(folder_.path(), "/command-", commands_++, ".log");
    arguments.insert(arguments.end(), {"--run-dir", folder_.path() + "/run"});
    Process process("chorale", arguments, log);
    Outcome outcome;
    outcome.exit_code = process.Wait();
    std::stringstream text;
    text << std::ifstream(log).rdbuf();
    outcome.text = text.str();
    return outcome;
  }

  Outcome Up(std::vector<std::string> flags) {
    flags.insert(flags.begin(),
                 {"up", "--json", "--model", "m=" + folder_.path(), "--kernels", "reference",
                  "--threads", "1", "--blocks", "256", "--prefill", "1", "--decode", "1", "--http",
                  "127.0.0.1:0", "--grpc", "127.0.0.1:0"});
    return Chorale(flags);
  }

  Outcome GenerateSome() {
    return Chorale({"generate", "--model", "m", "--prompt", std::string(200, 'x'), "--max-tokens",
                    "4", "--temperature", "0"});
  }

  // What `chorale cache stat` says of one tier; all 0 when it is not there.
  Json Tier(const std::string& process, const std::string& tier) {
    const Json all = Chorale({"cache", "stat", "--json"}).json();
    for (const Json& each : all["processes"]) {
      if (each["process"] != process) continue;
      for (const Json& stat : each["tiers"]) {
        if (stat["tier"] == tier) return stat;
      }
    }
    return {{"blocks", 0}, {"bytes", 0}};
  }

  TempFolder folder_;
  int commands_ = 0;
};

// A sample of a scrape; -1 when it is not there.
double Sample(const std::string& body, const std::string& name) {
  std::istringstream in(body);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(name + " ", 0) == 0) return std::stod(line.substr(name.size() + 1));
  }
  return -1;
}

TEST_F(CacheCliTest, ShowsVerifiesAndEvictsBlocksOfWorkersAndStores) {
  const Outcome up =
      Up({"--stores", "1", "--store-dram-mib", "64", "--store-disk-mib", "64", "--metrics"});
  ASSERT_EQ(up.exit_code, 0) << up.text;
  const Outcome first = GenerateSome();
  ASSERT_EQ(first.exit_code, 0) << first.text;
  ASSERT_TRUE(WaitFor([&] { return Tier("store-0", "dram")["blocks"] >= 12; }));

  std::set<std::string> in_workers, in_stores;
  const Json listed = Chorale({"cache", "ls", "--limit", "10000", "--json"}).json();
  for (const Json& block : listed["blocks"]) {
    (block["tier"] == "pool" ? in_workers : in_stores).insert(block["key"]);
  }
  EXPECT_TRUE(
      std::includes(in_workers.begin(), in_workers.end(), in_stores.begin(), in_stores.end()));
  const Outcome verified = Chorale({"cache", "verify"});
  EXPECT_EQ(verified.exit_code, 0) << verified.text;
  EXPECT_THAT(verified.text, HasSubstr("Every block matches"));

  const Outcome evicted = Chorale({"cache", "evict", "--tier", "pool", "--json"});
  EXPECT_EQ(evicted.exit_code, 0) << evicted.text;
  EXPECT_GE(evicted.json()["blocks"], 12);
  EXPECT_EQ(Tier("decode-0", "pool")["blocks"], 0);
  EXPECT_GE(Tier("store-0", "dram")["blocks"], 12);
  EXPECT_EQ(GenerateSome().text, first.text);
}

TEST_F(CacheCliTest, TellsPrometheusWhatItTellsTheOperator) {
  const Outcome up = Up({"--stores", "1", "--store-dram-mib", "64", "--metrics"});
  ASSERT_EQ(up.exit_code, 0) << up.text;
  ASSERT_EQ(GenerateSome().exit_code, 0);
  ASSERT_TRUE(WaitFor([&] { return Tier("store-0", "dram")["blocks"] >= 12; }));
  const Outcome status = Chorale({"status", "--json"});
  EXPECT_EQ(status.exit_code, 0) << status.text;
  std::map<std::string, std::string> scrapes;
  const Json shown = status.json();
  for (const Json& process : shown["processes"]) {
    const HttpReply reply = HttpGet(process["metrics"], "/metrics");
    EXPECT_EQ(reply.status, 200) << process["name"];
    scrapes[process["name"]] = reply.body;
  }
  for (const auto& [process, tier] : {std::pair("decode-0", "pool"),
                                      {"prefill-0", "pool"},
                                      {"store-0", "dram"},
                                      {"store-0", "disk"}}) {
    const Json stat = Tier(process, tier);
    const std::string label = absl::StrCat("{tier=\"", tier, "\"}");
    const std::string& scrape = scrapes[process];
    EXPECT_EQ(Sample(scrape, "chorale_kv_bytes" + label), stat["bytes"].get<double>()) << process;
    EXPECT_EQ(Sample(scrape, "chorale_kv_capacity_bytes" + label), stat["bytes_max"].get<double>());
    EXPECT_EQ(Sample(scrape, "chorale_kv_tier_up" + label), 1);
  }
  const std::string& decode = scrapes["decode-0"];
  double blocks = 0;
  for (const char* state : {"cached", "held", "free"}) {
    blocks +=
        Sample(decode, absl::StrCat("chorale_kv_blocks{tier=\"pool\",state=\"", state, "\"}"));
  }
  EXPECT_EQ(blocks, 256);
  EXPECT_EQ(Sample(scrapes["router"], "chorale_requests_total{code=\"OK\"}"), 2);  // and the canary
  EXPECT_EQ(Sample(scrapes["router"], "chorale_directory_holders"), 2);
  EXPECT_EQ(Sample(scrapes["orchestrator"], "chorale_cluster_workers"), 2);
}

TEST_F(CacheCliTest, NamesAProcessThatIsGoneAndShowsTheOthers) {
  const Outcome up = Up({});
  ASSERT_EQ(up.exit_code, 0) << up.text;
  const Json started = up.json();
  for (const Json& process : started["processes"]) {
    if (process["name"] == "decode-0") kill(process["pid"].get<pid_t>(), SIGKILL);
  }
  Outcome stat;
  ASSERT_TRUE(WaitFor([&] { return (stat = Chorale({"cache", "stat"})).exit_code == 1; }));
  EXPECT_THAT(stat.text, HasSubstr("chorale: decode-0"));
  EXPECT_THAT(stat.text, HasSubstr("prefill-0  pool"));
}

TEST(MetricsFlagTest, EndsWithTwoWhenTheAddressIsInUse) {
  const TempFolder folder;
  const std::string file = folder.path() + "/first.address";
  const auto flags = [&](const std::string& name, const std::string& metrics) {
    return std::vector<std::string>{
        "--listen",       absl::StrCat("unix:", folder.path(), name),   "--metrics", metrics,
        "--address-file", absl::StrCat(folder.path(), name, ".address")};
  };
  Process first("chorale-orchestrator", flags("/first", "127.0.0.1:0"), folder.path() + "/1.log");
  const std::string taken = ReadAddressFile(file)["metrics"];
  Process second("chorale-orchestrator", flags("/second", taken), folder.path() + "/2.log");
  EXPECT_EQ(second.Wait(), 2);
  std::stringstream log;
  log << std::ifstream(folder.path() + "/2.log").rdbuf();
  EXPECT_THAT(log.str(), HasSubstr("--metrics " + taken));
}

}  // namespace
}  // namespace chorale
