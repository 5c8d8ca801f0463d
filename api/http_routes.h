// Which URL leads where. GET routes are answered here; the two POST routes are generations.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <variant>

#include "api/http_head.h"
#include "api/openai_request.h"
#include "orchestrator/cluster_view.h"

namespace chorale {

// What the routes show of the server.
struct RouteView {
  std::shared_ptr<const ModelTable> models = std::make_shared<ModelTable>();
  int64_t started_seconds = 0;  // since the epoch; when the server was opened
  bool draining = false;
};

// The endpoint that generates, or the whole reply (also the errors 404 and 405). `method` is GET,
// HEAD, POST...; `target` may carry a query, which is ignored.
std::variant<OpenAiEndpoint, HttpAnswer> RouteRequest(std::string_view method,
                                                      std::string_view target,
                                                      const RouteView& view);

}  // namespace chorale
