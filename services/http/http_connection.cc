#include "services/http/http_connection.h"

#include <iterator>
#include <utility>
#include <variant>
#include <vector>

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/read.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "api/http_routes.h"
#include "process/log.h"

namespace chorale {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

// What a client may send ahead (pipelining) while its reply is made.
constexpr size_t kAheadBytesMax = 64 << 10;
// Empty lines before a request line; more are a malformed request.
constexpr int kEmptyLinesMax = 8;
constexpr size_t kFirstReadBytes = 4096;
// What is read and dropped after a refusal, so that the client can finish writing and see the
// reply.
constexpr int64_t kLingerBytesMax = 256 << 20;
constexpr size_t kLingerReadBytes = 64 << 10;
constexpr int64_t kInboxBytesMax = 8 << 20;

std::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

HttpAnswer TooLarge(int64_t bytes_max) {
  return AnswerFor(413, absl::InvalidArgumentError(absl::StrFormat(
                            "the request body is larger than the limit of %d bytes; shorten the "
                            "prompt",
                            bytes_max)));
}

HttpAnswer Malformed(const boost::system::error_code& error) {
  return AnswerFor(
      absl::InvalidArgumentError(absl::StrFormat("not a valid HTTP request: %s", error.message())));
}

template <typename Head>
absl::StatusOr<Tenant> TenantOfCaller(const Head& head) {
  std::vector<std::string_view> values;
  const auto [first, last] = head.equal_range(http::field::authorization);
  for (auto it = first; it != last; ++it) values.push_back(View(it->value()));
  return TenantOf(values);
}

// Where a request ends must not be a matter of opinion between us and a proxy before us: what
// follows it would be taken for another request (RFC 9112, section 6.3).
template <typename Head>
absl::Status CheckFraming(const Head& head) {
  const auto [first, last] = head.equal_range(http::field::transfer_encoding);
  if (first == last) return absl::OkStatus();
  if (std::next(first) != last || !beast::iequals(first->value(), "chunked")) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "header 'Transfer-Encoding': '%s'%s; send 'chunked' alone, or a Content-Length",
        absl::Utf8SafeCEscape(std::string(View(first->value()).substr(0, 80))),
        std::next(first) == last ? "" : " and more"));
  }
  if (head.version() < 11 || head.count(http::field::content_length) > 0) {
    return absl::InvalidArgumentError(
        "header 'Transfer-Encoding': only in HTTP/1.1, and without a Content-Length; send one of "
        "the two");
  }
  return absl::OkStatus();
}

// The client wrote something that is no HTTP; not that it went away.
bool IsMalformed(const boost::system::error_code& error) {
  return error && error != http::error::end_of_stream && error != http::error::partial_message &&
         error.category() == http::make_error_code(http::error::bad_method).category();
}

}  // namespace

HttpConnection::HttpConnection(std::shared_ptr<asio::io_context> io, asio::ip::tcp::socket socket,
                               const Server& server)
    : io_(std::move(io)), stream_(std::move(socket)), server_(server) {
  ErrorCode ignored;  // events are small and wanted at once; slower is no reason to fail
  stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
}

void HttpConnection::Start() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] { self->ReadHeader(); });
}

void HttpConnection::CloseWhenIdle() {
  asio::post(stream_.get_executor(), [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    self->closing_ = true;
    if (self->state_ == State::kIdle) self->CloseNow();
  });
}

void HttpConnection::Close() {
  asio::post(stream_.get_executor(), [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->CloseNow();
  });
}

void HttpConnection::CloseNow() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  inbox_.reset();
  if (call_ != nullptr) std::exchange(call_, nullptr)->Cancel();
  stream_.close();
  server_.on_closed(this);
}

// ---- Reading a request ----

void HttpConnection::ReadHeader() {
  if (state_ == State::kClosed) return;
  if (closing_) return CloseNow();
  state_ = State::kIdle;
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(server_.limits.header_bytes_max));
  parser_->body_limit(static_cast<uint64_t>(server_.limits.body_bytes_max));
  stream_.expires_after(absl::ToChronoNanoseconds(server_.limits.idle_time_max));
  empty_lines_ = 0;
  AwaitRequestLine();
}

