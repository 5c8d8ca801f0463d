#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "cli/cache_client.h"
#include "cli/cluster/run_dir.h"
#include "cli/commands.h"
#include "rpc/server.h"
#include "tests/cli/scratch_folder.h"

namespace chorale::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// A process with blocks, each in a tier.
class FakeBlocks : public v1::Blocks::Service {
 public:
  struct Block {
    std::string tier;
    std::string key;  // in hex
  };

  FakeBlocks(const std::string& socket, std::vector<std::string> tiers, std::vector<Block> blocks)
      : tiers_(std::move(tiers)), blocks_(std::move(blocks)) {
    auto server = RpcServer::Start("unix:" + socket, {this});
    CHECK(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  const std::string& address() const { return server_->address(); }
  size_t blocks() const { return blocks_.size(); }

  int bad = 0;  // blocks that a Verify finds
  bool refuses_evict = false;

  grpc::Status Stat(grpc::ServerContext*, const v1::StatBlocksRequest*,
                    v1::StatBlocksReply* reply) override {
    reply->set_sequence(4711);
    reply->set_digest(std::string(16, '\xab'));
    for (const std::string& name : tiers_) {
      v1::TierStat& tier = *reply->add_tiers();
      tier.set_tier(name);
      tier.set_state("ok");
      (*tier.mutable_counters())["hits"] = 99;
      if (name == "redis") {
        tier.set_blocks(-1);
        tier.set_bytes(-1);
        continue;
      }
      for (const Block& block : blocks_) tier.set_blocks(tier.blocks() + (block.tier == name));
      tier.set_bytes(tier.blocks() << 20);
      tier.set_bytes_max(4 << 20);
    }
    return grpc::Status::OK;
  }

  grpc::Status List(grpc::ServerContext*, const v1::ListBlocksRequest* request,
                    grpc::ServerWriter<v1::BlockList>* writer) override {
    int listed = 0;
    for (const Block& block : blocks_) {
      if (!Chosen(block, request->tier(), request->key_prefix())) continue;
      if (listed++ == request->limit()) break;
      v1::BlockList list;  // one each, so that lists come in parts
      v1::BlockInfo& info = *list.add_blocks();
      info.set_key(absl::HexStringToBytes(block.key));
      info.set_tier(block.tier);
      info.set_bytes(1 << 20);
      writer->Write(list);
    }
    return grpc::Status::OK;
  }

  grpc::Status Verify(grpc::ServerContext*, const v1::VerifyBlocksRequest*,
                      grpc::ServerWriter<v1::VerifyProgress>* writer) override {
    v1::VerifyProgress progress;
    progress.set_blocks_total(static_cast<int64_t>(blocks_.size()));
    for (size_t i = 0; i < blocks_.size(); ++i) {
      progress.set_blocks_done(static_cast<int64_t>(i) + 1);
      progress.set_blocks_bad(bad);
      writer->Write(progress);
    }
    return grpc::Status::OK;
  }

  grpc::Status Evict(grpc::ServerContext*, const v1::EvictBlocksRequest* request,
                     v1::EvictBlocksReply* reply) override {
    if (refuses_evict) return {grpc::StatusCode::UNAVAILABLE, "the disk is busy"};
    reply->set_blocks(static_cast<int64_t>(std::erase_if(blocks_, [&](const Block& block) {
      return Chosen(block, request->tier(), request->key_prefix());
    })));
    reply->set_bytes(reply->blocks() << 20);
    return grpc::Status::OK;
  }

 private:
  static bool Chosen(const Block& block, const std::string& tier, const std::string& prefix) {
    return (tier.empty() || block.tier == tier) && absl::StartsWith(block.key, prefix);
  }

  const std::vector<std::string> tiers_;
  std::vector<Block> blocks_;
  std::unique_ptr<RpcServer> server_;  // goes first
};

struct Outcome {
  int exit_code = 0;
  std::string out;
  std::string err;
};

Json Parsed(const std::string& text) {
  absl::StatusOr<Json> json = ParseJson(text, "stdout");
  CHECK(json.ok()) << text;
  return *std::move(json);
}

std::string KeyOf(char c) { return std::string(32, c); }

class CacheTest : public ::testing::Test {
 protected:
  CacheTest()
      : worker_(folder_ / "worker.sock", {"pool"},
                {{"pool", KeyOf('a')}, {"pool", KeyOf('b')}, {"pool", KeyOf('b')}}),
        store_(folder_ / "store.sock", {"dram", "disk"},
               {{"dram", KeyOf('b')}, {"disk", KeyOf('c')}}) {}

  // `chorale cache ARGUMENTS`, on both processes.
  Outcome Cache(std::vector<std::string> arguments) {
    for (const std::string& address : {worker_.address(), store_.address()}) {
      arguments.insert(arguments.end(), {"--address", address});
    }
    return Run(std::move(arguments));
  }

  static Outcome Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "cache");
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes a vector
    CLI::App app;
    Command chosen;
    AddCache(app, chosen);
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    Outcome outcome;
    try {
      app.parse(arguments);
      outcome.exit_code = chosen();
    } catch (const CLI::ParseError& error) {
      outcome.exit_code = app.exit(error) == 0 ? 0 : kExitBadConfiguration;
    }
    outcome.out = ::testing::internal::GetCapturedStdout();
    outcome.err = ::testing::internal::GetCapturedStderr();
    return outcome;
  }

