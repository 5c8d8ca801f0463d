// Models with sliding windows and rotary embeddings that change with the length, through a cluster:
// tokens against a plain forward pass in doubles, over hand-offs, found prefixes and moves.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/e2e/fixtures/processes.h"
#include "tests/model/plain_forward.h"
#include "tests/testing/window_model.h"

namespace chorale {
namespace {

constexpr double kTie = 1e-3;  // logits this close count as equal

class WindowCluster : public testing::Test {
 protected:
  void Start(const std::string& kind, std::vector<std::string> worker_flags) {
    WriteWindowModel(WindowKindNamed(kind), model_.path());
    worker_flags.insert(worker_flags.end(), {"--kernels", "reference", "--threads", "1"});
    cluster_.emplace(ClusterOptions{.model_folder = model_.path(),
                                    .worker_flags = worker_flags,
                                    .decode_flags = {"--local-prefill-tokens", "0"},
                                    .stores = 1});
  }

  Generation Ask(const std::vector<int>& prompt, int outputs) {
    v1::GenerateRequest request;
    request.set_model("m");
    request.mutable_token_ids()->mutable_ids()->Assign(prompt.begin(), prompt.end());
    request.mutable_sampling()->set_temperature(0);
    request.mutable_sampling()->set_ignore_eos(true);
    request.mutable_sampling()->set_max_tokens(outputs);
    return Generate(cluster_->inference(), request);
  }

  // Asks, and judges each token by what precedes it. Returns prompt and output.
  std::vector<int> AskAndJudge(const std::vector<int>& prompt, int outputs) {
    const Generation got = Ask(prompt, outputs);
    EXPECT_TRUE(got.status.ok()) << got.status.error_message();
    if (!got.status.ok()) return prompt;
    std::vector<int> all = prompt;
    for (int token : got.tokens.at(0)) {
      const std::vector<double> logits = PlainLogits(model_.path(), all).back();
      EXPECT_GE(logits[token], *std::max_element(logits.begin(), logits.end()) - kTie)
          << "after " << all.size() << " tokens";
      all.push_back(token);
    }
    EXPECT_EQ(static_cast<int>(got.tokens.at(0).size()), outputs);
    return all;
  }

  v1::ListModelsResponse::Model Listed() {
    grpc::ClientContext context;
    v1::ListModelsResponse response;
    const grpc::Status status = cluster_->inference().ListModels(&context, {}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.models(0);
  }

  // Three turns of several conversations, so that they meet hand-offs, caches and both workers.
  void Converse() {
    for (int first : {10, 45, 61, 100}) {
      std::vector<int> context;
      for (int turn = 0; turn < 3; ++turn) {
        SCOPED_TRACE(testing::Message() << first << " tokens, turn " << turn);
        for (int i = 0; i < (turn == 0 ? first : 5); ++i) {
          context.push_back((i * 37 + first * 11 + turn * 5) % 250);
        }
        context = AskAndJudge(context, 20);
      }
    }
  }

  TempFolder model_;
  std::optional<TestCluster> cluster_;
};

TEST_F(WindowCluster, SpeaksAsAPlainForwardPassWithAWindow) {
  Start("every layer", {});
  Converse();
  EXPECT_EQ(Listed().context_tokens(), 256);
  EXPECT_EQ(Listed().context_reason(), "max_position_embeddings");
  EXPECT_EQ(Listed().attention(), "the last 40 tokens in 4 of 4 layers");
}

TEST_F(WindowCluster, SpeaksAsAPlainForwardPassWithFewBlocks) {
  Start("every layer", {"--blocks", "8", "--chunk-tokens", "16"});
  Converse();
  EXPECT_EQ(Listed().context_tokens(), 256);
}

TEST_F(WindowCluster, SpeaksAsAPlainForwardPassWithALongRope) {
  Start("longrope", {});
  Converse();
  EXPECT_EQ(Listed().attention(), "all tokens");
}

TEST_F(WindowCluster, SpeaksAsAPlainForwardPassWithADynamicRope) {
  Start("dynamic", {});
  Converse();
  EXPECT_EQ(Listed().context_reason(), "rope dynamic, factor 4 of 64");
}

TEST_F(WindowCluster, TellsWhenItsMemoryIsShorterThanTheContext) {
  Start("no window", {"--blocks", "4"});
  EXPECT_EQ(Listed().context_tokens(), 64);
  EXPECT_EQ(Listed().context_reason(), "--kv-mib or --blocks: a worker's 4 blocks of 16 tokens");
  const Generation got = Ask(std::vector<int>(64, 1), 1);
  EXPECT_EQ(got.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(got.status.error_message().find("--kv-mib"), std::string::npos)
      << got.status.error_message();
}

}  // namespace
}  // namespace chorale
