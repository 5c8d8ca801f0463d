// What tenants share in a cluster, by usage and by the counters of its workers.
#include <fstream>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/json.h"
#include "rpc/deadline.h"
#include "tests/e2e/fixtures/http_client.h"
#include "tests/e2e/fixtures/processes.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

constexpr int kPrompt = 999;  // ends inside a block
constexpr int kBlock = 16;
constexpr char kTemplate[] =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}";

// Whole blocks of the first `tokens` tokens, in tokens.
int Whole(int tokens) { return tokens / kBlock * kBlock; }

std::vector<int> RandomPrompt(unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int> tokens(kPrompt);
  for (int& token : tokens) token = static_cast<int>(random() % kTinyVocab);
  return tokens;
}

class Tenants : public testing::Test {
 protected:
  Tenants() {
    WriteTinyModel(model_.path());
    std::ofstream(model_.path() + "/tokenizer_config.json")
        << DumpJson({{"chat_template", kTemplate}});
    cluster_.emplace(ClusterOptions{
        .model_folder = model_.path(),
        .decode = 1,
        .worker_flags = {"--kernels", "reference", "--threads", "1", "--blocks", "600"},
        .decode_flags = {"--local-prefill-tokens", "32"}});
  }

  struct Told {
    int prompt_tokens = 0;
    int cached_tokens = 0;
  };
  // Over HTTP; an empty key sends no header.
  Told Post(const std::string& path, Json body, const std::string& key) {
    body["model"] = "m";
    body["temperature"] = 0;
    body["max_tokens"] = 4;
    body["ignore_eos"] = true;
    const HttpReply reply =
        HttpPost(cluster_->http(), path, DumpJson(body), key.empty() ? "" : "Bearer " + key);
    EXPECT_EQ(reply.status, 200) << reply.body;
    if (reply.status != 200) return {};
    const Json usage = Json::parse(reply.body)["usage"];
    return {.prompt_tokens = usage["prompt_tokens"],
            .cached_tokens = usage["prompt_tokens_details"]["cached_tokens"]};
  }
  int Complete(const std::vector<int>& prompt, const std::string& key, int public_tokens = 0) {
    return Post("/v1/completions", {{"prompt", prompt}, {"public_tokens", public_tokens}}, key)
        .cached_tokens;
  }

  // Over gRPC; also the status of a call that was refused.
  grpc::Status Generate(const std::vector<int>& prompt, const std::string& authorization,
                        int& cached_tokens) {
    v1::GenerateRequest request;
    request.mutable_token_ids()->mutable_ids()->Assign(prompt.begin(), prompt.end());
    request.mutable_sampling()->set_temperature(0);
    request.mutable_sampling()->set_max_tokens(4);
    grpc::ClientContext context;
    SetDeadline(context, absl::Now() + absl::Seconds(60));
    context.AddMetadata("authorization", authorization);
    auto reader = cluster_->inference().Generate(&context, request);
    v1::GenerateChunk chunk;
    while (reader->Read(&chunk)) {
      if (chunk.has_usage()) cached_tokens = chunk.usage().cached_tokens();
    }
    return reader->Finish();
  }

  int TokensOf(const std::string& text) {
    v1::TokenizeRequest request;
    request.set_text(text);
    grpc::ClientContext context;
    v1::TokenizeResponse response;
    EXPECT_TRUE(cluster_->inference().Tokenize(&context, request, &response).ok());
    return response.token_ids_size();
  }

  // What the workers did for all requests so far.
  v1::ModelCounters Counters() {
    v1::ModelCounters sum;
    for (const char* id : {"prefill-0", "decode-0"}) {
      const v1::WorkerStatusResponse status = cluster_->Status(id);
      const auto found = status.models().find("m");
      if (found == status.models().end()) continue;
      const v1::ModelCounters& counters = found->second;
      sum.set_prompt_tokens_computed(sum.prompt_tokens_computed() +
                                     counters.prompt_tokens_computed());
      sum.set_prompt_tokens_reused_own(sum.prompt_tokens_reused_own() +
                                       counters.prompt_tokens_reused_own());
      sum.set_prompt_tokens_reused_shared(sum.prompt_tokens_reused_shared() +
                                          counters.prompt_tokens_reused_shared());
    }
    return sum;
  }

  TempFolder model_;
  std::optional<TestCluster> cluster_;
};