// Passes over empty lines in front of a request: some clients end a body with one too many (RFC
// 9112, section 2.2).
void HttpConnection::AwaitRequestLine() {
  const auto begins = [this] {
    return std::string_view(static_cast<const char*>(buffer_.data().data()),
                            std::min<size_t>(buffer_.size(), 2));
  };
  for (; empty_lines_ < kEmptyLinesMax && begins() == "\r\n"; ++empty_lines_) buffer_.consume(2);
  if (begins() != "" && begins() != "\r") {
    http::async_read_header(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](ErrorCode error, size_t) { self->OnHeader(error); });
    return;
  }
  stream_.async_read_some(buffer_.prepare(kFirstReadBytes),
                          [self = shared_from_this()](ErrorCode error, size_t bytes) {
                            if (self->state_ == State::kClosed) return;
                            if (error) return self->CloseNow();
                            self->buffer_.commit(bytes);
                            self->AwaitRequestLine();
                          });
}

void HttpConnection::OnHeader(ErrorCode error) {
  if (state_ == State::kClosed) return;
  const auto& head = parser_->get();
  state_ = State::kBody;
  framing_ = {.version = head.version() >= 11 ? 11 : 10,
              .keep_alive = !error && head.keep_alive() && !closing_,
              .request_id = RequestIdFrom(View(head["X-Request-Id"]))};
  head_only_ = head.method() == http::verb::head;
  if (error == http::error::body_limit) return Refuse(TooLarge(server_.limits.body_bytes_max));
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return Refuse(AnswerFor(431, absl::InvalidArgumentError(absl::StrFormat(
                                     "the request header is larger than the limit of %d bytes",
                                     server_.limits.header_bytes_max))));
  }
  if (IsMalformed(error)) return Refuse(Malformed(error));
  if (error) return CloseNow();
  if (const absl::Status framing = CheckFraming(head); !framing.ok()) {
    return Refuse(AnswerFor(framing));
  }
  stream_.expires_after(absl::ToChronoNanoseconds(server_.limits.body_time_max));
  if (!beast::iequals(head[http::field::expect], "100-continue")) return ReadBody();
  static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
  asio::async_write(stream_, asio::buffer(kContinue.data(), kContinue.size()),
                    [self = shared_from_this()](ErrorCode error, size_t) {
                      if (error) return self->CloseNow();
                      self->ReadBody();
                    });
}

void HttpConnection::ReadBody() {
  if (state_ == State::kClosed) return;
  http::async_read(stream_, buffer_, *parser_,
                   [self = shared_from_this()](ErrorCode error, size_t) {
                     if (self->state_ == State::kClosed) return;
                     if (error) return self->OnBodyError(error);
                     self->OnRequest();
                   });
}

void HttpConnection::OnBodyError(ErrorCode error) {
  if (error == http::error::body_limit) return Refuse(TooLarge(server_.limits.body_bytes_max));
  if (IsMalformed(error)) return Refuse(Malformed(error));
  CloseNow();
}

void HttpConnection::OnRequest() {
  state_ = State::kReplying;
  const auto& head = parser_->get();
  const RouteView view = {.models = server_.gateway.models(),
                          .started_seconds = server_.started_seconds,
                          .draining = closing_};
  const auto route = RouteRequest(View(head.method_string()), View(head.target()), view);
  if (const auto* answer = std::get_if<HttpAnswer>(&route)) return SendAnswer(*answer);
  StartCall(std::get<OpenAiEndpoint>(route));
}

void HttpConnection::Refuse(const HttpAnswer& answer) {
  state_ = State::kReplying;
  framing_.keep_alive = false;
  lingers_ = true;
  SendAnswer(answer);
}