  const ScratchFolder folder_;
  FakeBlocks worker_;
  FakeBlocks store_;
};

TEST_F(CacheTest, ListsTheBlocksOfAllProcesses) {
  const Outcome outcome = Cache({"ls"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr(KeyOf('a')), HasSubstr("disk  " + KeyOf('c')),
                                 HasSubstr("1.0 MiB"), Not(HasSubstr("--limit"))));
}

TEST_F(CacheTest, ListsOnlyWhatIsAskedForAndSaysWhenThereIsMore) {
  const Outcome limited = Cache({"ls", "--limit", "2", "--json"});
  const Json json = Parsed(limited.out);
  EXPECT_EQ(json["blocks"].size(), 2u);
  EXPECT_EQ(json["more"], true);
  EXPECT_THAT(Cache({"ls", "--limit", "4"}).out, HasSubstr("There are more: --limit"));
  EXPECT_THAT(Cache({"ls", "--limit", "5"}).out, Not(HasSubstr("There are more")));
  const Json chosen = Parsed(Cache({"ls", "--prefix", "BB", "--tier", "dram", "--json"}).out);
  ASSERT_EQ(chosen["blocks"].size(), 1u);
  EXPECT_EQ(chosen["blocks"][0]["key"], KeyOf('b'));
  EXPECT_EQ(chosen["blocks"][0]["process"], store_.address());
}

TEST_F(CacheTest, ShowsEachTierOfEachProcess) {
  const Outcome text = Cache({"stat"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out,
              AllOf(HasSubstr("pool  3       3.0 MiB  4.0 MiB  [========  ]  75%"),
                    HasSubstr("disk"), HasSubstr("99"), HasSubstr("4711"), HasSubstr("abababab")));
  EXPECT_THAT(Cache({"stat", "--counters"}).out, HasSubstr("hits"));
  const Json json = Parsed(Cache({"stat", "--json"}).out);
  ASSERT_EQ(json["processes"].size(), 2u);
  EXPECT_EQ(json["processes"][0]["tiers"][0]["blocks"], 3);
  EXPECT_EQ(json["processes"][1]["tiers"][1]["tier"], "disk");
  EXPECT_EQ(json["processes"][1]["tiers"][1]["counters"]["hits"], 99);
  EXPECT_EQ(json["processes"][1]["sequence"], 4711);
  EXPECT_EQ(json["silent"].size(), 0u);
}

TEST_F(CacheTest, ShowsNoNumberOfWhatNobodyCounts) {
  const FakeBlocks store(folder_ / "shared.sock", {"redis"}, {});
  const Outcome text = Cache({"stat", "--address", store.address()});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, testing::ContainsRegex("redis +- +- +- +- +0 +99 +- +- +ok"));
  const Json json = Parsed(Cache({"stat", "--json", "--address", store.address()}).out);
  const Json& tier = json["processes"][0]["tiers"][0];
  EXPECT_TRUE(tier["blocks"].is_null() && tier["bytes"].is_null()) << tier;
}

TEST_F(CacheTest, AsksOnlyProcessesThatHaveTheTier) {
  const Json json = Parsed(Cache({"stat", "--tier", "disk", "--json"}).out);
  ASSERT_EQ(json["processes"].size(), 1u);
  EXPECT_EQ(json["processes"][0]["tiers"].size(), 1u);
  const Outcome none = Cache({"ls", "--tier", "tape"});
  EXPECT_EQ(none.exit_code, kExitBadConfiguration);
  EXPECT_THAT(none.err, AllOf(HasSubstr("--tier 'tape'"), HasSubstr("disk, dram, pool")));
}

TEST_F(CacheTest, NamesAProcessThatDoesNotAnswerAndShowsTheOthers) {
  const std::string nobody = absl::StrCat("unix:", folder_ / "nobody.sock");
  for (const char* action : {"ls", "stat", "verify"}) {
    const Outcome outcome = Cache({action, "--address", nobody});
    EXPECT_EQ(outcome.exit_code, kExitFailed) << action;
    EXPECT_THAT(outcome.err, HasSubstr(nobody)) << action;
    EXPECT_THAT(outcome.out, HasSubstr(worker_.address())) << action;
    const Json json = Parsed(Cache({action, "--address", nobody, "--json"}).out);
    ASSERT_EQ(json["silent"].size(), 1u) << action;
    EXPECT_EQ(json["silent"][0]["address"], nobody) << action;
  }
}

