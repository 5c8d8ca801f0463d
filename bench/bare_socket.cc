#include "bench/bare_socket.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace chorale::bench {
namespace {

constexpr size_t kChunkBytes = 1 << 20;  // of one send

// unix:PATH, or 127.0.0.1:PORT.
struct SocketAddress {
  explicit SocketAddress(const std::string& address) {
    if (absl::StartsWith(address, "unix:")) {
      const std::string path = address.substr(std::strlen("unix:"));
      auto& to = reinterpret_cast<sockaddr_un&>(storage);
      to.sun_family = AF_UNIX;
      CHECK_LT(path.size(), sizeof(to.sun_path)) << path;
      std::copy(path.begin(), path.end(), to.sun_path);
      size = sizeof(sockaddr_un);
      return;
    }
    int port = 0;
    CHECK(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port)) << address;
    auto& to = reinterpret_cast<sockaddr_in&>(storage);
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(static_cast<uint16_t>(port));
    size = sizeof(sockaddr_in);
  }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }

  sockaddr_storage storage = {};
  socklen_t size = 0;
};

FileDescriptor OpenSocket(const SocketAddress& address) {
  FileDescriptor socket(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(socket.ok()) << std::strerror(errno);
  return socket;
}

void SendAll(int socket, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent =
        send(socket, bytes.data(), std::min(bytes.size(), kChunkBytes), MSG_NOSIGNAL);
    if (sent <= 0) return;  // the receiver sees what it lacks
    bytes = bytes.subspan(static_cast<size_t>(sent));
  }
}

void ReceiveAll(int socket, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t received = recv(socket, to.data(), to.size(), 0);
    CHECK_GT(received, 0) << "the sender has ended";
    to = to.subspan(static_cast<size_t>(received));
  }
}

struct Range {
  int64_t offset = 0;
  int64_t bytes = 0;
};

}  // namespace

BareSender::BareSender(const std::string& address, std::span<const std::byte> bytes)
    : bytes_(bytes), address_(address) {
  SocketAddress at(address);
  listener_ = OpenSocket(at);
  CHECK_EQ(bind(listener_.get(), at.get(), at.size), 0) << address << ": " << std::strerror(errno);
  CHECK_EQ(listen(listener_.get(), SOMAXCONN), 0) << std::strerror(errno);
  if (at.storage.ss_family == AF_INET) {
    CHECK_EQ(getsockname(listener_.get(), at.get(), &at.size), 0);
    address_ =
        absl::StrCat("127.0.0.1:", ntohs(reinterpret_cast<sockaddr_in&>(at.storage).sin_port));
  }
  thread_ = std::thread([this] { Accept(); });
}

BareSender::~BareSender() {
  shutdown(listener_.get(), SHUT_RDWR);
  thread_.join();
}

void BareSender::Accept() {
  std::vector<std::thread> threads;
  for (;;) {
    FileDescriptor socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.ok()) break;
    threads.emplace_back([this, socket = std::move(socket)] {
      Range range;
      if (recv(socket.get(), &range, sizeof(range), MSG_WAITALL) != sizeof(range)) return;
      SendAll(socket.get(),
              bytes_.subspan(static_cast<size_t>(range.offset), static_cast<size_t>(range.bytes)));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

BareReceiver::BareReceiver(const std::string& address, int64_t offset, int64_t bytes) {
  SocketAddress to(address);
  socket_ = OpenSocket(to);
  CHECK_EQ(connect(socket_.get(), to.get(), to.size), 0) << address << ": " << std::strerror(errno);
  const Range range = {.offset = offset, .bytes = bytes};
  SendAll(socket_.get(), std::as_bytes(std::span(&range, 1)));
}

void BareReceiver::Read(std::span<std::byte> to) { ReceiveAll(socket_.get(), to); }

}  // namespace chorale::bench
