// A plain HTTP client for tests: one request, one connection.
#pragma once

#include <string>

namespace chorale {

struct HttpReply {
  int status = 0;
  std::string body;  // chunked bodies are put together
};

// `host` is host:port. Keeps reading when the server answers before it has read all of the body.
// `authorization` is the value of that header; empty: none.
HttpReply HttpPost(const std::string& host, const std::string& path, const std::string& json,
                   const std::string& authorization = "");
HttpReply HttpGet(const std::string& host, const std::string& path);

}  // namespace chorale
