// The head of an HTTP response as text. Replies and events are strings here; sockets come later.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace chorale {

// A whole JSON reply.
struct HttpAnswer {
  int status = 200;
  std::string body;
  std::vector<std::pair<std::string, std::string>> fields;  // Allow, Retry-After
};

// The reply for an error, in OpenAI's shape, with Retry-After where trying again may help.
HttpAnswer AnswerFor(const absl::Status& status);
// The same with an HTTP status that no canonical code stands for (405, 413, 431).
HttpAnswer AnswerFor(int http_status, const absl::Status& status);

// How a connection frames what it sends.
struct HttpFraming {
  int version = 11;  // 10 or 11
  bool keep_alive = true;
  std::string request_id;
};

// Head and body of `answer`; `head_only` leaves the body out but tells its length.
std::string AnswerText(const HttpAnswer& answer, const HttpFraming& framing, bool head_only);

// Head of a reply of server-sent events: chunked, or for HTTP/1.0 until the connection ends.
std::string EventStreamHead(const HttpFraming& framing);
// `events` in the framing that EventStreamHead announced; `events` may not be empty.
std::string EventStreamPart(std::string_view events, const HttpFraming& framing);
std::string EventStreamEnd(const HttpFraming& framing);

// `offered` when it is fit to be echoed in a header, else a new id.
std::string RequestIdFrom(std::string_view offered);
// 24 random hexadecimal digits.
std::string NewId();

}  // namespace chorale
