#include "cli/cluster/launch.h"

#include <filesystem>

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cli/cluster/stop.h"
#include "tests/cli/scratch_folder.h"

namespace chorale::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

// Finds its --address-file and --listen, says where it listens, and stays.
constexpr char kFakeServer[] = R"(
echo "started $*"
while [ $# -gt 0 ]; do
  case $1 in
    --address-file) file=$2; shift;;
    --listen) listen=$2; shift;;
    --http) http=$2; shift;;
  esac
  shift
done
printf 'grpc=%s\nhttp=%s\n' "$listen" "$http" > "$file.partial" && mv "$file.partial" "$file"
exec sleep 600
)";

std::string Message(const absl::Status& status) { return std::string(status.message()); }

class LaunchTest : public ::testing::Test {
 protected:
  LaunchTest() {
    for (const char* program : {"chorale-orchestrator", "chorale-prefill", "chorale-decode",
                                "chorale-router", "chorale-kvstore"}) {
      folder_.WriteProgram(absl::StrCat("bin/", program), kFakeServer);
    }
    folder_.Write("model/config.json", "{}");
    options_ = {.run_dir = folder_ / "run",
                .bin_dir = folder_ / "bin",
                .http = "127.0.0.1:0",
                .grpc = "127.0.0.1:0",
                .worker_flags = {"--threads", "1"}};
    options_.model = absl::StrCat("base=", folder_ / "model");
  }

  // Starts, and ends again whatever was started.
  absl::Status Start(
      Launch& launch, const std::function<bool()>& interrupted = [] { return false; }) {
    return launch.Start(absl::Now() + absl::Seconds(120), interrupted);
  }

  ScratchFolder folder_;
  LaunchOptions options_;
};

TEST_F(LaunchTest, StartsEveryProcessAndRecordsWhereItListens) {
  ASSERT_TRUE(CheckLaunch(options_).ok()) << CheckLaunch(options_);
  Launch launch(options_);
  const absl::Status status = Start(launch);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(launch.CheckRunning().ok());
  const auto recorded = ReadCluster(options_.run_dir);
  ASSERT_TRUE(recorded.ok()) << recorded.status();
  EXPECT_EQ(*recorded, launch.cluster());
  ASSERT_EQ(recorded->processes.size(), 5u);
  EXPECT_THAT(recorded->Find("decode-1")->address, StartsWith("unix:/"));
  EXPECT_EQ(recorded->Find("router")->http, "127.0.0.1:0");
  const std::string log = LastLines(recorded->Find("decode-1")->log, 1);
  EXPECT_THAT(log, AllOf(HasSubstr("--worker-id decode-1"), HasSubstr("--threads 1"),
                         HasSubstr("--orchestrator unix:"), HasSubstr("--model base=/")));
  StopProcesses(launch.cluster(), absl::Seconds(60));
  EXPECT_THAT(Running(launch.cluster()), IsEmpty());
}

TEST_F(LaunchTest, StartsStoresAndTellsTheWorkersWhereTheyListen) {
  options_.stores = 2;
  options_.store_dram_mib = 64;
  options_.store_disk_mib = 128;
  options_.redis = "redis://127.0.0.1:6379";
  options_.metrics = true;
  Launch launch(options_);
  const absl::Status status = Start(launch);
  ASSERT_TRUE(status.ok()) << status;
  const ClusterRecord& cluster = launch.cluster();
  ASSERT_EQ(cluster.processes.size(), 7u);
  const auto command = [&](const std::string& name) {
    return LastLines(cluster.Find(name)->log, 1);
  };
  EXPECT_THAT(
      command("store-1"),
      AllOf(HasSubstr("--dram-mib 64"), HasSubstr("--disk-mib 128"),
            HasSubstr(absl::StrCat("--dir ", options_.run_dir, "/stores/store-1")),
            HasSubstr("--redis redis://127.0.0.1:6379"), HasSubstr("--metrics 127.0.0.1:0")));
  for (const char* worker : {"prefill-0", "decode-1"}) {
    EXPECT_THAT(command(worker), AllOf(HasSubstr("--store " + cluster.Find("store-0")->address +
                                                 " --store " + cluster.Find("store-1")->address),
                                       Not(HasSubstr("redis"))));
  }
  EXPECT_THAT(command("router"), HasSubstr("--redis redis://127.0.0.1:6379"));
  StopProcesses(cluster, absl::Seconds(60));
  RemoveTraces(options_.run_dir, cluster);
  EXPECT_TRUE(std::filesystem::exists(options_.run_dir + "/stores/store-1"));
}

