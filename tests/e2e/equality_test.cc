// With the reference kernels, a cluster's tokens equal those of one process, whatever the chunks,
// the batches, the modes of the models, the reuse of prefixes, the cancellations in between, and
// the models that are loaded, replaced and unloaded meanwhile.
#include <atomic>
#include <fstream>
#include <random>
#include <thread>

#include <gtest/gtest.h>
#include <signal.h>

#include "absl/strings/str_cat.h"
#include "rpc/channels.h"
#include "tests/e2e/fixtures/processes.h"
#include "tests/e2e/fixtures/workload.h"
#include "tests/testing/tiny_family.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

constexpr int kRequests = 200;
constexpr int kPromptMax = 120;
constexpr int kHotRequests = 6;  // asked of a model that comes and goes

struct Setting {
  int chunk_tokens;
  int sequences;
};

class Equality : public testing::TestWithParam<Setting> {
 protected:
  // The judge: every request alone, in one process with one kind of batch.
  static void SetUpTestSuite() {
    seed_ = std::random_device{}();
    requests_ = new auto(MakeRequests(seed_, kRequests, kTinyVocab, kPromptMax));
    const std::vector<std::string> models = TinyFamilyModels();
    for (int i = 0; i < kRequests; ++i) (*requests_)[i].set_model(models[i % models.size()]);
    // What the model that comes and goes stands for in turn.
    for (const char* model : {"icarus-r", "standard-x"}) {
      for (int i = 0; i < kHotRequests; ++i) {
        requests_->push_back((*requests_)[i]);
        requests_->back().set_model(model);
      }
    }
    folder_ = new TempFolder;
    WriteTinyFamily(folder_->path());
    const std::string file = folder_->path() + "/single.address";
    Process single("chorale",
                   {"run", "--single", "--models", folder_->path(), "--kernels", "reference",
                    "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--address-file", file},
                   folder_->path() + "/single.log");
    auto stub = v1::Inference::NewStub(OpenChannel(ReadAddressFile(file)["grpc"]));
    judged_ = new std::vector<Generation>;
    for (v1::GenerateRequest request : *requests_) {
      request.set_no_prefix_reuse(true);
      judged_->push_back(Generate(*stub, request));
      ASSERT_TRUE(judged_->back().status.ok()) << judged_->back().status.error_message();
    }
    single.Signal(SIGTERM);
    EXPECT_EQ(single.Wait(), 0);
  }

  static void TearDownTestSuite() {
    delete judged_;
    delete requests_;
    delete folder_;
  }

  static void ExpectJudged(const Generation& got, int request) {
    ASSERT_TRUE(got.status.ok()) << got.status.error_message();
    EXPECT_EQ(got.tokens, (*judged_)[request].tokens) << (*requests_)[request].ShortDebugString();
    EXPECT_EQ(got.text, (*judged_)[request].text);
    EXPECT_EQ(got.finish, (*judged_)[request].finish);
  }

  static void ChangeModels(TestCluster& cluster, const std::string& family);

  static uint64_t seed_;
  static std::vector<v1::GenerateRequest>* requests_;
  static std::vector<Generation>* judged_;
  static TempFolder* folder_;
};

uint64_t Equality::seed_ = 0;
std::vector<v1::GenerateRequest>* Equality::requests_ = nullptr;
std::vector<Generation>* Equality::judged_ = nullptr;
TempFolder* Equality::folder_ = nullptr;

