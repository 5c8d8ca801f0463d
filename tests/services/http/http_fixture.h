// What the tests of the HTTP server share: a backend that the test plays itself, and a client that
// sees the bytes.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <gtest/gtest.h>

#include "services/gateway/gateway.h"
#include "services/http/http_server.h"

namespace chorale {

// A call that reached the backend; the test says what it answers.
class PlayedCall {
 public:
  PlayedCall(GenerateRequest request, ChunkFn on_chunk, DoneFn on_done);

  const GenerateRequest& request() const { return request_; }
  // A chunk in protobuf's text format.
  void Chunk(const std::string& text);
  void ChunkOfText(std::string text);
  // Once; after a cancellation it has no effect.
  void Done(absl::Status status);
  void Cancel();
  bool cancelled() const;
  void WaitUntilCancelled();

 private:
  const GenerateRequest request_;
  const ChunkFn on_chunk_;
  DoneFn on_done_;  // under mutex_; null once it was called
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool cancelled_ = false;  // under mutex_
};

// Serves one model "m" with token ids 0 to 99.
class PlayedBackend : public Backend {
 public:
  std::shared_ptr<const ModelTable> models() const override;
  std::function<void()> Start(GenerateRequest request, ChunkFn on_chunk, DoneFn on_done) override;
  // Waits for the next call.
  std::shared_ptr<PlayedCall> NextCall();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<PlayedCall>> calls_;  // under mutex_
};

struct Response {
  int status = 0;
  std::string head;  // with the empty line
  std::string body;  // chunked ones put together
};

// A blocking connection.
class Client {
 public:
  explicit Client(const std::string& address);

  // False when the server has closed the connection.
  bool Send(std::string_view bytes);
  void Get(const std::string& target) { Send("GET " + target + " HTTP/1.1\r\nHost: h\r\n\r\n"); }
  void Post(const std::string& target, const std::string& json, const std::string& fields = "");
  // Reads one whole response.
  Response Read();
  // Reads until the bytes so far contain `text`; false at the end of the connection.
  bool ReadUntil(const std::string& text);
  // What is left until the server ends the connection.
  std::string ReadToEnd();
  void Close() { socket_.close(); }

 private:
  bool ReadMore();

  boost::asio::io_context io_;
  boost::asio::ip::tcp::socket socket_{io_};
  std::string received_;
};

class HttpTest : public testing::Test {
 protected:
  void Open(HttpServerOptions options = {});

  PlayedBackend backend_;
  std::unique_ptr<Gateway> gateway_;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace chorale
