#include "api/http_routes.h"

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/json.h"

namespace chorale {
namespace {

RouteView View(int decode_workers = 1) {
  const ModelEntry model = {.served = {.name = "a/b"}, .decode_workers = decode_workers};
  return {.models = std::make_shared<ModelTable>(std::vector<ModelEntry>{model}),
          .started_seconds = 7};
}

HttpAnswer AnswerOf(std::string_view method, std::string_view target, const RouteView& view) {
  const auto route = RouteRequest(method, target, view);
  EXPECT_TRUE(std::holds_alternative<HttpAnswer>(route));
  return std::get<HttpAnswer>(route);
}

TEST(RouteRequest, LeadsToTheGenerations) {
  const auto completions = RouteRequest("POST", "/v1/completions?x=1", View());
  EXPECT_EQ(std::get<OpenAiEndpoint>(completions), OpenAiEndpoint::kCompletions);
  const auto chat = RouteRequest("POST", "/v1/chat/completions", View());
  EXPECT_EQ(std::get<OpenAiEndpoint>(chat), OpenAiEndpoint::kChatCompletions);
}

TEST(RouteRequest, ListsTheModels) {
  const HttpAnswer all = AnswerOf("GET", "/v1/models", View());
  EXPECT_EQ(all.status, 200);
  EXPECT_EQ(Json::parse(all.body)["data"][0]["id"], "a/b");
  for (const char* target : {"/v1/models/a/b", "/v1/models/a%2Fb", "/v1/models/a%2fb"}) {
    const HttpAnswer one = AnswerOf("HEAD", target, View());
    EXPECT_EQ(one.status, 200) << target;
    EXPECT_EQ(Json::parse(one.body)["id"], "a/b");
  }
  for (const char* target : {"/v1/models/x", "/v1/models/%", "/v1/models/%2"}) {
    const HttpAnswer none = AnswerOf("GET", target, View());
    EXPECT_EQ(none.status, 404) << target;
    EXPECT_EQ(Json::parse(none.body)["error"]["code"], "model_not_found");
  }
}

TEST(RouteRequest, TellsWhetherItCanServe) {
  EXPECT_EQ(AnswerOf("GET", "/health", View()).status, 200);
  EXPECT_EQ(AnswerOf("GET", "/health", View(0)).status, 503);
  EXPECT_EQ(AnswerOf("GET", "/health", {}).status, 503);
  RouteView draining = View();
  draining.draining = true;
  EXPECT_EQ(AnswerOf("GET", "/health", draining).status, 503);
}

TEST(RouteRequest, RefusesOtherUrlsAndMethods) {
  for (const char* target : {"/", "", "/v1", "/v1/models/", "/v1/modelsx", "/v1/completions/"}) {
    const HttpAnswer answer = AnswerOf("GET", target, View());
    EXPECT_EQ(answer.status, 404) << target;
    EXPECT_TRUE(Json::parse(answer.body)["error"]["message"].is_string());
  }
  const HttpAnswer get = AnswerOf("GET", "/v1/completions", View());
  EXPECT_EQ(get.status, 405);
  EXPECT_EQ(get.fields.at(0), (std::pair<std::string, std::string>("Allow", "POST")));
  for (const char* target : {"/health", "/v1/models", "/v1/models/a/b"}) {
    EXPECT_EQ(AnswerOf("POST", target, View()).status, 405) << target;
  }
}

}  // namespace
}  // namespace chorale