// Loads "hot", replaces it and unloads it. Right after each call its tokens are those of what it
// stands for now, with no stream of the former left.
void Equality::ChangeModels(TestCluster& cluster, const std::string& family) {
  v1::LoadModelRequest load;
  load.mutable_model()->set_name("hot");
  load.set_drain_ms(seed_ % 2 == 0 ? 0 : 1000);
  for (int version = 0; version < 2; ++version) {
    v1::ModuleSpec* module = load.mutable_model()->mutable_module();
    load.mutable_model()->set_mode(version == 0 ? "icarus" : "standard");
    module->Clear();
    version == 0 ? module->set_adapter(family + "/r") : module->set_weights(family + "/x");
    grpc::ClientContext context;
    v1::ModelChanges changes;
    const grpc::Status status = cluster.control().LoadModel(&context, load, &changes);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(changes.workers_size(), 3);
    cluster.WaitForModel("hot");
    for (int i = 0; i < kHotRequests; ++i) {
      const int request = kRequests + version * kHotRequests + i;
      v1::GenerateRequest hot = (*requests_)[request];
      hot.set_model("hot");
      ExpectJudged(Generate(cluster.inference(), hot), request);
    }
  }
  v1::UnloadModelRequest unload;
  unload.set_name("hot");
  grpc::ClientContext context;
  v1::ModelChanges changes;
  const grpc::Status status = cluster.control().UnloadModel(&context, unload, &changes);
  ASSERT_TRUE(status.ok()) << status.error_message();
  v1::GenerateRequest gone = (*requests_)[0];
  gone.set_model("hot");
  // UNAVAILABLE while the router's table is of the moment between two workers.
  const grpc::StatusCode code = Generate(cluster.inference(), gone).status.error_code();
  EXPECT_TRUE(code == grpc::StatusCode::NOT_FOUND || code == grpc::StatusCode::UNAVAILABLE) << code;
}

TEST_P(Equality, TokensOfTheClusterEqualThoseOfOneProcess) {
  SCOPED_TRACE(testing::Message() << "seed " << seed_);
  TestCluster cluster(
      {.family_folder = folder_->path(),
       .worker_flags = {"--kernels", "reference", "--threads", "1", "--blocks", "400",
                        "--chunk-tokens", absl::StrCat(GetParam().chunk_tokens), "--step-tokens",
                        "512", "--sequences", absl::StrCat(GetParam().sequences)},
       .decode_flags = {"--local-prefill-tokens", "8"}});
  std::atomic<int> next = 0;
  std::atomic<int> transferred = 0;
  std::atomic<int> cached = 0;
  const auto work = [&](int thread) {
    std::mt19937_64 random(seed_ + thread);
    for (int i; (i = next++) < 2 * kRequests;) {  // once with reuse of prefixes, once without
      v1::GenerateRequest request = (*requests_)[i % kRequests];
      request.set_no_prefix_reuse(i >= kRequests);
      const bool cancel = random() % 8 == 0;
      const Generation got =
          Generate(cluster.inference(), request, cancel ? 1 + random() % 5 : 1 << 30);
      const Generation& want = (*judged_)[i % kRequests];
      transferred += got.usage.transferred_tokens();
      cached += got.usage.cached_tokens();
      if (i >= kRequests) {
        EXPECT_EQ(got.usage.cached_tokens(), 0);
      }
      if (!got.status.ok()) {
        EXPECT_TRUE(cancel) << got.status.error_message();
        for (const auto& [index, tokens] : got.tokens) {  // what came before is right as well
          const std::vector<int>& all = want.tokens.at(index);
          ASSERT_LE(tokens.size(), all.size());
          EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), all.begin()));
        }
        continue;
      }
      ExpectJudged(got, i % kRequests);
    }
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) threads.emplace_back(work, t);
  int changes = 0;
  while (next < 2 * kRequests) {
    ChangeModels(cluster, folder_->path());
    ++changes;
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(changes, 0);
  EXPECT_TRUE(cluster.AllBlocksComeBack());
  EXPECT_GT(transferred, 0);
  EXPECT_GT(cached, 0);
}

INSTANTIATE_TEST_SUITE_P(ChunksAndBatches, Equality,
                         testing::Values(Setting{1, 1}, Setting{7, 1}, Setting{512, 1},
                                         Setting{1, 32}, Setting{7, 32}, Setting{512, 32}),
                         [](const auto& info) {
                           return absl::StrCat("chunk", info.param.chunk_tokens, "sequences",
                                               info.param.sequences);
                         });

}  // namespace
}  // namespace chorale