TEST_F(Tenants, ShareTheSamePromptUnderOneKeyAndNothingUnderTwo) {
  const std::vector<int> prompt = RandomPrompt(1);
  const std::vector<std::string> keys = {"sk-one", "sk-two", ""};
  for (size_t i = 0; i < keys.size(); ++i) {
    EXPECT_EQ(Complete(prompt, keys[i]), 0) << "key '" << keys[i] << "'";
    // All of it was computed anew, and no worker took a token from what it had.
    EXPECT_EQ(Counters().prompt_tokens_computed(), static_cast<int>(i + 1) * (kPrompt - 1));
    EXPECT_EQ(Counters().prompt_tokens_reused_own(), 0);
    EXPECT_EQ(Counters().prompt_tokens_reused_shared(), 0);
  }
  const int64_t computed = Counters().prompt_tokens_computed();
  for (const std::string& key : keys) {
    EXPECT_GE(Complete(prompt, key), Whole(kPrompt - 1)) << "key '" << key << "'";
  }
  EXPECT_LT(Counters().prompt_tokens_computed(), computed + 3 * kBlock);
  EXPECT_GE(Counters().prompt_tokens_reused_own(), 3 * Whole(kPrompt - 1));
}

TEST_F(Tenants, AreTheSameOverHttpAndGrpc) {
  const std::vector<int> prompt = RandomPrompt(2);
  EXPECT_EQ(Complete(prompt, "sk-one"), 0);
  int cached = -1;
  ASSERT_TRUE(Generate(prompt, "Bearer sk-two", cached).ok());
  EXPECT_EQ(cached, 0);
  ASSERT_TRUE(Generate(prompt, "Bearer sk-one", cached).ok());
  EXPECT_GE(cached, Whole(kPrompt - 1));
  EXPECT_GE(Complete(prompt, "sk-two"), Whole(kPrompt - 1));
}

TEST_F(Tenants, ShareASystemPromptThatIsPublicAndNothingAfterIt) {
  std::string system;
  for (int i = 0; i < 60; ++i) system += "Answer in verse. ";
  const Json marked = {{"role", "system"}, {"content", system}, {"public", true}};
  const Json user = {{"role", "user"}, {"content", "What holds up the roof? " + system}};
  const Json body = {{"messages", {marked, user}}};
  const int shared = Whole(TokensOf("<system>" + system + "</>"));

  const Told first = Post("/v1/chat/completions", body, "sk-one");
  EXPECT_EQ(first.cached_tokens, 0);
  EXPECT_GT(first.prompt_tokens, shared + 2 * kBlock);
  for (const char* key : {"sk-two", "sk-three", ""}) {
    EXPECT_EQ(Post("/v1/chat/completions", body, key).cached_tokens, shared) << key;
  }
  EXPECT_GE(Post("/v1/chat/completions", body, "sk-one").cached_tokens,
            Whole(first.prompt_tokens - 1));
}

TEST_F(Tenants, ShareNoSystemPromptThatIsNotPublic) {
  std::string system;
  for (int i = 0; i < 60; ++i) system += "Answer in prose. ";
  Json marked = {{"role", "system"}, {"content", system}, {"public", true}};
  const Json plain = {{"role", "system"}, {"content", system}};
  const Json user = {{"role", "user"}, {"content", "What holds up the roof?"}};
  for (const char* key : {"sk-one", "sk-two"}) {
    EXPECT_EQ(Post("/v1/chat/completions", {{"messages", {plain, user}}}, key).cached_tokens, 0);
  }
  // Nor does a mark give away what was written without one.
  EXPECT_EQ(Post("/v1/chat/completions", {{"messages", {marked, user}}}, "sk-three").cached_tokens,
            0);
}

TEST_F(Tenants, SharePublicTokensOfTokenIds) {
  const std::vector<int> prompt = RandomPrompt(3);
  EXPECT_EQ(Complete(prompt, "sk-one", 500), 0);
  EXPECT_EQ(Complete(prompt, "sk-two", 500), Whole(500));
  EXPECT_EQ(Complete(prompt, "sk-three", 100), Whole(100));
}

TEST_F(Tenants, AreNotGuessedFromAHeaderOfAnotherForm) {
  const HttpReply reply = HttpPost(cluster_->http(), "/v1/completions",
                                   R"({"model": "m", "prompt": [1]})", "Basic c2VjcmV0");
  EXPECT_EQ(reply.status, 401) << reply.body;
  int cached = 0;
  const grpc::Status status = Generate({1}, "Basic c2VjcmV0", cached);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << status.error_message();
}

}  // namespace
}  // namespace chorale