void HttpConnection::SendAnswer(const HttpAnswer& answer) {
  reply_complete_ = true;
  Send(AnswerText(answer, framing_, head_only_));
}

// ---- Generating ----

void HttpConnection::StartCall(OpenAiEndpoint endpoint) {
  absl::StatusOr<Tenant> tenant = TenantOfCaller(parser_->get());
  if (!tenant.ok()) {
    HttpAnswer answer = AnswerFor(tenant.status());
    answer.fields.emplace_back("WWW-Authenticate", "Bearer");
    return SendAnswer(answer);
  }
  absl::StatusOr<OpenAiRequest> request = ParseOpenAiRequest(endpoint, parser_->get().body());
  if (!request.ok()) return SendAnswer(AnswerFor(request.status()));
  parser_.reset();  // its body is no longer needed
  CompletionRequest& completion = request->completion;
  if (completion.model.empty()) {
    const std::shared_ptr<const ModelTable> models = server_.gateway.models();
    if (models->size() == 1) completion.model = models->begin()->served.name;
  }
  const bool chat = endpoint == OpenAiEndpoint::kChatCompletions;
  ReplyHead head = {.endpoint = endpoint,
                    .id = (chat ? "chatcmpl-" : "cmpl-") + NewId(),
                    .model = completion.model,
                    .created_seconds = absl::ToUnixSeconds(absl::Now()),
                    .logprobs = completion.sampling.logprobs.has_value()};
  stream_begun_ = false;
  if (request->stream) {
    events_.emplace(std::move(head), request->include_usage);
  } else {
    reply_bytes_ = 0;
    completion_.emplace(std::move(head), completion.n);
  }
  inbox_ = std::make_shared<CallInbox>(kInboxBytesMax);
  // Another thread may hold the last reference for a moment; the strand may not keep one in its
  // queue, which nobody would empty after the server's threads have ended.
  const auto wake = [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    asio::post(self->stream_.get_executor(), [weak] {
      if (const auto self = weak.lock()) self->OnInbox();
    });
  };
  call_ = server_.gateway.Start(
      std::move(completion), *std::move(tenant), absl::Now() + server_.limits.request_time_max,
      [inbox = inbox_, wake](CompletionChunk chunk) {
        if (inbox->Push(std::move(chunk))) wake();
      },
      [inbox = inbox_, wake](absl::Status status) {
        if (inbox->End(std::move(status))) wake();
      });
  WatchClient();
}

void HttpConnection::OnInbox() {
  if (state_ != State::kReplying || inbox_ == nullptr) return;
  const CallInbox::Contents contents = inbox_->Take();
  if (contents.overflowed) {
    LogWarning("http request ", framing_.request_id, ": chunks come faster than they are sent");
    return CloseNow();
  }
  for (const CompletionChunk& chunk : contents.chunks) {
    OnChunk(chunk);
    if (state_ != State::kReplying || inbox_ == nullptr) return;  // the chunk ended the call
  }
  if (contents.end) OnCallEnd(*contents.end);
}

void HttpConnection::OnChunk(const CompletionChunk& chunk) {
  if (completion_) {
    completion_->Add(chunk);
    reply_bytes_ += BytesOf(chunk);
    if (reply_bytes_ <= server_.limits.reply_bytes_max) return;
    call_->Cancel();
    return OnCallEnd(absl::ResourceExhaustedError(
        "the reply grows too long to be sent whole: ask for \"stream\": true, or for fewer of "
        "max_tokens, n and top_logprobs"));
  }
  SendEvents(events_->Events(chunk));
  if (static_cast<int64_t>(sending_.size() + unsent_.size()) > server_.limits.unsent_bytes_max) {
    LogWarning("http request ", framing_.request_id, ": the client does not read its stream, ",
               sending_.size() + unsent_.size(), " bytes are waiting; closed");
    CloseNow();
  }
}

