// What a checkpoint's other files say, through a cluster: where a text ends, and how it is sampled
// unless the request says so itself.
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/e2e/fixtures/processes.h"
#include "tests/model/checkpoint/safetensors_file.h"
#include "tests/testing/tiny_model.h"
#include "text/tokenizer.h"

namespace chorale {
namespace {

class CheckpointSettings : public testing::Test {
 protected:
  CheckpointSettings() { WriteTinyModel(model_.path()); }

  void Write(const std::string& name, const Json& json) {
    WriteFile(model_.path() + "/" + name, json.dump());
  }
  void Start(const std::string& generation_config = "model") {
    cluster_.emplace(ClusterOptions{.model_folder = model_.path(),
                                    .prefill = 0,
                                    .decode = 1,
                                    .worker_flags = {"--kernels", "reference", "--threads", "1"},
                                    .router_flags = {"--generation-config", generation_config}});
  }
  static v1::GenerateRequest Ask(uint64_t seed) {
    v1::GenerateRequest request;
    request.set_model("m");
    request.set_text("then in an");
    request.mutable_sampling()->set_seed(seed);
    request.mutable_sampling()->set_max_tokens(24);
    request.mutable_sampling()->set_ignore_eos(true);
    return request;
  }
  std::vector<int> Tokens(const v1::GenerateRequest& request) {
    const Generation got = Generate(cluster_->inference(), request);
    EXPECT_TRUE(got.status.ok()) << got.status.error_message();
    return got.status.ok() ? got.tokens.at(0) : std::vector<int>();
  }
  std::set<std::vector<int>> Replies() {
    std::set<std::vector<int>> replies;
    for (uint64_t seed = 1; seed <= 8; ++seed) replies.insert(Tokens(Ask(seed)));
    return replies;
  }
  std::vector<int> Greedy() {
    v1::GenerateRequest request = Ask(1);
    request.mutable_sampling()->set_temperature(0);
    return Tokens(request);
  }

  TempFolder model_;
  std::optional<TestCluster> cluster_;
};

TEST_F(CheckpointSettings, SampleAsTheModelsFileSays) {
  Write("generation_config.json", {{"top_k", 1}});
  Start();
  EXPECT_EQ(Replies(), std::set<std::vector<int>>{Greedy()});
  // The request's own field wins.
  std::set<std::vector<int>> replies;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    v1::GenerateRequest request = Ask(seed);
    request.mutable_sampling()->set_top_k(0);
    replies.insert(Tokens(request));
  }
  EXPECT_EQ(replies.size(), 8u);
}

TEST_F(CheckpointSettings, SampleAsOpenAiSaysWhenTheFlagSaysSo) {
  Write("generation_config.json", {{"top_k", 1}});
  Start("off");
  EXPECT_EQ(Replies().size(), 8u);
}

TEST_F(CheckpointSettings, EndWhereTheTokenizersFilesSay) {
  Start();
  const std::vector<int> whole = Greedy();
  ASSERT_EQ(whole.size(), 24u);
  // config.json names token 7; the tokenizer's files name what comes in the middle of this reply.
  const auto tokenizer = Tokenizer::Parse(ByteTokenizerJson());
  ASSERT_TRUE(tokenizer.ok());
  Write("tokenizer_config.json",
        {{"eos_token", {{"content", std::string((*tokenizer)->PieceOf(whole[9]))}}}});
  cluster_.reset();
  Start();
  v1::GenerateRequest request = Ask(1);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_ignore_eos(false);
  const Generation got = Generate(cluster_->inference(), request);
  ASSERT_TRUE(got.status.ok()) << got.status.error_message();
  EXPECT_LE(got.tokens.at(0).size(), 10u);
  EXPECT_EQ(got.finish.at(0), v1::FINISH_REASON_STOP);
}

TEST_F(CheckpointSettings, AreListedWithWhatIsNotFollowed) {
  Write("generation_config.json", {{"top_k", 5}, {"num_beams", 4}});
  Start();
  grpc::ClientContext context;
  v1::ListModelsResponse response;
  ASSERT_TRUE(cluster_->inference().ListModels(&context, {}, &response).ok());
  EXPECT_EQ(response.models(0).defaults().top_k(), 5);
  ASSERT_EQ(response.models(0).notes_size(), 1);
  EXPECT_EQ(response.models(0).notes(0),
            "generation_config.json: field 'num_beams': 4 is not followed");
}

}  // namespace
}  // namespace chorale
