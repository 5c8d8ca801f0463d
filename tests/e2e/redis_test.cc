// What requests and operators see while the Redis that a cluster shares is killed, stopped, full or
// emptied: nothing but slower answers, and a state that says so.
#include <algorithm>
#include <atomic>
#include <fstream>
#include <iostream>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "rpc/channels.h"
#include "tests/e2e/fixtures/http_client.h"
#include "tests/e2e/fixtures/processes.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

constexpr int kClients = 6;
constexpr int kPrompts = 40;
constexpr int kPromptTokens = 320;
constexpr int kAnswerTokens = 4;
// How long each phase is under load.
constexpr absl::Duration kPhase = absl::Seconds(3);

v1::GenerateRequest Ask(const std::vector<int>& tokens) {
  v1::GenerateRequest request;
  request.set_model("m");
  request.mutable_token_ids()->mutable_ids()->Assign(tokens.begin(), tokens.end());
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(kAnswerTokens);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

std::vector<int> RandomTokens(std::mt19937_64& random, int count) {
  std::vector<int> tokens(count);
  for (int& token : tokens) token = 8 + static_cast<int>(random() % (kTinyVocab - 8));
  return tokens;
}

// Clients that ask without a pause for prompts whose answers are known, and for new ones, which are
// asked for twice; every answer must come, and be right.
class Load {
 public:
  Load(TestCluster& cluster, uint64_t seed) : cluster_(cluster) {
    std::mt19937_64 random(seed);
    const std::vector<int> common = RandomTokens(random, kPromptTokens / 2);
    for (int i = 0; i < kPrompts; ++i) {
      std::vector<int> prompt = i % 2 == 0 ? common : RandomTokens(random, kPromptTokens / 2);
      const std::vector<int> rest = RandomTokens(random, kPromptTokens / 2);
      prompt.insert(prompt.end(), rest.begin(), rest.end());
      prompts_.push_back(std::move(prompt));
      answers_.push_back(Answer(prompts_.back(), true));
    }
    for (int i = 0; i < kClients; ++i) {
      clients_.emplace_back(
          [this, seed = seed + 1 + static_cast<uint64_t>(i)] { RunClient(seed); });
    }
  }

  ~Load() {
    stopping_ = true;
    for (std::thread& client : clients_) client.join();
  }

  // Requests that begin from now on are counted under `phase`.
  void Enter(const std::string& phase) {
    std::lock_guard lock(mutex_);
    phases_.push_back({phase, {}});
  }

  void PrintPhases() {
    std::lock_guard lock(mutex_);
    for (auto& [name, milliseconds] : phases_) {
      std::sort(milliseconds.begin(), milliseconds.end());
      const size_t count = milliseconds.size();
      ASSERT_GT(count, 0u) << name;
      std::cout << absl::StrFormat("%-18s %6d requests, p50 %5.1f ms, p99 %6.1f ms, max %6.1f ms\n",
                                   name, count, milliseconds[count / 2],
                                   milliseconds[count * 99 / 100], milliseconds.back());
    }
  }

 private:
  struct Phase {
    std::string name;
    std::vector<double> milliseconds;
  };

  std::vector<int> Answer(const std::vector<int>& prompt, bool alone) {
    v1::GenerateRequest request = Ask(prompt);
    request.set_no_prefix_reuse(alone);
    Generation got = Generate(cluster_.inference(), request);
    EXPECT_TRUE(got.status.ok()) << got.status.error_code() << " " << got.status.error_message();
    return got.tokens[0];
  }

  void RunClient(uint64_t seed) {
    std::mt19937_64 random(seed);
    while (!stopping_) {
      const size_t known = random() % (kPrompts + kPrompts / 4);
      std::vector<int> prompt;
      std::vector<int> want;
      if (known < kPrompts) {
        prompt = prompts_[known];
        want = answers_[known];
      } else {
        prompt = RandomTokens(random, kPromptTokens);
        want = Answer(prompt, true);
      }
      size_t phase = 0;
      {
        std::lock_guard lock(mutex_);
        phase = phases_.size();
      }
      const absl::Time begin = absl::Now();
      EXPECT_EQ(Answer(prompt, false), want);
      if (phase == 0) continue;
      std::lock_guard lock(mutex_);
      phases_[phase - 1].milliseconds.push_back(absl::ToDoubleMilliseconds(absl::Now() - begin));
    }
  }

  TestCluster& cluster_;
  std::vector<std::vector<int>> prompts_;
  std::vector<std::vector<int>> answers_;
  std::atomic<bool> stopping_ = false;
  std::mutex mutex_;
  std::vector<Phase> phases_;  // under mutex_
  std::vector<std::thread> clients_;
};

class RedisTrouble : public testing::Test {
 protected:
  void SetUp() override {
    if (!HaveRedisServer()) GTEST_SKIP() << "there is no redis-server";
    WriteTinyModel(folder_.path());
  }

  ClusterOptions Options() const {
    return {.model_folder = folder_.path(),
            .prefill = 1,
            .decode = 2,
            .worker_flags = {"--kernels", "reference", "--threads", "1", "--blocks", "200"},
            .router_flags = {"--metrics", "127.0.0.1:0"}};
  }

  TempFolder folder_;
};

v1::TierStat RedisTierOf(TestCluster& cluster) {
  const v1::StatBlocksReply stat = cluster.BlockStat("store-0");
  for (const v1::TierStat& tier : stat.tiers()) {
    if (tier.tier() == "redis") return tier;
  }
  ADD_FAILURE() << stat.DebugString();
  return {};
}

// Empties the store's memory, so that what it has is in Redis.
void EvictMemory(TestCluster& cluster) {
  const auto stub = v1::Blocks::NewStub(OpenChannel(cluster.SocketOf("store-0")));
  grpc::ClientContext context;
  v1::EvictBlocksRequest request;
  request.set_tier("dram");
  v1::EvictBlocksReply reply;
  const grpc::Status status = stub->Evict(&context, request, &reply);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

int64_t Counter(const v1::TierStat& tier, const std::string& name) {
  const auto it = tier.counters().find(name);
  EXPECT_TRUE(it != tier.counters().end()) << name;
  return it == tier.counters().end() ? 0 : it->second;
}

// A metric of the router, by its name and labels as they are written.
double RouterMetric(TestCluster& cluster, const std::string& name) {
  const std::string host = ReadAddressFile(cluster.folder() + "/router.address")["metrics"];
  const std::string metrics = HttpGet(host, "/metrics").body;
  const size_t at = metrics.find("\n" + name + " ");
  EXPECT_NE(at, std::string::npos) << name << " is not among\n" << metrics;
  return at == std::string::npos ? 0 : std::stod(metrics.substr(at + name.size() + 2));
}

constexpr char kRedisUp[] = "chorale_redis_up";

// Searches that Redis answered. The router asks it for what it does not know itself.
double DirectorySearches(TestCluster& cluster) {
  return RouterMetric(cluster, "chorale_redis_searches_total{result=\"hit\"}") +
         RouterMetric(cluster, "chorale_redis_searches_total{result=\"miss\"}");
}

// Waits until Redis is well again, for store and router, takes blocks, and is of use to both.
void AwaitHits(TestCluster& cluster) {
  const v1::TierStat before = RedisTierOf(cluster);
  const double searches = DirectorySearches(cluster);
  v1::TierStat now;
  EXPECT_TRUE(WaitFor([&] {
    EvictMemory(cluster);
    absl::SleepFor(absl::Milliseconds(100));
    now = RedisTierOf(cluster);
    return now.state() == "ok" && Counter(now, "hits") > Counter(before, "hits") &&
           Counter(now, "written") > Counter(before, "written") &&
           RouterMetric(cluster, kRedisUp) == 1 &&
           DirectorySearches(cluster) > searches;
  })) << now.DebugString();
}

// Waits until store and router say that Redis is not well, and stays under load for a while.
void AwaitTrouble(TestCluster& cluster, absl::Duration stay) {
  const absl::Time end = absl::Now() + stay;
  v1::TierStat now;
  EXPECT_TRUE(WaitFor([&] {
    now = RedisTierOf(cluster);
    return now.state() != "ok" && RouterMetric(cluster, kRedisUp) == 0;
  })) << now.DebugString();
  std::cout << "store-0 says of Redis: " << now.state() << std::endl;
  while (absl::Now() < end) {
    EvictMemory(cluster);
    absl::SleepFor(absl::Milliseconds(200));
  }
}

// Waits until Redis knows of holders, and of so many blocks that they have.
void AwaitDirectory(TestCluster& cluster, int64_t blocks) {
  const auto count = [&](const std::string& pattern) {
    return cluster.redis()
        .Ask({"EVAL", "return #redis.call('keys', ARGV[1])", "0", pattern})
        .integer;
  };
  EXPECT_TRUE(
      WaitFor([&] { return count("chorale:holder:*") > 0 && count("chorale:at:*") >= blocks; }));
}

std::string LogOf(TestCluster& cluster, const std::string& process) {
  std::ifstream in(absl::StrCat(cluster.folder(), "/", process, ".log"));
  return std::string(std::istreambuf_iterator<char>(in), {});
}

TEST_F(RedisTrouble, FailsNoRequestAndHitsReturnAfterIt) {
  const uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << std::endl;
  ClusterOptions options = Options();
  options.stores = 1;
  options.store_flags = {"--dram-mib", "32"};
  options.redis = true;
  TestCluster cluster(options);
  {
    Load load(cluster, seed);
    load.Enter("undisturbed");
    AwaitHits(cluster);
    AwaitDirectory(cluster, 1);

    load.Enter("killed");
    cluster.redis().Kill();
    AwaitTrouble(cluster, kPhase);
    load.Enter("restarted empty");
    cluster.redis().Start();
    AwaitHits(cluster);
    AwaitDirectory(cluster, 1);

    load.Enter("paused for 10 s");
    cluster.redis().Pause();
    AwaitTrouble(cluster, absl::Seconds(10));
    load.Enter("resumed");
    cluster.redis().Resume();
    AwaitHits(cluster);

    load.Enter("out of memory");
    EXPECT_TRUE(cluster.redis().Ask({"CONFIG", "SET", "maxmemory", "1"}).ok());
    AwaitTrouble(cluster, kPhase);
    load.Enter("roomy again");
    EXPECT_TRUE(cluster.redis().Ask({"CONFIG", "SET", "maxmemory", "0"}).ok());
    AwaitHits(cluster);

    load.Enter("flushed");
    EXPECT_TRUE(cluster.redis().Ask({"FLUSHALL"}).ok());
    AwaitHits(cluster);
    AwaitDirectory(cluster, 1);
    load.PrintPhases();
  }
  for (const char* process : {"store-0", "router"}) {
    EXPECT_TRUE(absl::StrContains(LogOf(cluster, process), "warning redis")) << process;
  }
  EXPECT_TRUE(cluster.router().running());
  EXPECT_TRUE(cluster.AllBlocksComeBack());
}

TEST_F(RedisTrouble, RoutersThatShareItKnowOfEachOthersBlocks) {
  ClusterOptions options = Options();
  options.redis = true;
  TestCluster here(options);
  options.redis = false;
  options.router_flags = {"--metrics", "127.0.0.1:0", "--redis", here.redis().url().ToString()};
  TestCluster there(options);

  std::mt19937_64 random(1);
  const v1::GenerateRequest request = Ask(RandomTokens(random, kPromptTokens + 1));
  const Generation written = Generate(here.inference(), request);
  ASSERT_TRUE(written.status.ok()) << written.status.error_message();
  EXPECT_EQ(written.usage.cached_tokens(), 0);
  AwaitDirectory(here, kPromptTokens / 16);
  ASSERT_TRUE(WaitFor([&] { return RouterMetric(there, kRedisUp) == 1; }));

  const Generation continued = Generate(there.inference(), request);
  ASSERT_TRUE(continued.status.ok()) << continued.status.error_message();
  EXPECT_EQ(continued.tokens, written.tokens);
  int64_t computed = 0;
  int64_t received = 0;
  for (const char* id : {"prefill-0", "decode-0", "decode-1"}) {
    std::map<std::string, int64_t> m = there.Metrics(id);
    computed += m["prompt_tokens_computed"];
    received += m["prompt_tokens_received"];
  }
  EXPECT_LE(computed, 1);
  EXPECT_EQ(received, kPromptTokens);
}

}  // namespace
}  // namespace chorale