TEST_F(CacheTest, SaysThatAWorkerIsStillLoading) {
  FakeBlocks loading(folder_ / "loading.sock", {}, {});
  const Outcome outcome = Cache({"stat", "--address", loading.address()});
  EXPECT_EQ(outcome.exit_code, kExitFailed);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr(loading.address()), HasSubstr("still loading")));
}

TEST_F(CacheTest, ExitsWithOneWhenBadBlocksWereFound) {
  const Outcome good = Cache({"verify"});
  EXPECT_EQ(good.exit_code, 0) << good.err;
  EXPECT_THAT(good.out, HasSubstr("Every block matches"));
  EXPECT_THAT(good.err, HasSubstr("(2 of 2)"));
  store_.bad = 2;
  const Outcome bad = Cache({"verify"});
  EXPECT_EQ(bad.exit_code, kExitFailed);
  EXPECT_THAT(bad.out, HasSubstr("2 blocks did not match"));
  EXPECT_EQ(Parsed(Cache({"verify", "--json"}).out)["blocks_bad"], 2);
}

TEST_F(CacheTest, EvictsWhatIsChosenAndCountsIt) {
  const Outcome some = Cache({"evict", "--prefix", "b"});
  EXPECT_EQ(some.exit_code, 0) << some.err;
  EXPECT_THAT(some.out, HasSubstr("Dropped 3 blocks, 3.0 MiB."));
  EXPECT_EQ(worker_.blocks(), 1u);
  EXPECT_EQ(Cache({"evict", "--tier", "disk"}).exit_code, 0);
  EXPECT_EQ(store_.blocks(), 0u);
  EXPECT_EQ(Parsed(Cache({"evict", "--all", "--json"}).out)["blocks"], 1);
  EXPECT_EQ(worker_.blocks(), 0u);
}

TEST_F(CacheTest, EvictsNothingUnlessToldWhat) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"evict"},
                                             {"evict", "--all", "--tier", "pool"},
                                             {"evict", "--prefix", "xyz"},
                                             {"evict", "--prefix", KeyOf('a') + "a"}}) {
    const Outcome outcome = Cache(arguments);
    EXPECT_EQ(outcome.exit_code, kExitBadConfiguration);
    EXPECT_THAT(outcome.err, HasSubstr(arguments.size() == 1 ? "--all" : "--prefix"));
  }
  EXPECT_EQ(worker_.blocks() + store_.blocks(), 5u);
}

TEST_F(CacheTest, EvictsElsewhereWhenOneRefuses) {
  worker_.refuses_evict = true;
  const Outcome outcome = Cache({"evict", "--all"});
  EXPECT_EQ(outcome.exit_code, kExitFailed);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr(worker_.address()), HasSubstr("the disk is busy")));
  EXPECT_THAT(outcome.out, HasSubstr("Dropped 2 blocks"));
}

TEST_F(CacheTest, FindsWorkersAndStoresInTheRunFolder) {
  const ProcessIdentity self = *IdentityOf(getpid());
  const auto record = [&](const std::string& name, const std::string& address) {
    return ProcessRecord{.name = name, .identity = self, .address = address};
  };
  ClusterRecord cluster = {.boot_id = BootId()};
  cluster.processes = {record("orchestrator", "unix:/nowhere"), record("store-0", store_.address()),
                       record("decode-0", worker_.address()), record("decode-1", ""),
                       record("router", "unix:/nowhere")};
  ASSERT_TRUE(WriteCluster(folder_.path(), cluster).ok());
  const Outcome outcome = Run({"stat", "--run-dir", folder_.path()});
  EXPECT_EQ(outcome.exit_code, kExitFailed);
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("store-0"), HasSubstr("decode-0")));
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("decode-1: it does not listen"),
                                 Not(HasSubstr("router")), Not(HasSubstr("orchestrator"))));
  EXPECT_THAT(Run({"stat", "--run-dir", folder_ / "none"}).err, HasSubstr("chorale up"));
}

TEST_F(CacheTest, FitsItsHelpOnAScreen) {
  for (const char* action : {"ls", "stat", "verify", "evict"}) {
    const Outcome outcome = Run({action, "--help"});
    EXPECT_EQ(outcome.exit_code, 0) << action;
    EXPECT_LT(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 24) << outcome.out;
    EXPECT_THAT(outcome.out, HasSubstr("Example:")) << action;
  }
}

}  // namespace
}  // namespace chorale::cli
