#include "tests/services/http/http_fixture.h"

#include <utility>

#include <boost/asio/write.hpp>
#include <google/protobuf/text_format.h>

#include "absl/strings/str_cat.h"
#include "rpc/convert.h"

namespace chorale {

namespace asio = boost::asio;

PlayedCall::PlayedCall(GenerateRequest request, ChunkFn on_chunk, DoneFn on_done)
    : request_(std::move(request)), on_chunk_(std::move(on_chunk)), on_done_(std::move(on_done)) {}

void PlayedCall::Chunk(const std::string& text) {
  v1::GenerateChunk chunk;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &chunk)) << text;
  on_chunk_(FromProto(std::move(chunk)));
}

void PlayedCall::ChunkOfText(std::string text) {
  on_chunk_({.text = std::move(text)});
}

void PlayedCall::Done(absl::Status status) {
  DoneFn on_done;
  {
    std::lock_guard lock(mutex_);
    on_done = std::exchange(on_done_, nullptr);
  }
  if (on_done) on_done(std::move(status));
}

void PlayedCall::Cancel() {
  {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    changed_.notify_all();
  }
  Done(absl::CancelledError("cancelled"));
}

bool PlayedCall::cancelled() const {
  std::lock_guard lock(mutex_);
  return cancelled_;
}

void PlayedCall::WaitUntilCancelled() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return cancelled_; });
}

std::shared_ptr<const ModelTable> PlayedBackend::models() const {
  ModelEntry model = {.decode_workers = 1};
  model.served.name = "m";
  model.served.folder = "no-such-folder";  // a model without a tokenizer
  model.served.context_tokens = 1000;
  model.served.vocab = 100;
  return std::make_shared<const ModelTable>(std::vector<ModelEntry>{model});
}

std::function<void()> PlayedBackend::Start(GenerateRequest request, ChunkFn on_chunk,
                                           DoneFn on_done) {
  auto call =
      std::make_shared<PlayedCall>(std::move(request), std::move(on_chunk), std::move(on_done));
  std::lock_guard lock(mutex_);
  calls_.push_back(call);
  changed_.notify_all();
  return [call] { call->Cancel(); };
}

std::shared_ptr<PlayedCall> PlayedBackend::NextCall() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !calls_.empty(); });
  auto call = calls_.front();
  calls_.pop_front();
  return call;
}

Client::Client(const std::string& address) {
  const size_t colon = address.rfind(':');
  const auto found =
      asio::ip::tcp::resolver(io_).resolve(address.substr(0, colon), address.substr(colon + 1));
  const asio::ip::tcp::endpoint endpoint = *found.begin();
  socket_.open(endpoint.protocol());
  // Small, so that a server notices soon that it is not read.
  socket_.set_option(asio::socket_base::receive_buffer_size(16 << 10));
  socket_.connect(endpoint);
}

bool Client::Send(std::string_view bytes) {
  boost::system::error_code error;
  asio::write(socket_, asio::buffer(bytes.data(), bytes.size()), error);
  return !error;
}

void Client::Post(const std::string& target, const std::string& json, const std::string& fields) {
  Send(absl::StrCat("POST ", target, " HTTP/1.1\r\nHost: h\r\n", fields,
                    "Content-Length: ", json.size(), "\r\n\r\n", json));
}

bool Client::ReadMore() {
  char bytes[4096];
  boost::system::error_code error;
  const size_t count = socket_.read_some(asio::buffer(bytes), error);
  received_.append(bytes, count);
  return !error;
}

bool Client::ReadUntil(const std::string& text) {
  while (received_.find(text) == std::string::npos) {
    if (!ReadMore()) return false;
  }
  return true;
}

std::string Client::ReadToEnd() {
  while (ReadMore()) {
  }
  return std::exchange(received_, {});
}

Response Client::Read() {
  Response response;
  if (!ReadUntil("\r\n\r\n")) return response;
  const size_t head_bytes = received_.find("\r\n\r\n") + 4;
  response.head = received_.substr(0, head_bytes);
  received_.erase(0, head_bytes);
  response.status = std::stoi(response.head.substr(9, 3));
  if (response.status == 100) return response;
  if (const size_t at = response.head.find("Content-Length: "); at != std::string::npos) {
    const size_t bytes = std::stoul(response.head.substr(at + 16));
    while (received_.size() < bytes && ReadMore()) {
    }
    response.body = received_.substr(0, bytes);
    received_.erase(0, bytes);
    return response;
  }
  while (ReadUntil("\r\n")) {  // chunks
    const size_t line = received_.find("\r\n") + 2;
    const size_t bytes = std::stoul(received_, nullptr, 16);
    while (received_.size() < line + bytes + 2 && ReadMore()) {
    }
    response.body += received_.substr(line, bytes);
    received_.erase(0, line + bytes + 2);
    if (bytes == 0) break;
  }
  return response;
}

void HttpTest::Open(HttpServerOptions options) {
  gateway_ = std::make_unique<Gateway>(Gateway::Options{}, backend_);
  auto server = HttpServer::Open(options, *gateway_);
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
}

}  // namespace chorale
