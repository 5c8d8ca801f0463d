// What users see when processes die, inputs are bad, or the cluster is told to stop.
#include <cmath>
#include <limits>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <signal.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "chorale/v1/worker.grpc.pb.h"
#include "rpc/blocks/convert_blocks.h"
#include "rpc/channels.h"
#include "tests/e2e/fixtures/http_client.h"
#include "tests/e2e/fixtures/processes.h"
#include "tests/e2e/fixtures/workload.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

v1::GenerateRequest LongRequest(int prompt_tokens, int max_tokens) {
  v1::GenerateRequest request;
  request.set_model("m");
  for (int i = 0; i < prompt_tokens; ++i) request.mutable_token_ids()->add_ids(1 + i % 200);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

class Faults : public testing::Test {
 protected:
  void Start(int prefill, int decode, std::vector<std::string> decode_flags = {}) {
    WriteTinyModel(folder_.path());
    cluster_ = std::make_unique<TestCluster>(ClusterOptions{
        .model_folder = folder_.path(),
        .prefill = prefill,
        .decode = decode,
        .worker_flags = {"--kernels", "reference", "--threads", "1", "--blocks", "400"},
        .decode_flags = std::move(decode_flags)});
  }
  v1::Inference::Stub& stub() { return cluster_->inference(); }

  TempFolder folder_;
  std::unique_ptr<TestCluster> cluster_;
};

TEST_F(Faults, AStreamWhoseDecodeWorkerDiesEndsUnavailableWithinTwoSeconds) {
  Start(1, 1);
  grpc::ClientContext context;
  auto reader = stub().Generate(&context, LongRequest(40, 1900));
  v1::GenerateChunk chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  cluster_->worker("decode-0").Signal(SIGKILL);
  const absl::Time killed = absl::Now();
  while (reader->Read(&chunk)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_LE(absl::Now() - killed, absl::Seconds(2));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  EXPECT_NE(status.error_message().find("decode-0"), std::string::npos) << status.error_message();
  EXPECT_TRUE(cluster_->router().running());

  cluster_->WaitForWorkers(1);  // the orchestrator has noticed
  EXPECT_EQ(Generate(stub(), LongRequest(40, 4)).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
  cluster_->StartWorker("decode-1");
  cluster_->WaitForWorkers(2);
  Generation after;
  const absl::Time give_up = absl::Now() + absl::Seconds(30);
  do {  // until the new table has reached the router
    after = Generate(stub(), LongRequest(40, 4));
  } while (!after.status.ok() && absl::Now() < give_up);
  EXPECT_TRUE(after.status.ok()) << after.status.error_message();
  EXPECT_EQ(after.tokens[0].size(), 4u);
}

TEST_F(Faults, APromptWhosePrefillWorkerIsDeadIsComputedElsewhere) {
  Start(1, 1);
  const Generation want = Generate(stub(), LongRequest(100, 8));
  ASSERT_TRUE(want.status.ok()) << want.status.error_message();
  EXPECT_GT(want.usage.transferred_tokens(), 0);
  cluster_->worker("prefill-0").Signal(SIGKILL);
  v1::GenerateRequest again = LongRequest(100, 8);
  again.set_no_prefix_reuse(true);
  const Generation got = Generate(stub(), again);
  ASSERT_TRUE(got.status.ok()) << got.status.error_message();
  EXPECT_EQ(got.usage.transferred_tokens(), 0);
  EXPECT_EQ(got.tokens, want.tokens);
}

TEST_F(Faults, AWorkerWhoseHandOffsWereCancelledStillEnds) {
  Start(1, 1);
  v1::GenerateRequest request = LongRequest(1900, 4);
  request.set_no_prefix_reuse(true);
  int ended_early = 0;
  for (int i = 0; i < 30; ++i) {
    ended_early += !Generate(stub(), request, 1 << 30, absl::Milliseconds(3 + 5 * i)).status.ok();
  }
  EXPECT_GT(ended_early, 0);
  EXPECT_TRUE(cluster_->AllBlocksComeBack());
  for (const char* id : {"prefill-0", "decode-0"}) {
    cluster_->worker(id).Signal(SIGTERM);
    EXPECT_EQ(cluster_->worker(id).Wait(), 0) << id;
  }
}

TEST_F(Faults, TheClusterServesOnWithoutItsOrchestrator) {
  Start(1, 1);
  cluster_->orchestrator().Signal(SIGKILL);
  cluster_->orchestrator().Wait();
  EXPECT_TRUE(Generate(stub(), LongRequest(40, 4)).status.ok());
  cluster_->StartOrchestrator();  // it knows no worker at first
  EXPECT_TRUE(Generate(stub(), LongRequest(40, 4)).status.ok());
  cluster_->WaitForWorkers(2);
  EXPECT_TRUE(Generate(stub(), LongRequest(40, 4)).status.ok());
}

TEST_F(Faults, SigtermLetsRunningStreamsFinish) {
  Start(1, 1);
  grpc::ClientContext context;
  auto reader = stub().Generate(&context, LongRequest(40, 300));
  v1::GenerateChunk chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  cluster_->worker("decode-0").Signal(SIGTERM);
  int tokens = chunk.token_ids_size();
  while (reader->Read(&chunk)) tokens += chunk.token_ids_size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(tokens, 300);
  EXPECT_EQ(cluster_->worker("decode-0").Wait(), 0);
}

TEST_F(Faults, ARouterEndsWhenItIsToldToRightAfterItsStart) {
  Start(0, 1);
  const std::string file = folder_.path() + "/second.address";
  Process router("chorale-router",
                 {"--orchestrator", "unix:" + cluster_->folder() + "/orchestrator.sock", "--listen",
                  "127.0.0.1:0", "--http", "127.0.0.1:0", "--address-file", file},
                 folder_.path() + "/second.log");
  ReadAddressFile(file);
  router.Signal(SIGTERM);
  EXPECT_EQ(router.Wait(), 0);
}

TEST_F(Faults, ADeadlinePassesThroughToTheWorker) {
  Start(1, 1);
  const Generation got = Generate(stub(), LongRequest(40, 1900), 1 << 30, absl::Milliseconds(200));
  EXPECT_EQ(got.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(cluster_->AllBlocksComeBack());
}

TEST_F(Faults, BadRequestsNameTheFieldAndLeaveTheClusterUp) {
  Start(1, 1);
  const auto refused = [&](v1::GenerateRequest request, grpc::StatusCode code,
                           const std::string& words) {
    const grpc::Status status = Generate(stub(), request).status;
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_NE(status.error_message().find(words), std::string::npos) << status.error_message();
  };
  const auto with = [](auto change) {
    v1::GenerateRequest request = LongRequest(4, 4);
    change(request);
    return request;
  };
  using Request = v1::GenerateRequest;
  constexpr auto kInvalid = grpc::StatusCode::INVALID_ARGUMENT;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  refused(with([](Request& r) { r.set_model("other"); }), grpc::StatusCode::NOT_FOUND,
          "model 'other' does not exist; there is: m");
  refused(LongRequest(kTinyContext, 1), kInvalid, absl::StrCat("holds ", kTinyContext));
  refused(LongRequest(0, 1), kInvalid, "prompt");
  refused(with([](Request& r) { r.mutable_token_ids()->add_ids(kTinyVocab); }), kInvalid,
          absl::StrCat("token id ", kTinyVocab));
  refused(with([](Request& r) { r.mutable_sampling()->set_temperature(-1); }), kInvalid,
          "temperature");
  refused(with([&](Request& r) { r.mutable_sampling()->set_temperature(nan); }), kInvalid,
          "temperature");
  refused(with([&](Request& r) { r.mutable_sampling()->set_top_p(nan); }), kInvalid, "top_p");
  refused(with([](Request& r) { r.mutable_sampling()->set_min_p(2); }), kInvalid, "min_p");
  refused(with([](Request& r) { r.mutable_sampling()->set_top_k(-3); }), kInvalid, "top_k");
  refused(with([](Request& r) { r.mutable_sampling()->set_max_tokens(-1); }), kInvalid,
          "max_tokens");
  refused(with([](Request& r) { r.mutable_sampling()->set_logprobs(1000); }), kInvalid, "logprobs");
  refused(with([](Request& r) { r.set_n(-1); }), kInvalid, "'n': -1");
  refused(with([](Request& r) { r.clear_prompt(); }), kInvalid, "prompt");
  constexpr char kMessages[] = R"([{"role": "user", "content": "a"}])";
  refused(with([&](Request& r) { r.mutable_chat()->set_messages_json(kMessages); }),
          grpc::StatusCode::FAILED_PRECONDITION, "no chat template");
  EXPECT_TRUE(Generate(stub(), LongRequest(4, 4)).status.ok());
  EXPECT_TRUE(cluster_->AllBlocksComeBack());
}

TEST_F(Faults, AHundredMegabytesAreRefusedAndTheRouterStaysUp) {
  Start(0, 1);
  v1::GenerateRequest request = LongRequest(4, 4);
  request.set_text(std::string(100'000'000, 'a'));
  EXPECT_EQ(Generate(stub(), request).status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const HttpReply reply = HttpPost(cluster_->http(), "/v1/completions",
                                   "{\"prompt\": \"" + std::string(100'000'000, 'a') + "\"}");
  EXPECT_EQ(reply.status, 413) << reply.body;
  EXPECT_TRUE(Generate(stub(), LongRequest(4, 4)).status.ok());
}

TEST_F(Faults, InvalidUtf8IsRefused) {
  Start(0, 1);
  const HttpReply reply =
      HttpPost(cluster_->http(), "/v1/completions", "{\"model\": \"m\", \"prompt\": \"a\xff\"}");
  EXPECT_EQ(reply.status, 400) << reply.body;
  EXPECT_NE(reply.body.find("error"), std::string::npos);
}

TEST_F(Faults, AHandOffBetweenDifferentWeightsIsRefusedWithBothDigests) {
  Start(1, 1);
  auto prefill =
      v1::Prefill::NewStub(OpenChannel("unix:" + cluster_->folder() + "/prefill-0.sock"));
  v1::PrefillMessage message;
  v1::PrefillRequest& request = *message.mutable_run();
  request.set_model("m");
  request.add_tokens(1);
  *request.mutable_format() = FormatOf({.layers = TinyConfig().layers,
                                         .kv_heads = TinyConfig().kv_heads,
                                         .head_dim = TinyConfig().head_dim});
  request.mutable_format()->set_writer(std::string(32, 'x'));
  grpc::ClientContext context;
  auto call = prefill->Run(&context);
  EXPECT_TRUE(call->Write(message));
  v1::KvFrame frame;
  EXPECT_FALSE(call->Read(&frame));
  const grpc::Status status = call->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(status.error_message().find("787878787878"), std::string::npos)
      << status.error_message();
}

}  // namespace
}  // namespace chorale
