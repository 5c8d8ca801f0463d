#include "cli/client.h"

#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cli/cluster/run_dir.h"
#include "tests/cli/scratch_folder.h"

namespace chorale::cli {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(60);

// A router that sends the sequence numbers it is told to, then waits for its caller to go if asked.
class FakeRouter : public v1::Inference::Service {
 public:
  FakeRouter() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeRouter() override { server_->Shutdown(); }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  std::vector<int64_t> sequence_numbers;
  bool waits_for_cancellation = false;
  std::vector<std::string> authorization;  // of the calls so far; "-": without

 private:
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest*,
                        grpc::ServerWriter<v1::GenerateChunk>* writer) override {
    const auto& metadata = context->client_metadata();
    const auto found = metadata.find("authorization");
    authorization.push_back(
        found == metadata.end() ? "-" : std::string(found->second.data(), found->second.size()));
    for (const int64_t number : sequence_numbers) {
      v1::GenerateChunk chunk;
      chunk.set_sequence_number(number);
      chunk.set_text("x");
      writer->Write(chunk);
    }
    while (waits_for_cancellation && !context->IsCancelled()) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    return grpc::Status::OK;
  }

  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

TEST(RouterClientTest, PassesOnChunksInOrder) {
  FakeRouter server;
  server.sequence_numbers = {0, 1, 2};
  RouterClient client(server.address());
  std::string text;
  const absl::Status status =
      client.Generate({}, kTimeout, [&](const v1::GenerateChunk& chunk) { text += chunk.text(); });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(text, "xxx");
}

TEST(RouterClientTest, NoticesLostAndDoubledChunks) {
  for (const std::vector<int64_t>& numbers : {std::vector<int64_t>{0, 2}, {0, 0}, {1}}) {
    FakeRouter server;
    server.sequence_numbers = numbers;
    RouterClient client(server.address());
    EXPECT_TRUE(absl::IsDataLoss(client.Generate({}, kTimeout, [](const v1::GenerateChunk&) {})));
  }
}

TEST(RouterClientTest, CancelsTheCallUnderWay) {
  FakeRouter server;
  server.sequence_numbers = {0};
  server.waits_for_cancellation = true;
  RouterClient client(server.address());
  client.Cancel();  // with no call under way it does nothing
  const absl::Status status =
      client.Generate({}, kTimeout, [&](const v1::GenerateChunk&) { client.Cancel(); });
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

TEST(RouterClientTest, SendsItsApiKeyAndRefusesOneThatNoRouterTakes) {
  FakeRouter server;
  const auto ignore = [](const v1::GenerateChunk&) {};
  EXPECT_TRUE(RouterClient(server.address()).Generate({}, kTimeout, ignore).ok());
  EXPECT_TRUE(RouterClient(server.address(), "sk-1").Generate({}, kTimeout, ignore).ok());
  for (const char* key : {"two words", "line\n", "\xff"}) {
    const absl::Status status = RouterClient(server.address(), key).Generate({}, kTimeout, ignore);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("printable"));
  }
  EXPECT_EQ(server.authorization, (std::vector<std::string>{"-", "Bearer sk-1"}));
}

TEST(RouterClientTest, SaysWhatToDoWhenNoRouterAnswers) {
  const ScratchFolder folder;
  RouterClient client(absl::StrCat("unix:", folder / "nobody.sock"));
  const absl::Status status = client.ListModels(kTimeout).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("chorale up"));
}

TEST(FindRouterTest, PrefersTheFlagAndExplainsWhatIsMissing) {
  const ScratchFolder folder;
  EXPECT_EQ(*FindRouter({.run_dir = folder.path(), .router = "there:1"}), "there:1");
  const ClusterFlags flags = {.run_dir = folder.path()};
  EXPECT_TRUE(absl::IsNotFound(FindRouter(flags).status()));

  ClusterRecord cluster = {.boot_id = BootId()};
  ASSERT_TRUE(WriteCluster(folder.path(), cluster).ok());
  EXPECT_THAT(std::string(FindRouter(flags).status().message()), HasSubstr("not running"));

  cluster.processes = {{.name = "router", .identity = *IdentityOf(getpid())}};
  ASSERT_TRUE(WriteCluster(folder.path(), cluster).ok());
  EXPECT_THAT(std::string(FindRouter(flags).status().message()), HasSubstr("still starting"));

  cluster.processes[0].address = "127.0.0.1:8081";
  ASSERT_TRUE(WriteCluster(folder.path(), cluster).ok());
  EXPECT_EQ(*FindRouter(flags), "127.0.0.1:8081");
}

}  // namespace
}  // namespace chorale::cli
