#include "api/http_head.h"

#include <algorithm>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "api/openai_response.h"

namespace chorale {
namespace {

constexpr size_t kRequestIdBytesMax = 128;

// RFC 9110, section 15, and RFC 6585.
const char* ReasonOf(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 413:
      return "Content Too Large";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "Unknown";
  }
}

std::string StatusLine(int status, const HttpFraming& framing) {
  return absl::StrCat(framing.version == 10 ? "HTTP/1.0 " : "HTTP/1.1 ", status, " ",
                      ReasonOf(status), "\r\nServer: chorale\r\nX-Request-Id: ", framing.request_id, "\r\n");
}

}  // namespace

HttpAnswer AnswerFor(int http_status, const absl::Status& status) {
  HttpAnswer answer = {.status = http_status, .body = ErrorBody(status)};
  if (const int seconds = RetryAfterSeconds(status); seconds > 0) {
    answer.fields.emplace_back("Retry-After", absl::StrCat(seconds));
  }
  return answer;
}

HttpAnswer AnswerFor(const absl::Status& status) { return AnswerFor(HttpStatusOf(status), status); }

std::string AnswerText(const HttpAnswer& answer, const HttpFraming& framing, bool head_only) {
  std::string text = StatusLine(answer.status, framing);
  absl::StrAppend(&text, "Content-Type: application/json\r\nContent-Length: ", answer.body.size(),
                  "\r\n");
  for (const auto& [name, value] : answer.fields) {
    absl::StrAppend(&text, name, ": ", value, "\r\n");
  }
  absl::StrAppend(&text, "Connection: ", framing.keep_alive ? "keep-alive" : "close", "\r\n\r\n");
  if (!head_only) text += answer.body;
  return text;
}

std::string EventStreamHead(const HttpFraming& framing) {
  std::string text = StatusLine(200, framing);
  absl::StrAppend(&text,
                  "Content-Type: text/event-stream; charset=utf-8\r\n"
                  "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");
  if (framing.version == 10) {
    absl::StrAppend(&text, "Connection: close\r\n\r\n");
  } else {
    absl::StrAppend(&text, "Transfer-Encoding: chunked\r\nConnection: ",
                    framing.keep_alive ? "keep-alive" : "close", "\r\n\r\n");
  }
  return text;
}

std::string EventStreamPart(std::string_view events, const HttpFraming& framing) {
  if (framing.version == 10) return std::string(events);
  std::string text = absl::StrFormat("%x\r\n", events.size());
  text += events;
  text += "\r\n";
  return text;
}

std::string EventStreamEnd(const HttpFraming& framing) {
  return framing.version == 10 ? "" : "0\r\n\r\n";
}

std::string RequestIdFrom(std::string_view offered) {
  const bool fit = !offered.empty() && offered.size() <= kRequestIdBytesMax &&
                   std::all_of(offered.begin(), offered.end(),
                               [](unsigned char c) { return absl::ascii_isgraph(c); });
  return fit ? std::string(offered) : NewId();
}

std::string NewId() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return absl::StrFormat("%016x%08x", generator(), static_cast<uint32_t>(generator()));
}

}  // namespace chorale
