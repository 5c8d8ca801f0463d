// HttpConnection: one client's connection, kept alive over several requests.
//
//   header -> body -> route -> whole reply ------------------------+-> sent -> next header
//                       |                                          |
//                       +---> call of the gateway -> reply/events -+
//                             (a read stays pending: when the client goes, so does the call)
//
// Everything happens on the connection's strand. The call's chunks arrive from other threads
// through a CallInbox, which only wakes the strand. The callbacks hold the connection weakly, so a
// call that ends late finds it gone.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "absl/time/time.h"
#include "api/http_head.h"
#include "api/openai_request.h"
#include "api/openai_response.h"
#include "services/gateway/gateway.h"
#include "services/http/call_inbox.h"

namespace chorale {

struct HttpLimits {
  int header_bytes_max = 16 << 10;
  int64_t body_bytes_max = 4 << 20;
  int64_t unsent_bytes_max = 1 << 20;  // of a stream; a client that lags further is cut off
  int64_t reply_bytes_max = 16 << 20;  // of chunks for a reply that is not streamed
  absl::Duration idle_time_max = absl::Seconds(60);      // waiting for a whole header
  absl::Duration body_time_max = absl::Seconds(60);      // from the header to the end of the body
  absl::Duration write_time_max = absl::Seconds(30);     // for what is being sent at one time
  absl::Duration linger_time_max = absl::Seconds(10);    // reading on after a refusal
  absl::Duration request_time_max = absl::Seconds(600);  // deadline of a generation
};

class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  // What the connections of a server share. Must outlive them until `on_closed`.
  struct Server {
    HttpLimits limits;
    Gateway& gateway;
    int64_t started_seconds = 0;
    std::function<void(HttpConnection*)> on_closed;  // called once, on the strand
  };

  // `io` is held so that a call that ends late finds the socket's context alive.
  HttpConnection(std::shared_ptr<boost::asio::io_context> io, boost::asio::ip::tcp::socket socket,
                 const Server& server);

  // These three may be called from any thread.
  void Start();
  void CloseWhenIdle();  // finishes the request under way first
  void Close();          // at once; cancels the call under way

 private:
  using ErrorCode = boost::system::error_code;
  enum class State { kIdle, kBody, kReplying, kLingering, kClosed };

  void ReadHeader();
  void AwaitRequestLine();
  void OnHeader(ErrorCode error);
  void ReadBody();
  void OnBodyError(ErrorCode error);
  void OnRequest();
  void Refuse(const HttpAnswer& answer);  // the request has not been read to its end
  void SendAnswer(const HttpAnswer& answer);

  void StartCall(OpenAiEndpoint endpoint);
  void OnInbox();
  void OnChunk(const CompletionChunk& chunk);
  void OnCallEnd(const absl::Status& status);
  void SendEvents(const std::string& events);

  void WatchClient();
  void OnClientBytes(ErrorCode error, size_t bytes);
  void Send(std::string bytes);
  void Flush();
  void OnSent(ErrorCode error);
  void OnReplySent();
  void Linger();
  void ReadOn();
  void CloseNow();

  const std::shared_ptr<boost::asio::io_context> io_;  // declared first: outlives the socket
  boost::beast::tcp_stream stream_;
  const Server& server_;
  State state_ = State::kIdle;
  // Bounded: a chunk's extension or a trailer could grow without end.
  boost::beast::flat_buffer buffer_{256 << 10};
  int empty_lines_ = 0;  // before the request line that is awaited
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  HttpFraming framing_;
  bool closing_ = false;  // no further request after this one

  // The request under way.
  bool head_only_ = false;
  bool lingers_ = false;
  bool reply_complete_ = false;
  bool stream_begun_ = false;
  std::shared_ptr<Gateway::Call> call_;
  std::shared_ptr<CallInbox> inbox_;
  int64_t reply_bytes_ = 0;                    // of chunks in completion_
  std::optional<CompletionReply> completion_;  // one of these two
  std::optional<StreamReply> events_;

  std::string sending_;  // in flight when not empty
  std::string unsent_;
  bool watching_ = false;  // a read is pending while a reply is made
  bool next_after_watch_ = false;
  std::string linger_buffer_;
  int64_t linger_bytes_ = 0;
};

}  // namespace chorale
