#include "services/http/http_server.h"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "api/http_head.h"
#include "process/log.h"

namespace chorale {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

// How long to wait after accept has failed, mostly for want of file descriptors.
constexpr std::chrono::milliseconds kAcceptPause{100};

absl::Status CannotListen(const std::string& address, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrFormat(
      "--http %s: cannot listen there: %s; write host:port, port 0 picks one", address, why));
}

absl::StatusOr<tcp::endpoint> Resolve(asio::io_context& io, const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return CannotListen(address, "there is no port");
  std::string host = address.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  ErrorCode error;
  const auto found =
      tcp::resolver(io).resolve(host, address.substr(colon + 1), tcp::resolver::passive, error);
  if (error || found.empty()) return CannotListen(address, error.message());
  return found.begin()->endpoint();
}

std::string AddressOf(const tcp::endpoint& endpoint) {
  const std::string host = endpoint.address().to_string();
  return absl::StrCat(endpoint.address().is_v6() ? "[" + host + "]" : host, ":", endpoint.port());
}

}  // namespace

struct HttpServer::State {
  State(const HttpServerOptions& options, Gateway& gateway)
      : options(options),
        connection_server{.limits = options.limits,
                          .gateway = gateway,
                          .started_seconds = absl::ToUnixSeconds(absl::Now()),
                          .on_closed = [this](HttpConnection* c) { OnClosed(c); }} {}

  absl::Status Listen();
  void Accept();
  void OnAccept(ErrorCode error, tcp::socket socket);
  void Refuse(tcp::socket socket);
  void OnClosed(HttpConnection* connection);
  void StopAccepting();
  void Stop();
  // True when none was left at `deadline`.
  bool WaitUntilClosed(absl::Time deadline);
  std::vector<std::shared_ptr<HttpConnection>> Connections();

  const HttpServerOptions options;
  const HttpConnection::Server connection_server;
  // Shared with the connections: a call that ends late may hold one after the server is gone.
  const std::shared_ptr<asio::io_context> io = std::make_shared<asio::io_context>();
  asio::executor_work_guard<asio::io_context::executor_type> work{io->get_executor()};
  asio::strand<asio::io_context::executor_type> accept_strand{io->get_executor()};
  tcp::acceptor acceptor{accept_strand};           // on accept_strand once it listens
  asio::steady_timer accept_pause{accept_strand};  // on accept_strand
  std::string address;
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::condition_variable closed;
  absl::flat_hash_map<HttpConnection*, std::shared_ptr<HttpConnection>> connections;  // under mutex
  bool stopping = false;                                                              // under mutex
};

absl::Status HttpServer::State::Listen() {
  absl::StatusOr<tcp::endpoint> endpoint = Resolve(*io, options.address);
  if (!endpoint.ok()) return endpoint.status();
  ErrorCode error;
  acceptor.open(endpoint->protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(*endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return CannotListen(options.address, error.message());
  address = AddressOf(acceptor.local_endpoint(error));
  if (error) return CannotListen(options.address, error.message());
  return absl::OkStatus();
}

void HttpServer::State::Accept() {
  acceptor.async_accept(asio::make_strand(*io),
                        asio::bind_executor(accept_strand, [this](ErrorCode error, auto socket) {
                          OnAccept(error, tcp::socket(std::move(socket)));
                        }));
}

void HttpServer::State::OnAccept(ErrorCode error, tcp::socket socket) {
  if (!acceptor.is_open()) return;
  if (error) {
    LogWarning("http: a connection cannot be accepted: ", error.message());
    accept_pause.expires_after(kAcceptPause);
    accept_pause.async_wait([this](ErrorCode) {
      if (acceptor.is_open()) Accept();
    });
    return;
  }
  std::shared_ptr<HttpConnection> connection;
  {
    std::lock_guard lock(mutex);
    if (stopping) return;
    if (static_cast<int>(connections.size()) < options.connections_max) {
      connection = std::make_shared<HttpConnection>(io, std::move(socket), connection_server);
      connections.emplace(connection.get(), connection);
    }
  }
  if (connection != nullptr) {
    connection->Start();
  } else {
    Refuse(std::move(socket));
  }
  Accept();
}

// Tries once, without waiting: whoever is refused for want of room may not take up any.
void HttpServer::State::Refuse(tcp::socket socket) {
  const std::string text =
      AnswerText(AnswerFor(absl::UnavailableError(absl::StrFormat(
                     "all %d connections are in use, try again soon", options.connections_max))),
                 {.keep_alive = false, .request_id = NewId()}, /*head_only=*/false);
  ErrorCode ignored;
  socket.non_blocking(true, ignored);
  socket.write_some(asio::buffer(text), ignored);
  socket.shutdown(tcp::socket::shutdown_send, ignored);
}

void HttpServer::State::OnClosed(HttpConnection* connection) {
  std::lock_guard lock(mutex);
  connections.erase(connection);
  closed.notify_all();
}

void HttpServer::State::StopAccepting() {
  {
    std::lock_guard lock(mutex);
    stopping = true;
  }
  asio::post(accept_strand, [this] {
    ErrorCode ignored;
    acceptor.close(ignored);
    accept_pause.cancel();
  });
}

std::vector<std::shared_ptr<HttpConnection>> HttpServer::State::Connections() {
  std::lock_guard lock(mutex);
  std::vector<std::shared_ptr<HttpConnection>> all;
  for (const auto& [key, connection] : connections) all.push_back(connection);
  return all;
}

bool HttpServer::State::WaitUntilClosed(absl::Time deadline) {
  std::unique_lock lock(mutex);
  const auto none = [this] { return connections.empty(); };
  if (deadline == absl::InfiniteFuture()) {
    closed.wait(lock, none);
    return true;
  }
  return closed.wait_until(lock, absl::ToChronoTime(deadline), none);
}

void HttpServer::State::Stop() {
  StopAccepting();
  for (const auto& connection : Connections()) connection->Close();
  WaitUntilClosed(absl::InfiniteFuture());
  work.reset();
  for (std::thread& thread : threads) thread.join();
}

HttpServer::HttpServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

HttpServer::~HttpServer() { state_->Stop(); }

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Open(const HttpServerOptions& options,
                                                             Gateway& gateway) {
  auto state = std::make_unique<State>(options, gateway);
  if (absl::Status status = state->Listen(); !status.ok()) return status;
  state->Accept();
  for (int i = 0; i < options.threads; ++i) {
    state->threads.emplace_back([io = state->io.get()] { io->run(); });
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(state)));
}

const std::string& HttpServer::address() const { return state_->address; }

void HttpServer::Drain(absl::Time deadline) {
  state_->StopAccepting();
  for (const auto& connection : state_->Connections()) connection->CloseWhenIdle();
  if (state_->WaitUntilClosed(deadline)) return;
  for (const auto& connection : state_->Connections()) connection->Close();
  state_->WaitUntilClosed(absl::InfiniteFuture());
}

}  // namespace chorale
