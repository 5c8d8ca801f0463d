#include "rpc/blocks/shared_region.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

constexpr std::string_view kScheme = "unix-abstract:";
constexpr size_t kHugePageBytes = 2 << 20;
constexpr int kPeersWaitingMax = 64;
constexpr timeval kPeerTimeout = {.tv_sec = 1, .tv_usec = 0};
// Linux has them; the C library's headers of Debian 12 may not.
constexpr int kPopulateWrite = 23;      // MADV_POPULATE_WRITE
constexpr int kSealFutureWrite = 0x10;  // F_SEAL_FUTURE_WRITE

// What a server says beside the descriptor.
struct Greeting {
  std::array<char, 8> magic = {'c', 'h', 'o', 'r', 'a', 'l', 'k', 'v'};
  int64_t bytes = 0;
};

std::string ErrnoText() { return std::strerror(errno); }

// An abstract name begins with a zero byte and has no end mark.
absl::StatusOr<socklen_t> SocketAddress(std::string_view address, sockaddr_un& out) {
  out = {};
  out.sun_family = AF_UNIX;
  const bool named = address.starts_with(kScheme) && address.size() > kScheme.size();
  const std::string_view name = named ? address.substr(kScheme.size()) : "";
  if (!named || name.size() > sizeof(out.sun_path) - 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("shared region '%s': expected %sNAME", address, kScheme));
  }
  std::memcpy(out.sun_path + 1, name.data(), name.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

bool IsOurUser(int socket) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

absl::Status NotServed(const std::string& address, std::string_view why) {
  return absl::UnavailableError(absl::StrFormat("shared region '%s': %s", address, why));
}

// One greeting with its descriptor.
absl::StatusOr<FileDescriptor> Receive(int socket, const std::string& address, int64_t& bytes) {
  Greeting greeting;
  iovec data = {&greeting, sizeof(greeting)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control;
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (received < 0) return NotServed(address, ErrnoText());
  FileDescriptor region;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    // There may be more than one; what is replaced is closed.
    for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= part->cmsg_len; at += sizeof(int)) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + at, sizeof(fd));
      region = FileDescriptor(fd);
    }
  }
  if (received != sizeof(greeting) || !region.ok() || greeting.magic != Greeting{}.magic ||
      greeting.bytes <= 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("shared region '%s': its server says something else", address));
  }
  bytes = greeting.bytes;
  return region;
}

// A region that cannot become shorter than it is while we read it.
absl::Status CheckSealed(int fd, int64_t bytes, const std::string& address) {
  const int seals = fcntl(fd, F_GET_SEALS);
  struct stat status = {};
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(fd, &status) != 0 ||
      status.st_size != bytes) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "shared region '%s': not sealed at its %d bytes, so reading it could end this process",
        address, bytes));
  }
  return absl::OkStatus();
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) close(fd_);
}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Mapping::Mapping(Mapping&& other) noexcept
    : reserved_(std::exchange(other.reserved_, {})), bytes_(std::exchange(other.bytes_, {})) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(reserved_, other.reserved_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Mapping::~Mapping() {
  if (!reserved_.empty()) munmap(reserved_.data(), reserved_.size());
}

absl::StatusOr<Mapping> Mapping::Of(int fd, size_t bytes, bool writable) {
  // Addresses first, with room to begin at a huge page; then the file over them.
  Mapping mapping;
  const size_t reserved_bytes = bytes + kHugePageBytes;
  void* const reserved =
      mmap(nullptr, reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("no addresses for %d bytes of shared memory: %s", bytes, ErrnoText()));
  }
  mapping.reserved_ = {static_cast<std::byte*>(reserved), reserved_bytes};
  const uintptr_t first = reinterpret_cast<uintptr_t>(reserved);
  const uintptr_t aligned = (first + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  void* const mapped =
      mmap(reinterpret_cast<void*>(aligned), bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ,
           MAP_SHARED | MAP_FIXED, fd, 0);
  if (mapped == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("cannot map %d bytes of shared memory: %s", bytes, ErrnoText()));
  }
  madvise(mapped, bytes, MADV_HUGEPAGE);  // a wish
  mapping.bytes_ = {static_cast<std::byte*>(mapped), bytes};
  return mapping;
}

absl::StatusOr<std::unique_ptr<SharedRegion>> SharedRegion::Create(int64_t bytes) {
  CHECK_GT(bytes, 0);
  FileDescriptor fd(memfd_create("chorale-kv", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.ok() || ftruncate(fd.get(), bytes) != 0) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("no shared memory of %d bytes: %s", bytes, ErrnoText()));
  }
  ASSIGN_OR_RETURN(Mapping mapping, Mapping::Of(fd.get(), static_cast<size_t>(bytes), true));
  // All memory now, or an error; later it would be a SIGBUS. Through the mapping, which wishes for
  // huge pages; an older kernel fills the file with small ones.
  if (madvise(mapping.bytes().data(), mapping.bytes().size(), kPopulateWrite) != 0 &&
      (errno != EINVAL || fallocate(fd.get(), 0, 0, bytes) != 0)) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("no shared memory of %d bytes: %s; use less, or allow this process more",
                        bytes, ErrnoText()));
  }
  // Nobody else may write, not even by opening our descriptor anew; older kernels lack that seal.
  fcntl(fd.get(), F_ADD_SEALS, kSealFutureWrite);
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("cannot seal %d bytes of shared memory: %s", bytes, ErrnoText()));
  }
  return std::unique_ptr<SharedRegion>(new SharedRegion(std::move(fd), std::move(mapping)));
}

