#include "cli/cluster/stop.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "absl/time/clock.h"
#include "tests/cli/scratch_folder.h"

namespace chorale::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

// Long enough for any machine; the tests do not wait for it when all is well.
constexpr absl::Duration kLong = absl::Seconds(60);

class StopTest : public ::testing::Test {
 protected:
  StopTest() { cluster_.boot_id = BootId(); }

  void Add(const std::string& name, const std::vector<std::string>& command) {
    auto process =
        Spawn(command, folder_ / "log", [](const ProcessIdentity&) { return absl::OkStatus(); });
    ASSERT_TRUE(process.ok()) << process.status();
    cluster_.processes.push_back({.name = name, .identity = *process});
  }

  ScratchFolder folder_;
  ClusterRecord cluster_;
};

TEST_F(StopTest, EndsTheRouterFirstAndStoresAndTheOrchestratorLast) {
  for (const char* name : {"orchestrator", "store-0", "prefill-0", "decode-0", "router"}) {
    Add(name, {"/bin/sleep", "600"});
  }
  const StopReport report = StopProcesses(cluster_, kLong);
  EXPECT_THAT(report.ended,
              ElementsAre("router", "prefill-0", "decode-0", "orchestrator", "store-0"));
  EXPECT_THAT(report.killed, IsEmpty());
  EXPECT_THAT(Running(cluster_), IsEmpty());
}

TEST_F(StopTest, KillsWhatOutlivesItsGrace) {
  const std::string ready = folder_ / "ready";
  Add("decode-0",
      {"/bin/sh", "-c", "trap '' TERM; touch " + ready + "; while :; do sleep 0.1; done"});
  while (!std::filesystem::exists(ready)) absl::SleepFor(absl::Milliseconds(5));
  const StopReport report = StopProcesses(cluster_, absl::Milliseconds(1));
  EXPECT_THAT(report.killed, ElementsAre("decode-0"));
  EXPECT_THAT(Running(cluster_), IsEmpty());
}

TEST_F(StopTest, LeavesARecycledPidAlone) {
  Add("router", {"/bin/sleep", "600"});
  const ProcessIdentity bystander = cluster_.processes[0].identity;
  cluster_.processes[0].identity.start_ticks -= 1;
  const StopReport report = StopProcesses(cluster_, kLong);
  EXPECT_THAT(report.strangers, ElementsAre("router"));
  EXPECT_EQ(StateOf(bystander), ProcessState::kRunning);
  Signal(bystander, SIGKILL);
}

TEST_F(StopTest, LeavesEverythingAloneAfterAReboot) {
  Add("router", {"/bin/sleep", "600"});
  cluster_.boot_id = "of another boot";
  const StopReport report = StopProcesses(cluster_, kLong);
  EXPECT_THAT(report.gone, ElementsAre("router"));
  EXPECT_EQ(StateOf(cluster_.processes[0].identity), ProcessState::kRunning);
  Signal(cluster_.processes[0].identity, SIGKILL);
}

TEST_F(StopTest, ReportsWhatHadEndedBeforeAndStopsTwiceWithoutHarm) {
  Add("router", {"/bin/true"});
  Add("orchestrator", {"/bin/sleep", "600"});
  ASSERT_TRUE(WaitEnded(cluster_.processes[0].identity, absl::Now() + kLong));
  const StopReport first = StopProcesses(cluster_, kLong);
  EXPECT_THAT(first.gone, ElementsAre("router"));
  EXPECT_THAT(first.ended, ElementsAre("orchestrator"));
  EXPECT_THAT(StopProcesses(cluster_, kLong).gone, UnorderedElementsAre("router", "orchestrator"));
}

TEST_F(StopTest, RemovesSocketsAndRecordButKeepsLogsAndStrangersFiles) {
  cluster_.socket_dir = folder_ / "sockets";
  cluster_.processes = {{.name = "router"}, {.name = "decode-0"}};
  ASSERT_TRUE(WriteCluster(folder_.path(), cluster_).ok());
  folder_.Write("sockets/router.sock", "");
  folder_.Write("sockets/mine.txt", "");
  folder_.Write("addresses/router", "grpc=x\n");
  folder_.Write("logs/router.log", "words\n");
  RemoveTraces(folder_.path(), cluster_);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "cluster.json"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "sockets/router.sock"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "addresses"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "sockets/mine.txt"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "logs/router.log"));
}

}  // namespace
}  // namespace chorale::cli
