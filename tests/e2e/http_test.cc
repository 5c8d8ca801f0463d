// The OpenAI-compatible API in front of a real cluster.
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "tests/e2e/fixtures/http_client.h"
#include "tests/e2e/fixtures/processes.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

using testing::HasSubstr;

class Http : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    WriteTinyModel(folder_->path());
    cluster_ = new TestCluster(
        {.model_folder = folder_->path(), .worker_flags = {"--threads", "1", "--blocks", "300"}});
  }
  static void TearDownTestSuite() {
    delete cluster_;
    delete folder_;
  }

  static HttpReply Complete(const Json& fields = Json::object()) {
    Json body = {{"model", "m"},
                 {"prompt", "Once upon a time"},
                 {"temperature", 0},
                 {"max_tokens", 12},
                 {"ignore_eos", true}};
    body.update(fields);
    return HttpPost(cluster_->http(), "/v1/completions", body.dump());
  }

  static TempFolder* folder_;
  static TestCluster* cluster_;
};

TempFolder* Http::folder_ = nullptr;
TestCluster* Http::cluster_ = nullptr;

TEST_F(Http, ListsItsModels) {
  const HttpReply reply = HttpGet(cluster_->http(), "/v1/models");
  ASSERT_EQ(reply.status, 200) << reply.body;
  const Json json = Json::parse(reply.body);
  EXPECT_EQ(json["object"], "list");
  ASSERT_EQ(json["data"].size(), 1u);
  EXPECT_EQ(json["data"][0]["id"], "m");
}

TEST_F(Http, CompletesAndCountsCachedTokens) {
  const HttpReply reply = Complete();
  ASSERT_EQ(reply.status, 200) << reply.body;
  const Json json = Json::parse(reply.body);
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(json["usage"]["completion_tokens"], 12);
  const std::string text = json["choices"][0]["text"];
  EXPECT_EQ(Json::parse(Complete().body)["choices"][0]["text"], text);
}

TEST_F(Http, AStreamAddsUpToTheWholeText) {
  const std::string whole = Json::parse(Complete().body)["choices"][0]["text"];
  const HttpReply reply =
      Complete({{"stream", true}, {"stream_options", {{"include_usage", true}}}});
  ASSERT_EQ(reply.status, 200) << reply.body;
  std::istringstream lines(reply.body);
  std::string text;
  std::string last;
  Json usage;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("data: ")) continue;
    last = line.substr(6);
    if (last.starts_with("[DONE]")) continue;
    const Json event = Json::parse(last);
    if (!event["choices"].empty()) text += event["choices"][0]["text"].get<std::string>();
    if (event.contains("usage") && !event["usage"].is_null()) usage = event["usage"];
  }
  EXPECT_EQ(text, whole);
  EXPECT_THAT(last, HasSubstr("[DONE]"));
  EXPECT_EQ(usage["completion_tokens"], 12);
}

TEST_F(Http, FaultsNameTheFieldTheValueAndTheRemedy) {
  const auto error = [](const HttpReply& reply, int status) {
    EXPECT_EQ(reply.status, status) << reply.body;
    return reply.body;
  };
  EXPECT_THAT(error(Complete({{"model", "x"}}), 404), HasSubstr("there is: m"));
  EXPECT_THAT(error(Complete({{"temperature", -1}}), 400), HasSubstr("temperature"));
  EXPECT_THAT(error(Complete({{"max_tokens", "ten"}}), 400), HasSubstr("max_tokens"));
  EXPECT_THAT(error(Complete({{"prompt", std::string(4000, 'x')}}), 400), HasSubstr("prompt"));
  EXPECT_THAT(error(Complete({{"prompt", {1, 2}}, {"max_tokens", kTinyContext - 1}}), 400),
              HasSubstr(absl::StrCat("send at most ", kTinyContext - 2)));
  EXPECT_THAT(error(HttpPost(cluster_->http(), "/v1/completions", "{"), 400), HasSubstr("error"));
  EXPECT_THAT(error(HttpPost(cluster_->http(), "/v1/chat/completions",
                             R"({"model": "m", "messages": [{"role": "user", "content": "hi"}]})"),
                    400),
              HasSubstr("chat template"));
  EXPECT_THAT(error(HttpGet(cluster_->http(), "/v1/nothing"), 404), HasSubstr("error"));
  EXPECT_EQ(HttpGet(cluster_->http(), "/health").status, 200);
}

TEST_F(Http, OutputMayFillTheContextToItsLastToken) {
  const HttpReply reply = Complete(
      {{"prompt", {1, 2}}, {"max_tokens", kTinyContext - 2}, {"ignore_eos", true}});
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(Json::parse(reply.body)["usage"]["completion_tokens"], kTinyContext - 2);
}

}  // namespace
}  // namespace chorale