TEST_F(LaunchTest, NeedsTheStoresProgramOnlyForStores) {
  std::filesystem::remove(folder_ / "bin/chorale-kvstore");
  EXPECT_TRUE(CheckLaunch(options_).ok()) << CheckLaunch(options_);
  options_.stores = 1;
  EXPECT_THAT(Message(CheckLaunch(options_)), HasSubstr("chorale-kvstore is missing"));
}

TEST_F(LaunchTest, ShowsTheLogOfAProcessThatEndedWhileStarting) {
  folder_.WriteProgram("bin/chorale-prefill", "echo tensor model.norm is missing >&2; exit 2\n");
  Launch launch(options_);
  const absl::Status status = Start(launch);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(Message(status), AllOf(HasSubstr("prefill-0 ended"), HasSubstr("exit code 2"),
                                     HasSubstr("tensor model.norm is missing")));
  StopProcesses(launch.cluster(), absl::Seconds(60));
}

TEST_F(LaunchTest, EndsWhenInterrupted) {
  folder_.WriteProgram("bin/chorale-orchestrator", "exec sleep 600\n");
  Launch launch(options_);
  EXPECT_TRUE(absl::IsCancelled(Start(launch, [] { return true; })));
  StopProcesses(launch.cluster(), absl::Seconds(60));
}

TEST_F(LaunchTest, GivesUpAtTheDeadline) {
  folder_.WriteProgram("bin/chorale-orchestrator", "exec sleep 600\n");
  Launch launch(options_);
  const absl::Status status = launch.Start(absl::Now(), [] { return false; });
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("--timeout-seconds"));
  StopProcesses(launch.cluster(), absl::Seconds(60));
}

TEST_F(LaunchTest, PutsSocketsElsewhereWhenTheRunFolderIsTooDeep) {
  options_.run_dir = folder_ / std::string(90, 'd');
  Launch launch(options_);
  ASSERT_TRUE(Start(launch).ok());
  EXPECT_LT(launch.cluster().socket_dir.size(), 90u);
  EXPECT_TRUE(std::filesystem::exists(launch.cluster().socket_dir));
  StopProcesses(launch.cluster(), absl::Seconds(60));
  RemoveTraces(options_.run_dir, launch.cluster());
  EXPECT_FALSE(std::filesystem::exists(launch.cluster().socket_dir));
}

TEST_F(LaunchTest, NamesWhatIsMissingBeforeItStartsAnything) {
  LaunchOptions no_folder = options_;
  no_folder.model = absl::StrCat("base=", folder_ / "nowhere");
  EXPECT_THAT(Message(CheckLaunch(no_folder)),
              AllOf(HasSubstr("nowhere"), HasSubstr("config.json")));
  LaunchOptions no_name = options_;
  no_name.model = folder_ / "model";
  EXPECT_THAT(Message(CheckLaunch(no_name)), HasSubstr("NAME=FOLDER"));
  LaunchOptions no_adapter = options_;
  no_adapter.adapters = {absl::StrCat("tuned=", folder_ / "model")};
  EXPECT_THAT(Message(CheckLaunch(no_adapter)), HasSubstr("adapter_config.json"));
  std::filesystem::remove(folder_ / "bin/chorale-decode");
  EXPECT_THAT(Message(CheckLaunch(options_)), HasSubstr("chorale-decode is missing"));
}

TEST(CheckAddressFreeTest, SaysWhichFlagToChangeWhenAPortIsInUse) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string taken = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  const absl::Status status = CheckAddressFree("--http", taken);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(Message(status), AllOf(HasSubstr(taken), HasSubstr("--http")));
  close(fd);
  EXPECT_TRUE(CheckAddressFree("--http", taken).ok());
}

TEST(CheckAddressFreeTest, RefusesWhatIsNoAddress) {
  for (const char* text :
       {"8080", "localhost", "127.0.0.1:http", "127.0.0.1:70000", "127.0.0.1:-1", "256.0.0.1:80"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckAddressFree("--http", text))) << text;
  }
  EXPECT_TRUE(CheckAddressFree("--grpc", "unix:/run/router.sock").ok());
}

TEST(FindShippedModelTest, LooksInTheInstallationAndInTheSourceTree) {
  const ScratchFolder folder;
  folder.Write("installed/share/chorale/models/base/config.json", "{}");
  folder.Write("source/models/base/config.json", "{}");
  EXPECT_EQ(*FindShippedModels(folder / "installed/bin", "base"),
            folder / "installed/share/chorale/models/base");
  EXPECT_EQ(*FindShippedModels(folder / "source/build/dev/bin", "base"),
            folder / "source/models/base");
  EXPECT_TRUE(absl::IsNotFound(FindShippedModels(folder / "empty/bin", "base").status()));
}

}  // namespace
}  // namespace chorale::cli
