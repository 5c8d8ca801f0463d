#include "orchestrator/membership.h"

#include <gtest/gtest.h>

namespace chorale {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000);

WorkerInfo Worker(const std::string& id, int64_t pid = 1) {
  return {.id = id, .address = "127.0.0.1:1", .pid = pid};
}

TEST(Membership, KeepsWhatAWorkerLastSaid) {
  Membership members;
  WorkerInfo worker = Worker("a");
  ASSERT_TRUE(members.Report(1, worker, kStart).ok());
  worker.ready = true;
  ASSERT_TRUE(members.Report(1, worker, kStart).ok());
  ASSERT_EQ(members.workers().size(), 1u);
  EXPECT_TRUE(members.workers()[0].ready);
  EXPECT_EQ(members.version(), 2);
}

TEST(Membership, RemovesAWorkerWhoseConnectionEnds) {
  Membership members;
  ASSERT_TRUE(members.Report(1, Worker("a"), kStart).ok());
  ASSERT_TRUE(members.Report(2, Worker("b"), kStart).ok());
  members.Leave(1);
  ASSERT_EQ(members.workers().size(), 1u);
  EXPECT_EQ(members.workers()[0].id, "b");
}

TEST(Membership, IgnoresTheLateEndOfAnOldConnection) {
  Membership members;
  ASSERT_TRUE(members.Report(1, Worker("a"), kStart).ok());
  ASSERT_TRUE(members.Report(2, Worker("a"), kStart).ok());  // the same process, joined again
  members.Leave(1);
  EXPECT_EQ(members.workers().size(), 1u);
}

TEST(Membership, RefusesTheIdOfAnotherLiveProcess) {
  Membership members;
  ASSERT_TRUE(members.Report(1, Worker("a", 10), kStart).ok());
  const absl::Status status = members.Report(2, Worker("a", 11), kStart);
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(members.workers()[0].pid, 10);
}

TEST(Membership, RefusesReportsWithoutIdOrAddress) {
  Membership members;
  EXPECT_EQ(members.Report(1, {.address = "x"}, kStart).message(), "worker_id is empty");
  EXPECT_EQ(members.Report(1, {.id = "a"}, kStart).message(), "worker 'a': address is empty");
  EXPECT_TRUE(members.workers().empty());
}

TEST(Membership, DropsTheSilent) {
  Membership members;
  ASSERT_TRUE(members.Report(1, Worker("quiet"), kStart).ok());
  ASSERT_TRUE(members.Report(2, Worker("talking"), kStart + absl::Seconds(2)).ok());
  EXPECT_TRUE(members.Expire(kStart + absl::Seconds(3), absl::Seconds(3)).empty());
  EXPECT_EQ(members.Expire(kStart + absl::Seconds(4), absl::Seconds(3)),
            std::vector<std::string>{"quiet"});
  EXPECT_EQ(members.workers().size(), 1u);
}

}  // namespace
}  // namespace chorale
