// A real model through the cluster: the 200 greedy ids that an independent implementation gave.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/e2e/fixtures/processes.h"

namespace chorale {
namespace {

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, Stories260kGivesItsGoldenIdsThroughTheCluster) {
  const char* data = std::getenv("CHORALE_SHARED_DATA");
  const std::string folder = std::string(data == nullptr ? "" : data) + "/models/stories260K";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "skipped: no " << folder;
  std::ifstream file(folder + "/golden_greedy.json");
  const Json golden = Json::parse(file);
  const std::vector<int> prompt = golden["prompt_ids"];
  const std::vector<int> ids = golden["greedy_ids"];

  TestCluster cluster({.model_folder = folder,
                       .worker_flags = {"--kernels", GetParam(), "--threads", "1"},
                       .decode_flags = {"--local-prefill-tokens", "0"}});
  const auto generate = [&](int given) {
    v1::GenerateRequest request;
    request.set_model("m");
    for (int id : prompt) request.mutable_token_ids()->add_ids(id);
    for (int i = 0; i < given; ++i) request.mutable_token_ids()->add_ids(ids[i]);
    request.set_no_prefix_reuse(true);
    request.mutable_sampling()->set_temperature(0);
    request.mutable_sampling()->set_ignore_eos(true);
    request.mutable_sampling()->set_max_tokens(static_cast<int>(ids.size()) - given);
    return Generate(cluster.inference(), request);
  };
  const Generation all = generate(0);
  ASSERT_TRUE(all.status.ok()) << all.status.error_message();
  EXPECT_EQ(all.tokens.at(0), ids);
  // The same from the middle: now the prompt's K/V comes from the prefill worker.
  const Generation rest = generate(100);
  ASSERT_TRUE(rest.status.ok()) << rest.status.error_message();
  EXPECT_EQ(rest.tokens.at(0), std::vector<int>(ids.begin() + 100, ids.end()));
  EXPECT_EQ(rest.usage.transferred_tokens(), static_cast<int>(prompt.size()) + 100 - 1);
}

INSTANTIATE_TEST_SUITE_P(Kernels, Golden, testing::Values("reference", "cpu"));

}  // namespace
}  // namespace chorale