void HttpConnection::OnCallEnd(const absl::Status& status) {
  call_.reset();
  inbox_.reset();
  if (!status.ok() && !stream_begun_) {
    SendAnswer(AnswerFor(status));
  } else if (completion_) {
    SendAnswer({.body = completion_->Body()});
  } else {
    reply_complete_ = true;
    if (!status.ok()) framing_.keep_alive = false;
    SendEvents(status.ok() ? events_->End() : ErrorEvent(status));
    if (state_ != State::kClosed) Send(EventStreamEnd(framing_));
  }
  completion_.reset();
  events_.reset();
}

void HttpConnection::SendEvents(const std::string& events) {
  if (events.empty()) return;
  std::string bytes;
  if (!stream_begun_) {
    if (framing_.version == 10) framing_.keep_alive = false;  // the end of the connection ends it
    bytes = EventStreamHead(framing_);
    stream_begun_ = true;
  }
  Send(bytes + EventStreamPart(events, framing_));
}

// ---- Sending ----

// Waits for bytes of a next request, or for the client to go away, while a reply is made.
void HttpConnection::WatchClient() {
  if (watching_ || state_ != State::kReplying || buffer_.size() >= kAheadBytesMax) return;
  watching_ = true;
  stream_.expires_never();  // of the read only, if a write is pending
  stream_.async_read_some(buffer_.prepare(kAheadBytesMax - buffer_.size()),
                          [self = shared_from_this()](ErrorCode error, size_t bytes) {
                            self->OnClientBytes(error, bytes);
                          });
}

void HttpConnection::OnClientBytes(ErrorCode error, size_t bytes) {
  watching_ = false;
  if (state_ == State::kClosed) return;
  buffer_.commit(bytes);
  if (error && !(next_after_watch_ && error == asio::error::operation_aborted)) return CloseNow();
  if (std::exchange(next_after_watch_, false)) return ReadHeader();
  if (buffer_.size() >= kAheadBytesMax) {  // unread, it could leave without our noticing
    LogWarning("http request ", framing_.request_id, ": the client sends on before its reply, ",
               buffer_.size(), " bytes; closed");
    return CloseNow();
  }
  WatchClient();
}

void HttpConnection::Send(std::string bytes) {
  unsent_ += bytes;
  if (sending_.empty() && !unsent_.empty()) Flush();
}

void HttpConnection::Flush() {
  sending_.swap(unsent_);
  stream_.expires_after(absl::ToChronoNanoseconds(server_.limits.write_time_max));
  asio::async_write(stream_, asio::buffer(sending_),
                    [self = shared_from_this()](ErrorCode error, size_t) { self->OnSent(error); });
}

void HttpConnection::OnSent(ErrorCode error) {
  if (state_ == State::kClosed) return;
  sending_.clear();
  if (error) return CloseNow();
  if (!unsent_.empty()) return Flush();
  if (reply_complete_) OnReplySent();
}

void HttpConnection::OnReplySent() {
  reply_complete_ = false;
  if (lingers_) return Linger();
  if (!framing_.keep_alive || closing_) {
    ErrorCode ignored;  // the client may have gone already
    stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
    return CloseNow();
  }
  if (!watching_) return ReadHeader();
  next_after_watch_ = true;
  stream_.cancel();
}

// A socket that is closed with unread bytes resets the connection, and the client may lose the
// reply. So what it still sends is read and dropped for a while.
void HttpConnection::Linger() {
  state_ = State::kLingering;
  ErrorCode ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  stream_.expires_after(absl::ToChronoNanoseconds(server_.limits.linger_time_max));
  linger_buffer_.resize(kLingerReadBytes);
  ReadOn();
}

void HttpConnection::ReadOn() {
  stream_.async_read_some(asio::buffer(linger_buffer_),
                          [self = shared_from_this()](ErrorCode error, size_t bytes) {
                            if (self->state_ == State::kClosed) return;
                            self->linger_bytes_ += static_cast<int64_t>(bytes);
                            if (error || self->linger_bytes_ > kLingerBytesMax) {
                              return self->CloseNow();
                            }
                            self->ReadOn();
                          });
}

}  // namespace chorale
