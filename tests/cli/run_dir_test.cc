#include "cli/cluster/run_dir.h"

#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "tests/cli/scratch_folder.h"

namespace chorale::cli {
namespace {

using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(RunDirTest, PrefersTheFlagThenTheEnvironmentThenTheDefault) {
  ASSERT_EQ(setenv("CHORALE_RUN_DIR", "from-environment", 1), 0);
  EXPECT_EQ(ResolveRunDir("from-flag"), "from-flag");
  EXPECT_EQ(ResolveRunDir(""), "from-environment");
  ASSERT_EQ(setenv("CHORALE_RUN_DIR", "", 1), 0);
  EXPECT_EQ(ResolveRunDir(""), ".chorale");
  ASSERT_EQ(unsetenv("CHORALE_RUN_DIR"), 0);
  EXPECT_EQ(ResolveRunDir(""), ".chorale");
}

TEST(RunDirTest, ReadsBackWhatItWrote) {
  const ScratchFolder folder;
  const ClusterRecord cluster = {.boot_id = "boot",
                                 .started_unix_s = 1'700'000'000,
                                 .model = "b\"ase",
                                 .socket_dir = "/run/sockets",
                                 .prefill_workers = 1,
                                 .decode_workers = 2,
                                 .processes = {{.name = "router",
                                                .identity = {.pid = 4711, .start_ticks = 987654321},
                                                .binary = "/bin/chorale-router",
                                                .log = "/run/logs/router.log",
                                                .address = "127.0.0.1:8081",
                                                .http = "127.0.0.1:8080",
                                                .metrics = "127.0.0.1:9400"}}};
  ASSERT_TRUE(WriteCluster(folder.path(), cluster).ok());
  const auto read = ReadCluster(folder.path());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, cluster);
  EXPECT_EQ(read->Find("router")->http, "127.0.0.1:8080");
  EXPECT_EQ(read->Find("decode-0"), nullptr);
}

TEST(RunDirTest, SaysHowToStartAClusterWhenThereIsNone) {
  const ScratchFolder folder;
  const auto read = ReadCluster(folder.path());
  EXPECT_TRUE(absl::IsNotFound(read.status()));
  EXPECT_THAT(Message(read.status()), HasSubstr(folder.path()));
  EXPECT_THAT(Message(read.status()), HasSubstr("chorale up"));
}

TEST(RunDirTest, NamesTheFieldOfARecordAtFault) {
  const std::string head =
      R"({"format": 1, "boot_id": "b", "started_unix_s": 1, "model": "m", "prefill_workers": 1,
          "decode_workers": 2)";
  const std::pair<std::string, const char*> cases[] = {
      {"not json", "not valid JSON"},
      {"[]", "format"},
      {R"({"format": 2})", "field 'format'"},
      {R"({"format": 1})", "boot_id"},
      {head + "}", "processes"},
      {head + R"(, "processes": {}})", "processes"},
      {head + R"(, "processes": [{"name": "router", "start_ticks": 1}]})", "pid"},
      {head + R"(, "processes": [{"name": "router", "pid": "7", "start_ticks": 1}]})", "pid"},
  };
  for (const auto& [text, field] : cases) {
    const ScratchFolder folder;
    folder.Write("cluster.json", text);
    const auto read = ReadCluster(folder.path());
    EXPECT_TRUE(absl::IsInvalidArgument(read.status())) << text;
    EXPECT_THAT(Message(read.status()), HasSubstr("cluster.json"));
    EXPECT_THAT(Message(read.status()), HasSubstr(field));
  }
}

TEST(RunDirTest, RefusesPidsThatMeanGroupsOrTheFirstProcess) {
  for (const char* pid : {"0", "1", "-1", "-4711", "4294967298"}) {
    const ScratchFolder folder;
    folder.Write(
        "cluster.json",
        absl::StrCat(R"({"format": 1, "boot_id": "b", "started_unix_s": 1, "model": "m",)",
                     R"("prefill_workers": 1, "decode_workers": 2, "processes": [{"name":)",
                     R"("router", "start_ticks": 1, "pid": )", pid, "}]}"));
    EXPECT_TRUE(absl::IsInvalidArgument(ReadCluster(folder.path()).status())) << pid;
  }
}

TEST(RunDirTest, TakesProcessesOfAnEarlierBootForEnded) {
  ClusterRecord cluster = {.boot_id = BootId(),
                           .processes = {{.name = "self", .identity = *IdentityOf(getpid())}}};
  EXPECT_THAT(Running(cluster), ::testing::ElementsAre("self"));
  cluster.boot_id = "of another boot";
  EXPECT_THAT(Running(cluster), ::testing::IsEmpty());
}

TEST(RunDirTest, LetsOneCommandAtATimeChangeAFolder) {
  const ScratchFolder folder;
  const std::string run_dir = folder / "deep/run";
  {
    const auto first = RunDirLock::Take(run_dir);
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_TRUE(absl::IsFailedPrecondition(RunDirLock::Take(run_dir).status()));
  }
  EXPECT_TRUE(RunDirLock::Take(run_dir).ok());
}

TEST(RunDirTest, SaysWhenTheFolderCannotBeMade) {
  const ScratchFolder folder;
  folder.Write("file", "");
  EXPECT_TRUE(absl::IsInvalidArgument(RunDirLock::Take(folder / "file/run").status()));
}

}  // namespace
}  // namespace chorale::cli
