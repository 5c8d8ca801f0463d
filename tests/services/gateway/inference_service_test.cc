#include "services/gateway/inference_service.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include "rpc/channels.h"
#include "rpc/server.h"
#include "tests/services/http/http_fixture.h"

namespace chorale {
namespace {

using testing::HasSubstr;

class InferenceServiceTest : public testing::Test {
 protected:
  InferenceServiceTest() {
    auto server = RpcServer::Start("127.0.0.1:0", {&service_});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = v1::Inference::NewStub(OpenChannel(server_->address()));
  }

  // The call that reaches the backend for a request with these values of `authorization`.
  std::shared_ptr<PlayedCall> Reach(const std::vector<std::string>& authorization,
                                    int public_tokens = 0) {
    grpc::ClientContext context;
    for (const std::string& value : authorization) context.AddMetadata("authorization", value);
    v1::GenerateRequest request;
    request.set_model("m");
    for (int id = 0; id < 5; ++id) request.mutable_token_ids()->add_ids(id);
    request.set_public_tokens(public_tokens);
    auto reader = stub_->Generate(&context, request);
    std::shared_ptr<PlayedCall> call = backend_.NextCall();
    call->Done(absl::OkStatus());
    v1::GenerateChunk chunk;
    EXPECT_FALSE(reader->Read(&chunk));
    EXPECT_TRUE(reader->Finish().ok());
    return call;
  }

  PlayedBackend backend_;
  Gateway gateway_{Gateway::Options{}, backend_};
  InferenceService service_{gateway_, absl::Seconds(60)};
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

TEST_F(InferenceServiceTest, TellsTheBackendWhoseARequestIsByItsMetadata) {
  const std::string salt = Reach({"Bearer one"})->request().scope.tenant_salt;
  EXPECT_EQ(salt.size(), 32u);
  EXPECT_EQ(Reach({"Bearer one"})->request().scope.tenant_salt, salt);
  EXPECT_NE(Reach({"Bearer two"})->request().scope.tenant_salt, salt);
  EXPECT_EQ(Reach({})->request().scope.tenant_salt, "");
}

TEST_F(InferenceServiceTest, TellsTheBackendWhatIsPublic) {
  EXPECT_EQ(Reach({"Bearer one"}, 3)->request().scope.public_tokens, 3);
  EXPECT_EQ(Reach({}, 0)->request().scope.public_tokens, 0);
}

TEST_F(InferenceServiceTest, RefusesMetadataThatNamesNoTenant) {
  for (const std::vector<std::string>& values :
       {std::vector<std::string>{"Basic abc"}, {"Bearer"}, {"Bearer a", "Bearer b"}}) {
    grpc::ClientContext context;
    for (const std::string& value : values) context.AddMetadata("authorization", value);
    v1::GenerateRequest request;
    request.mutable_token_ids()->add_ids(1);
    auto reader = stub_->Generate(&context, request);
    v1::GenerateChunk chunk;
    EXPECT_FALSE(reader->Read(&chunk));
    const grpc::Status status = reader->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << values[0];
    EXPECT_THAT(status.error_message(), HasSubstr("'Bearer KEY'"));
  }
}

TEST_F(InferenceServiceTest, ListsModelsForAnybody) {
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Basic abc");
  v1::ListModelsResponse models;
  EXPECT_TRUE(stub_->ListModels(&context, {}, &models).ok());
  EXPECT_EQ(models.models_size(), 1);
}

}  // namespace
}  // namespace chorale
