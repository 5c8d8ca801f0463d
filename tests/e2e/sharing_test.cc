// What models share in a cluster, by the counters of its workers: one context of 2,000 tokens and
// several models on it.
#include <optional>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "tests/e2e/fixtures/processes.h"
#include "tests/testing/tiny_family.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

constexpr int kContext = 1900;  // leaves room in the tiny models' 2,048
constexpr int kOutput = 40;

class Sharing : public testing::Test {
 protected:
  Sharing() { WriteTinyFamily(family_.path()); }

  void Start() {
    cluster_.emplace(ClusterOptions{
        .family_folder = family_.path(),
        .decode = 1,
        .worker_flags = {"--kernels", "reference", "--threads", "1", "--blocks", "600"},
        .decode_flags = {"--local-prefill-tokens", "32"}});
  }

  static std::vector<int> Context() {
    std::mt19937 random(7);
    std::vector<int> tokens(kContext);
    for (int& token : tokens) token = static_cast<int>(random() % kTinyVocab);
    return tokens;
  }

  Generation Ask(const std::string& model, const std::vector<int>& prompt, int output = kOutput) {
    v1::GenerateRequest request;
    request.set_model(model);
    request.mutable_token_ids()->mutable_ids()->Assign(prompt.begin(), prompt.end());
    request.mutable_sampling()->set_temperature(0);
    request.mutable_sampling()->set_max_tokens(output);
    request.mutable_sampling()->set_ignore_eos(true);
    Generation got = Generate(cluster_->inference(), request);
    EXPECT_TRUE(got.status.ok()) << got.status.error_message();
    return got;
  }

  // Prompt tokens of a model that a worker, or all of them, computed.
  int64_t Prefilled(const std::string& model, const std::string& id) {
    const v1::WorkerStatusResponse status = cluster_->Status(id);
    const auto found = status.models().find(model);
    return found == status.models().end() ? 0 : found->second.prompt_tokens_computed();
  }
  int64_t Prefilled(const std::string& model) {
    return Prefilled(model, "prefill-0") + Prefilled(model, "decode-0");
  }

  static std::vector<int> After(std::vector<int> context, const Generation& said, int more = 0) {
    const std::vector<int>& tokens = said.tokens.at(0);
    context.insert(context.end(), tokens.begin(), tokens.end());
    for (int i = 0; i < more; ++i) context.push_back(3 * i % kTinyVocab);
    return context;
  }

  TempFolder family_;
  std::optional<TestCluster> cluster_;
};

TEST_F(Sharing, ASecondIcarusModelPrefillsOnlyWhatNoModelHasSeen) {
  Start();
  const std::vector<int> context = Context();
  const Generation first = Ask("icarus-r", context);
  EXPECT_EQ(Prefilled("icarus-r"), kContext - 1);
  // The context, what the first model said, and ten tokens of its own.
  const std::vector<int> next = After(context, first, 10);
  const Generation second = Ask("icarus-s", next);
  const int known = (kContext + kOutput - 1) / 16 * 16;  // whole blocks of written tokens
  EXPECT_EQ(second.usage.cached_tokens(), known);
  EXPECT_EQ(Prefilled("icarus-s"), static_cast<int>(next.size()) - 1 - known);
  const v1::ModelCounters counters = cluster_->Status("decode-0").models().at("icarus-s");
  EXPECT_EQ(counters.prompt_tokens_reused_shared(), known);
  EXPECT_EQ(counters.prompt_tokens_reused_own(), 0);
  EXPECT_GT(cluster_->Metrics("decode-0")["kv_bytes_shared"], 0);
}

TEST_F(Sharing, OrdinaryModelsShareNothing) {
  Start();
  const std::vector<int> context = Context();
  Ask("standard-x", context);
  Ask("standard-a", context);
  EXPECT_EQ(Prefilled("standard-x"), kContext - 1);
  EXPECT_EQ(Prefilled("standard-a"), kContext - 1);
  EXPECT_EQ(cluster_->Metrics("decode-0")["kv_bytes_shared"], 0);
}

TEST_F(Sharing, PrefillShareModelsPrefillTheContextOnceAndThenOnlyWhatIsNew) {
  Start();
  // Two full fine-tunes and two adapters: four models.
  for (const char* adapter : {"b", "r"}) {
    v1::LoadModelRequest load;
    load.mutable_model()->set_name(std::string("share-") + adapter);
    load.mutable_model()->set_mode("prefillshare");
    load.mutable_model()->mutable_module()->set_adapter(family_.path() + "/" + adapter);
    grpc::ClientContext call;
    v1::ModelChanges changes;
    ASSERT_TRUE(cluster_->control().LoadModel(&call, load, &changes).ok());
    cluster_->WaitForModel(load.model().name());
  }
  const std::vector<int> context = Context();
  const std::vector<std::string> models = {"share-x", "share-a", "share-b", "share-r"};
  Generation of_first;
  for (const std::string& model : models) {
    const Generation got = Ask(model, context);
    if (model == models[0]) of_first = got;
  }
  int64_t once = 0;
  for (const std::string& model : models) once += Prefilled(model);
  // The tail that no whole block holds travels or is computed again, fewer than 16 tokens a model.
  EXPECT_GE(once, kContext - 1);
  EXPECT_LT(once, kContext - 1 + 3 * 16);

  // After the first model's turn the base has its new tokens to read, and nothing else.
  const std::vector<int> next = After(context, of_first);
  const int known = (kContext - 1) / 16 * 16;
  const int64_t before = Prefilled("share-a");
  const Generation got = Ask("share-a", next);
  EXPECT_EQ(got.usage.cached_tokens(), known);  // of the prompt; what was said is not the base's
  EXPECT_EQ(Prefilled("share-a") - before, static_cast<int>(next.size()) - 1 - known);
}

TEST_F(Sharing, SunModelsDecodeInOneBatch) {
  Start();
  std::vector<std::thread> threads;
  for (const char* model : {"sun-x", "sun-a", "base"}) {
    threads.emplace_back([this, model] { Ask(model, {1, 2, 3}, 400); });
  }
  for (std::thread& thread : threads) thread.join();
  std::map<std::string, int64_t> metrics = cluster_->Metrics("decode-0");
  EXPECT_GT(metrics["decode_passes_mixed"], 0);
  EXPECT_LT(metrics["decode_passes"], 1200);
}

}  // namespace
}  // namespace chorale
