// Memory that processes of one host and one user read together: the owner writes, others map it
// read-only and copy blocks out of it.
//
//   owner:  SharedRegion (memfd, mapped read-write) --> RegionServer (unix socket, one thread)
//   peer:   MappedRegion::Open(address): connects, gets a read-only descriptor, maps it
//
// A region has its final size from the start, sealed, and all of its memory is there: no access can
// end in SIGBUS. Its address doubles as its name, with a random id in it: a peer that has mapped a
// region of that name has mapped that region. What is read may change under the reader, who copies
// first and verifies the copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"

namespace chorale {

// A file descriptor, closed with it.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// Mapped memory, unmapped with it; at addresses that suit huge pages.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();
  // Maps the first `bytes` of `fd`. ResourceExhausted: no room.
  static absl::StatusOr<Mapping> Of(int fd, size_t bytes, bool writable);

  std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::span<std::byte> reserved_;  // what is unmapped
  std::span<std::byte> bytes_;     // within it
};

class SharedRegion {
 public:
  // Zeroed memory of `bytes`, in huge pages where the kernel has them. ResourceExhausted: there is
  // not so much.
  static absl::StatusOr<std::unique_ptr<SharedRegion>> Create(int64_t bytes);

  std::span<std::byte> bytes() const { return mapping_.bytes(); }
  int fd() const { return fd_.get(); }

 private:
  SharedRegion(FileDescriptor fd, Mapping mapping)
      : fd_(std::move(fd)), mapping_(std::move(mapping)) {}

  FileDescriptor fd_;
  Mapping mapping_;
};

// Hands the region to peers of our own user. It never waits for a peer.
class RegionServer {
 public:
  // Serves `region`, which must outlive the server, under a random name of the host's network
  // namespace. Unavailable: the host lets us have no socket.
  static absl::StatusOr<std::unique_ptr<RegionServer>> Start(const SharedRegion& region);
  ~RegionServer();

  // The region's name, and where it is served: "unix-abstract:chorale-kv-...".
  const std::string& address() const { return address_; }

 private:
  RegionServer() = default;
  void Serve();
  void Greet(int peer);

  std::string address_;
  int64_t region_bytes_ = 0;
  FileDescriptor region_;  // read-only
  FileDescriptor listener_;
  FileDescriptor stop_;  // an eventfd
  std::thread thread_;
};

// Another process's region, read-only. Thread safe.
class MappedRegion {
 public:
  // Unavailable: nobody serves `address` on this host, or it is not our own user who does.
  // FailedPrecondition: what is served there is no sealed region. Takes at most two seconds.
  static absl::StatusOr<std::unique_ptr<MappedRegion>> Open(const std::string& address);

  const std::string& address() const { return address_; }
  int64_t size() const { return static_cast<int64_t>(mapping_.bytes().size()); }
  // OutOfRange: not within the region.
  absl::StatusOr<std::span<const std::byte>> At(int64_t offset, int64_t bytes) const;

 private:
  MappedRegion(std::string address, Mapping mapping)
      : address_(std::move(address)), mapping_(std::move(mapping)) {}

  const std::string address_;
  const Mapping mapping_;
};

}  // namespace chorale