absl::StatusOr<std::unique_ptr<RegionServer>> RegionServer::Start(const SharedRegion& region) {
  std::array<char, 16> id;
  CHECK_EQ(getrandom(id.data(), id.size(), 0), static_cast<ssize_t>(id.size()));
  std::unique_ptr<RegionServer> server(new RegionServer);
  server->address_ = absl::StrCat(absl::string_view(kScheme.data(), kScheme.size()), "chorale-kv-",
                                  absl::BytesToHexString({id.data(), id.size()}));
  server->region_bytes_ = static_cast<int64_t>(region.bytes().size());
  server->region_ = FileDescriptor(
      open(absl::StrCat("/proc/self/fd/", region.fd()).c_str(), O_RDONLY | O_CLOEXEC));
  server->stop_ = FileDescriptor(eventfd(0, EFD_CLOEXEC));
  server->listener_ =
      FileDescriptor(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address;
  ASSIGN_OR_RETURN(const socklen_t size, SocketAddress(server->address_, address));
  if (!server->region_.ok() || !server->stop_.ok() || !server->listener_.ok() ||
      bind(server->listener_.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      listen(server->listener_.get(), kPeersWaitingMax) != 0) {
    return NotServed(server->address_, ErrnoText());
  }
  server->thread_ = std::thread([server = server.get()] { server->Serve(); });
  return server;
}

RegionServer::~RegionServer() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  CHECK_EQ(write(stop_.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  thread_.join();
}

void RegionServer::Serve() {
  while (true) {
    std::array<pollfd, 2> events = {
        {{.fd = listener_.get(), .events = POLLIN}, {.fd = stop_.get(), .events = POLLIN}}};
    if (poll(events.data(), events.size(), -1) < 0) {
      CHECK_EQ(errno, EINTR);
      continue;
    }
    if (events[1].revents != 0) return;
    const FileDescriptor peer(
        accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (peer.ok()) {
      Greet(peer.get());
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      // The peer stays in the queue: without a pause we would spin until somebody closes a file.
      poll(&events[1], 1, 100);
    }
  }
}

// The greeting fits in an empty socket, and the descriptor travels in it after we have closed: a
// peer that hangs or is gone costs nothing.
void RegionServer::Greet(int peer) {
  if (!IsOurUser(peer)) return;
  Greeting greeting = {.bytes = region_bytes_};
  iovec data = {&greeting, sizeof(greeting)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof(int));
  const int fd = region_.get();
  std::memcpy(CMSG_DATA(part), &fd, sizeof(fd));
  sendmsg(peer, &message, MSG_NOSIGNAL | MSG_DONTWAIT);  // a peer that got nothing sends bytes
}

absl::StatusOr<std::unique_ptr<MappedRegion>> MappedRegion::Open(const std::string& address) {
  sockaddr_un server;
  ASSIGN_OR_RETURN(const socklen_t size, SocketAddress(address, server));
  const FileDescriptor connection(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // The timeouts hold for connecting and for the answer.
  if (!connection.ok() ||
      setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &kPeerTimeout, sizeof(kPeerTimeout)) ||
      setsockopt(connection.get(), SOL_SOCKET, SO_RCVTIMEO, &kPeerTimeout, sizeof(kPeerTimeout)) ||
      connect(connection.get(), reinterpret_cast<const sockaddr*>(&server), size) != 0) {
    return NotServed(address, ErrnoText());
  }
  if (!IsOurUser(connection.get())) return NotServed(address, "another user serves it");
  int64_t bytes = 0;
  ASSIGN_OR_RETURN(const FileDescriptor region, Receive(connection.get(), address, bytes));
  RETURN_IF_ERROR(CheckSealed(region.get(), bytes, address));
  ASSIGN_OR_RETURN(Mapping mapping, Mapping::Of(region.get(), static_cast<size_t>(bytes), false));
  return std::unique_ptr<MappedRegion>(new MappedRegion(address, std::move(mapping)));
}

absl::StatusOr<std::span<const std::byte>> MappedRegion::At(int64_t offset, int64_t bytes) const {
  if (offset < 0 || bytes < 0 || offset > size() || bytes > size() - offset) {
    return absl::OutOfRangeError(
        absl::StrFormat("%d bytes at %d are not within the %d bytes of shared region '%s'", bytes,
                        offset, size(), address_));
  }
  return std::span<const std::byte>(mapping_.bytes())
      .subspan(static_cast<size_t>(offset), static_cast<size_t>(bytes));
}

}  // namespace chorale
