#include "tests/e2e/flip_proxy.h"

#include <vector>

#include <arpa/inet.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"

namespace chorale {
namespace {

// "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
constexpr size_t kPrefaceBytes = 24;
constexpr uint8_t kDataFrame = 0;
// Room for all that precedes the payload of a message: at most 64 pieces and a name.
constexpr uint32_t kHeaderBytesMax = 4096;

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

// Not open when nobody listens at `target`.
FileDescriptor Connect(const std::string& target) {
  sockaddr_storage address{};
  socklen_t bytes = 0;
  if (absl::StartsWith(target, "unix:")) {
    auto& un = reinterpret_cast<sockaddr_un&>(address);
    un.sun_family = AF_UNIX;
    CHECK_LT(target.size() - 5, sizeof(un.sun_path));
    target.copy(un.sun_path, sizeof(un.sun_path) - 1, 5);
    bytes = sizeof(un);
  } else {
    int port = 0;
    CHECK(absl::SimpleAtoi(target.substr(target.rfind(':') + 1), &port)) << target;
    reinterpret_cast<sockaddr_in&>(address) = Loopback(port);
    bytes = sizeof(sockaddr_in);
  }
  FileDescriptor fd(socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), bytes) != 0) return {};
  return fd;
}

}  // namespace

FlipProxy::FlipProxy()
    : listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), stop_(eventfd(0, EFD_CLOEXEC)) {
  sockaddr_in address = Loopback(0);
  socklen_t bytes = sizeof(address);
  CHECK_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), bytes), 0);
  CHECK_EQ(listen(listener_.get(), 16), 0);
  CHECK_EQ(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &bytes), 0);
  address_ = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  thread_ = std::thread([this] { Run(); });
}

FlipProxy::~FlipProxy() {
  eventfd_write(stop_.get(), 1);
  thread_.join();
}

void FlipProxy::Forward(const std::string& target) {
  std::lock_guard lock(mutex_);
  target_ = target;
}

void FlipProxy::FlipNext(Toward toward, uint64_t seed) {
  std::lock_guard lock(mutex_);
  armed_ = true;
  toward_ = toward;
  seed_ = seed;
}

void FlipProxy::Run() {
  while (true) {
    std::vector<pollfd> polled = {{stop_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    std::vector<std::pair<Connection*, Flow*>> flows;
    for (Connection& connection : connections_) {
      for (Flow& flow : connection.flows) {
        polled.push_back({flow.from, POLLIN, 0});
        flows.emplace_back(&connection, &flow);
      }
    }
    CHECK_GT(poll(polled.data(), polled.size(), -1), 0);
    if (polled[0].revents != 0) return;
    for (size_t i = 0; i < flows.size(); ++i) {
      auto& [connection, flow] = flows[i];
      if (polled[i + 2].revents != 0 && connection->open) connection->open = Pump(*flow);
    }
    connections_.remove_if([](const Connection& connection) { return !connection.open; });
    if (polled[1].revents != 0) Accept();
  }
}

void FlipProxy::Accept() {
  FileDescriptor client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  std::string target;
  {
    std::lock_guard lock(mutex_);
    target = target_;
  }
  if (!client.ok() || target.empty()) return;
  FileDescriptor server = Connect(target);
  if (!server.ok()) return;
  Connection& connection = connections_.emplace_back();
  connection.flows[0] = {.toward = Toward::kServer,
                         .from = client.get(),
                         .to = server.get(),
                         .preface_left = kPrefaceBytes};
  connection.flows[1] = {.toward = Toward::kClient, .from = server.get(), .to = client.get()};
  connection.client = std::move(client);
  connection.server = std::move(server);
}

// False: one side has closed.
bool FlipProxy::Pump(Flow& flow) {
  std::array<uint8_t, 65536> bytes;
  const ssize_t count = read(flow.from, bytes.data(), bytes.size());
  if (count <= 0) return false;
  Follow(flow, {bytes.data(), static_cast<size_t>(count)});
  for (ssize_t sent = 0; sent < count;) {
    const ssize_t n = send(flow.to, bytes.data() + sent, count - sent, MSG_NOSIGNAL);
    if (n <= 0) return false;
    sent += n;
  }
  return true;
}

// RFC 9113, section 4.1: 24 bits of length, 8 of type, 8 of flags, 32 of stream.
void FlipProxy::Follow(Flow& flow, std::span<uint8_t> bytes) {
  for (uint8_t& byte : bytes) {
    if (flow.preface_left > 0) {
      --flow.preface_left;
    } else if (flow.frame_head_bytes < flow.frame_head.size()) {
      const auto& head = flow.frame_head;
      flow.frame_head[flow.frame_head_bytes++] = byte;
      if (flow.frame_head_bytes < head.size()) continue;
      flow.frame_left = head[0] << 16 | head[1] << 8 | head[2];
      if (flow.frame_left == 0) flow.frame_head_bytes = 0;
    } else {
      if (flow.frame_head[3] == kDataFrame) FollowData(flow, byte);
      if (--flow.frame_left == 0) flow.frame_head_bytes = 0;
    }
  }
}

// gRPC's messages: 8 bits that say whether it is compressed, 32 of length, the message.
void FlipProxy::FollowData(Flow& flow, uint8_t& byte) {
  const auto& head = flow.frame_head;
  Flow::Message& message =
      flow.messages[(head[5] & 0x7f) << 24 | head[6] << 16 | head[7] << 8 | head[8]];
  auto& prefix = message.prefix;
  const auto length = [&] {
    return prefix[1] << 24 | prefix[2] << 16 | prefix[3] << 8 | prefix[4];
  };
  if (message.prefix_bytes < prefix.size()) {
    prefix[message.prefix_bytes++] = byte;
    if (message.prefix_bytes < prefix.size()) return;
    const uint32_t bytes = length();
    message.at = 0;
    message.flip_at = 0;
    if (bytes == 0) message.prefix_bytes = 0;
    std::lock_guard lock(mutex_);
    if (!armed_ || flow.toward != toward_ || bytes < kMessageBytesMin) return;
    armed_ = false;
    message.flip_at = kHeaderBytesMax + RandomBits(seed_, 0, 0) % (bytes - kHeaderBytesMax);
    return;
  }
  if (message.flip_at != 0 && message.at == message.flip_at) {
    std::lock_guard lock(mutex_);
    byte ^= static_cast<uint8_t>(1 << RandomBits(seed_, 0, 1) % 8);
    ++flips_;
  }
  if (++message.at == static_cast<uint32_t>(length())) message.prefix_bytes = 0;
}

}  // namespace chorale
