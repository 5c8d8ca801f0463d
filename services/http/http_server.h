// HttpServer: the OpenAI API over HTTP/1.1, in front of a gateway.
//
//   GET /v1/models, /v1/models/{id}, /health     POST /v1/completions, /v1/chat/completions
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/gateway/gateway.h"
#include "services/http/http_connection.h"

namespace chorale {

struct HttpServerOptions {
  std::string address = "127.0.0.1:0";  // host:port; port 0 picks one
  int threads = 2;
  int connections_max = 4096;  // further ones are answered 503 and closed
  HttpLimits limits;
};

// Thread safe. Destroying it closes what is still open.
class HttpServer {
 public:
  // Listens and serves. InvalidArgument: cannot listen there. `gateway` must outlive the server.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Open(const HttpServerOptions& options,
                                                          Gateway& gateway);
  ~HttpServer();

  // host:port, with the port that was picked.
  const std::string& address() const;
  // Accepts no more, lets requests under way finish until `deadline`, then cancels them.
  void Drain(absl::Time deadline);

 private:
  struct State;
  explicit HttpServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace chorale
