// Models that are loaded, replaced and unloaded while a cluster serves: what the calls answer, and
// what becomes of the requests under way.
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "rpc/channels.h"
#include "tests/e2e/fixtures/processes.h"
#include "tests/testing/tiny_family.h"

namespace chorale {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class Models : public testing::Test {
 protected:
  Models() {
    WriteTinyFamily(family_.path());
    cluster_.emplace(ClusterOptions{
        .family_folder = family_.path(),
        .decode = 1,
        .worker_flags = {"--kernels", "reference", "--threads", "1", "--blocks", "400"}});
  }

  struct Answer {
    grpc::Status status;
    v1::ModelChanges changes;
  };
  Answer Load(const std::string& name, const std::string& mode, const std::string& adapter,
              int64_t drain_ms = 0) {
    v1::LoadModelRequest request;
    request.mutable_model()->set_name(name);
    request.mutable_model()->set_mode(mode);
    if (!adapter.empty()) {
      request.mutable_model()->mutable_module()->set_adapter(family_.path() + "/" + adapter);
    }
    request.set_drain_ms(drain_ms);
    grpc::ClientContext context;
    Answer answer;
    answer.status = cluster_->control().LoadModel(&context, request, &answer.changes);
    return answer;
  }
  Answer Unload(const std::string& name) {
    v1::UnloadModelRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    Answer answer;
    answer.status = cluster_->control().UnloadModel(&context, request, &answer.changes);
    return answer;
  }
  static v1::GenerateRequest Ask(const std::string& model, int tokens) {
    v1::GenerateRequest request;
    request.set_model(model);
    for (int i = 0; i < 20; ++i) request.mutable_token_ids()->add_ids(i);
    request.mutable_sampling()->set_temperature(0);
    request.mutable_sampling()->set_max_tokens(tokens);
    request.mutable_sampling()->set_ignore_eos(true);
    return request;
  }

  TempFolder family_;
  std::optional<TestCluster> cluster_;
};

TEST_F(Models, ARefusedLoadNamesWorkerAndReasonAndChangesNothing) {
  const Generation before = Generate(cluster_->inference(), Ask("icarus-r", 8));
  const Answer missing = Load("icarus-r", "icarus", "nowhere");
  EXPECT_EQ(missing.status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(missing.status.error_message(), AllOf(HasSubstr("decode-0"), HasSubstr("nowhere"),
                                                    HasSubstr("nothing was changed")));
  const Answer unfit = Load("icarus-r", "icarus", "a");
  EXPECT_EQ(unfit.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(unfit.status.error_message(), HasSubstr("k_proj"));
  const Answer unknown_mode = Load("icarus-r", "shared", "r");
  EXPECT_EQ(unknown_mode.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(unknown_mode.status.error_message(), HasSubstr("prefillshare"));
  EXPECT_EQ(Load("", "icarus", "r").status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Unload("nobody").status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Generate(cluster_->inference(), Ask("icarus-r", 8)).tokens, before.tokens);
}

TEST_F(Models, LoadingTheSameAgainIsNoChange) {
  const Answer again = Load("icarus-r", "icarus", "r");
  ASSERT_TRUE(again.status.ok()) << again.status.error_message();
  for (const auto& worker : again.changes.workers()) EXPECT_FALSE(worker.change().changed());
}

TEST_F(Models, AStreamOnAReplacedModelIsEndedOrLeftToFinish) {
  for (const int64_t drain_ms : {0, 60'000}) {
    SCOPED_TRACE(drain_ms);
    grpc::ClientContext context;
    auto reader = cluster_->inference().Generate(&context, Ask("standard-a", 600));
    v1::GenerateChunk chunk;
    ASSERT_TRUE(reader->Read(&chunk));
    const Answer replaced = Load("standard-a", "standard", drain_ms == 0 ? "b" : "a", drain_ms);
    ASSERT_TRUE(replaced.status.ok()) << replaced.status.error_message();
    int tokens = chunk.token_ids_size();
    while (reader->Read(&chunk)) tokens += chunk.token_ids_size();
    const grpc::Status status = reader->Finish();
    int ended = 0;
    for (const auto& worker : replaced.changes.workers()) ended += worker.change().requests_ended();
    if (drain_ms == 0) {
      EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED) << status.error_message();
      EXPECT_THAT(status.error_message(), HasSubstr("send it again"));
      EXPECT_LT(tokens, 600);
      EXPECT_EQ(ended, 1);
    } else {
      EXPECT_TRUE(status.ok()) << status.error_message();
      EXPECT_EQ(tokens, 600);
      EXPECT_EQ(ended, 0);
    }
  }
  EXPECT_TRUE(cluster_->AllBlocksComeBack());
}

TEST_F(Models, AWorkerThatJoinsLaterServesWhatTheOthersDo) {
  const Generation old = Generate(cluster_->inference(), Ask("standard-a", 12));
  ASSERT_TRUE(Load("standard-a", "standard", "b").status.ok());
  ASSERT_TRUE(Unload("standard-x").status.ok());
  const Generation now = Generate(cluster_->inference(), Ask("standard-a", 12));
  EXPECT_NE(now.tokens, old.tokens);
  cluster_->StartWorker("decode-1");
  cluster_->WaitForWorkers(3);
  cluster_->worker("decode-0").Signal(SIGTERM);
  EXPECT_EQ(cluster_->worker("decode-0").Wait(), 0);
  cluster_->WaitForWorkers(2);
  EXPECT_EQ(Generate(cluster_->inference(), Ask("standard-a", 12)).tokens, now.tokens);
  const grpc::Status gone = Generate(cluster_->inference(), Ask("standard-x", 4)).status;
  EXPECT_EQ(gone.error_code(), grpc::StatusCode::NOT_FOUND) << gone.error_message();
}

TEST_F(Models, AnUnloadThatWasCutShortIsFinishedByAnother) {
  auto decode =
      v1::WorkerControl::NewStub(OpenChannel("unix:" + cluster_->folder() + "/decode-0.sock"));
  v1::UnloadModelRequest request;
  request.set_name("sun-a");
  grpc::ClientContext context;
  v1::ModelChange change;
  ASSERT_TRUE(decode->UnloadModel(&context, request, &change).ok());
  const Answer unload = Unload("sun-a");
  EXPECT_TRUE(unload.status.ok()) << unload.status.error_message();
  EXPECT_EQ(Unload("sun-a").status.error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(Models, TheLastModelStays) {
  for (const std::string& name : TinyFamilyModels()) {
    if (name == "base") continue;
    ASSERT_TRUE(Unload(name).status.ok()) << name;
  }
  const Answer last = Unload("base");
  EXPECT_EQ(last.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(last.status.error_message(), HasSubstr("last one"));
  EXPECT_TRUE(Generate(cluster_->inference(), Ask("base", 4)).status.ok());
}

}  // namespace
}  // namespace chorale
