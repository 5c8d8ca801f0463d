#include "orchestrator/routing.h"

#include <map>

#include <gtest/gtest.h>

namespace chorale {
namespace {

Digest WriterOf(int seed) {
  DigestBuilder builder;
  return builder.AddInt(seed).Finish();
}

WorkerInfo Worker(const std::string& id, WorkerRole role, int writer = 1) {
  return {.id = id,
          .address = id + ":1",
          .role = role,
          .models = {{.name = "m", .prompt_writer = WriterOf(writer)}},
          .ready = true};
}

TEST(ChooseRoute, PicksTheLeastLoaded) {
  std::vector<WorkerInfo> workers = {Worker("d1", WorkerRole::kDecode),
                                     Worker("d2", WorkerRole::kDecode),
                                     Worker("p1", WorkerRole::kPrefill)};
  workers[0].requests_running = 3;
  workers[1].requests_running = 1;
  workers[1].requests_waiting = 1;
  const auto route = ChooseRoute(workers, "m", "", {}, 0);
  ASSERT_TRUE(route.ok());
  EXPECT_EQ(route->decode->id, "d2");
  EXPECT_EQ(route->prefill->id, "p1");
}

TEST(ChooseRoute, CountsWhatTheRouterHasUnderWay) {
  const std::vector<WorkerInfo> workers = {Worker("d1", WorkerRole::kDecode),
                                           Worker("d2", WorkerRole::kDecode)};
  EXPECT_EQ(ChooseRoute(workers, "m", "", {{"d1", 1}}, 0)->decode->id, "d2");
}

TEST(ChooseRoute, TakesTurnsAmongEquals) {
  const std::vector<WorkerInfo> workers = {Worker("d1", WorkerRole::kDecode),
                                           Worker("d2", WorkerRole::kDecode),
                                           Worker("d3", WorkerRole::kDecode)};
  std::map<std::string, int> picked;
  for (uint64_t turn = 0; turn < 9; ++turn)
    ++picked[ChooseRoute(workers, "m", "", {}, turn)->decode->id];
  EXPECT_EQ(picked, (std::map<std::string, int>{{"d1", 3}, {"d2", 3}, {"d3", 3}}));
}

TEST(ChooseRoute, NeverPairsWorkersOfDifferentWeights) {
  const std::vector<WorkerInfo> workers = {Worker("d1", WorkerRole::kDecode, 1),
                                           Worker("p1", WorkerRole::kPrefill, 2)};
  const auto route = ChooseRoute(workers, "m", "", {}, 0);
  ASSERT_TRUE(route.ok());
  EXPECT_EQ(route->prefill, nullptr);
}

TEST(ChooseRoute, PassesOverTheUnreadyAndTheDraining) {
  std::vector<WorkerInfo> workers = {Worker("d1", WorkerRole::kDecode),
                                     Worker("d2", WorkerRole::kDecode)};
  workers[0].draining = true;
  EXPECT_EQ(ChooseRoute(workers, "m", "", {}, 0)->decode->id, "d2");
  workers[1].ready = false;
  const absl::Status status = ChooseRoute(workers, "m", "", {}, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "no decode worker is ready for model 'm'");
}

TEST(ChooseRoute, ListsTheModelsThereAre) {
  const std::vector<WorkerInfo> workers = {Worker("d1", WorkerRole::kDecode)};
  const absl::Status status = ChooseRoute(workers, "other", "", {}, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "model 'other' does not exist; there is: m");
}

}  // namespace
}  // namespace chorale
