// Which URL leads where. GET routes are answered here; the two POST routes are generations.
#pragma once

#include <cstdint>
#include <string_view>
#include <variant>

#include "api/http_head.h"
#include "api/openai_request.h"
#include "chorale/v1/inference.pb.h"

namespace chorale {

// What the routes show of the server.
struct RouteView {
  v1::ListModelsResponse models;
  int64_t started_seconds = 0;  // since the epoch; when the server was opened
  bool draining = false;
};

// The endpoint that generates, or the whole reply (also the errors 404 and 405). `method` is GET,
// HEAD, POST...; `target` may carry a query, which is ignored.
std::variant<OpenAiEndpoint, HttpAnswer> RouteRequest(std::string_view method,
                                                      std::string_view target,
                                                      const RouteView& view);

}  // namespace chorale
