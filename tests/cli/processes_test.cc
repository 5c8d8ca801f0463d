#include "cli/cluster/processes.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/time/clock.h"
#include "tests/cli/scratch_folder.h"

namespace chorale::cli {
namespace {

using ::testing::HasSubstr;

// Long enough for any machine; the tests do not wait for it when all is well.
absl::Time Soon() { return absl::Now() + absl::Seconds(60); }

absl::Status NoRecord(const ProcessIdentity&) { return absl::OkStatus(); }

class ProcessesTest : public ::testing::Test {
 protected:
  // A process that lives until it is signalled.
  ProcessIdentity SpawnSleeper() {
    auto process = Spawn({"/bin/sleep", "600"}, folder_ / "log", NoRecord);
    EXPECT_TRUE(process.ok()) << process.status();
    return *process;
  }

  ScratchFolder folder_;
};

TEST_F(ProcessesTest, IdentifiesThisProcess) {
  const auto self = IdentityOf(getpid());
  ASSERT_TRUE(self.ok()) << self.status();
  EXPECT_EQ(self->pid, getpid());
  EXPECT_GT(self->start_ticks, 0);
  EXPECT_EQ(StateOf(*self), ProcessState::kRunning);
}

TEST_F(ProcessesTest, TakesAnotherStartTimeForAStranger) {
  ProcessIdentity process = *IdentityOf(getpid());
  process.start_ticks -= 1;
  EXPECT_EQ(StateOf(process), ProcessState::kStranger);
}

TEST_F(ProcessesTest, NeverSignalsAStranger) {
  const ProcessIdentity sleeper = SpawnSleeper();
  ProcessIdentity recycled = sleeper;
  recycled.start_ticks -= 1;
  EXPECT_FALSE(Signal(recycled, SIGKILL));
  EXPECT_EQ(StateOf(sleeper), ProcessState::kRunning);
  EXPECT_TRUE(Signal(sleeper, SIGKILL));
  EXPECT_TRUE(WaitEnded(sleeper, Soon()));
}

TEST_F(ProcessesTest, TakesAZombieForEnded) {
  const ProcessIdentity sleeper = SpawnSleeper();
  ASSERT_TRUE(Signal(sleeper, SIGTERM));
  EXPECT_TRUE(WaitEnded(sleeper, Soon()));
  EXPECT_FALSE(Signal(sleeper, SIGTERM));
  EXPECT_EQ(HowEnded(sleeper.pid), "signal 15");
  EXPECT_EQ(StateOf(sleeper), ProcessState::kEnded);
}

TEST_F(ProcessesTest, WaitsNoLongerThanTheDeadline) {
  const ProcessIdentity sleeper = SpawnSleeper();
  EXPECT_FALSE(WaitEnded(sleeper, absl::Now()));
  Signal(sleeper, SIGKILL);
}

TEST_F(ProcessesTest, SendsOutputToTheLogAndReportsTheExitCode) {
  const auto process =
      Spawn({"/bin/sh", "-c", "echo out; echo err >&2; exit 3"}, folder_ / "log", NoRecord);
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE(WaitEnded(*process, Soon()));
  EXPECT_EQ(HowEnded(process->pid), "exit code 3");
  EXPECT_EQ(LastLines(folder_ / "log", 10), "out\nerr");
}

TEST_F(ProcessesTest, RecordsTheProcessBeforeItsProgramRuns) {
  const std::string witness = folder_ / "witness";
  bool ran_before_record = true;
  const auto process =
      Spawn({"/bin/touch", witness}, folder_ / "log", [&](const ProcessIdentity& identity) {
        ran_before_record = std::filesystem::exists(witness);
        EXPECT_EQ(StateOf(identity), ProcessState::kRunning);
        return absl::OkStatus();
      });
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE(WaitEnded(*process, Soon()));
  EXPECT_FALSE(ran_before_record);
  EXPECT_TRUE(std::filesystem::exists(witness));
}

TEST_F(ProcessesTest, NeverRunsAProgramThatCannotBeRecorded) {
  const std::string witness = folder_ / "witness";
  ProcessIdentity spawned;
  const auto process =
      Spawn({"/bin/touch", witness}, folder_ / "log", [&](const ProcessIdentity& identity) {
        spawned = identity;
        return absl::UnavailableError("disk full");
      });
  EXPECT_TRUE(absl::IsUnavailable(process.status()));
  EXPECT_EQ(StateOf(spawned), ProcessState::kEnded);
  EXPECT_FALSE(std::filesystem::exists(witness));
}

TEST_F(ProcessesTest, NamesAProgramThatIsMissing) {
  const auto process = Spawn({folder_ / "no-such-program"}, folder_ / "log", NoRecord);
  EXPECT_TRUE(absl::IsNotFound(process.status()));
  EXPECT_THAT(std::string(process.status().message()), HasSubstr("no-such-program"));
}

TEST_F(ProcessesTest, StartsASessionOfItsOwn) {
  const ProcessIdentity sleeper = SpawnSleeper();
  EXPECT_EQ(getsid(static_cast<pid_t>(sleeper.pid)), sleeper.pid);
  Signal(sleeper, SIGKILL);
}

TEST_F(ProcessesTest, ShowsOnlyTheLastLines) {
  EXPECT_EQ(LastLines(folder_.Write("log", "1\n2\n3\n"), 2), "2\n3");
  EXPECT_EQ(LastLines(folder_.Write("empty", ""), 2), "");
  EXPECT_EQ(LastLines(folder_ / "absent", 2), "");
}

}  // namespace
}  // namespace chorale::cli
