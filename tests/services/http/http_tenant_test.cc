// Whose a request is, by its Authorization header.
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/services/http/http_fixture.h"

namespace chorale {
namespace {

using testing::HasSubstr;

constexpr char kPath[] = "/v1/completions";
constexpr char kPlain[] = R"({"prompt": [1, 2, 3]})";

class HttpTenant : public HttpTest {
 protected:
  // The request that reaches the backend.
  GenerateRequest Reach(Client& client, const std::string& fields,
                          const std::string& json = kPlain) {
    client.Post(kPath, json, fields);
    const auto call = backend_.NextCall();
    call->Done(absl::OkStatus());
    EXPECT_EQ(client.Read().status, 200);
    return call->request();
  }
};

TEST_F(HttpTenant, IsNamedByTheKeyOfEachRequest) {
  Open();
  Client client(server_->address());
  const std::string salt = Reach(client, "Authorization: Bearer one\r\n").scope.tenant_salt;
  EXPECT_EQ(salt.size(), 32u);
  EXPECT_EQ(Reach(client, "").scope.tenant_salt, "");  // the connection remembers nobody
  EXPECT_NE(Reach(client, "Authorization: Bearer two\r\n").scope.tenant_salt, salt);
  EXPECT_EQ(Reach(client, "authorization: bearer one\r\n").scope.tenant_salt, salt);
}

TEST_F(HttpTenant, SharesWhatItsRequestCallsPublic) {
  Open();
  Client client(server_->address());
  EXPECT_EQ(Reach(client, "").scope.public_tokens, 0);
  EXPECT_EQ(Reach(client, "", R"({"prompt": [1, 2, 3], "public_tokens": 2})").scope.public_tokens, 2);
  client.Post(kPath, R"({"prompt": [1, 2, 3], "public_tokens": 4})");
  const Response refused = client.Read();
  EXPECT_EQ(refused.status, 400);
  EXPECT_EQ(Json::parse(refused.body)["error"]["param"], "public_tokens");
}

TEST_F(HttpTenant, IsAskedForAgainWhenTheHeaderIsMalformed) {
  Open();
  Client client(server_->address());
  for (const char* fields : {"Authorization: Basic c2VjcmV0\r\n", "Authorization: Bearer\r\n",
                             "Authorization:\r\n", "Authorization: Bearer se cret\r\n",
                             "Authorization: Bearer secret\r\nAuthorization: Bearer secret\r\n"}) {
    client.Post(kPath, kPlain, fields);
    const Response response = client.Read();
    EXPECT_EQ(response.status, 401) << fields;
    EXPECT_THAT(response.head, HasSubstr("\r\nWWW-Authenticate: Bearer\r\n"));
    const Json error = Json::parse(response.body)["error"];
    EXPECT_EQ(error["type"], "authentication_error");
    EXPECT_THAT(std::string(error["message"]), HasSubstr("'Bearer KEY'"));
    EXPECT_THAT(response.body, testing::Not(HasSubstr("cret")));
  }
  client.Get("/v1/models");  // the connection goes on
  EXPECT_EQ(client.Read().status, 200);
}

}  // namespace
}  // namespace chorale
